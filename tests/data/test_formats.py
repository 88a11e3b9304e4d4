"""Each format on a small fixture in exactly the layout that its publisher gives it, with its quirk."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from segtrain.data import ade20k, camvid, cityscapes, coco_stuff, voc2012
from segtrain.data.check import check_labels
from segtrain.data.coco_panoptic import coco_panoptic
from segtrain.data.labels import IGNORE
from segtrain.data.manifest import manifest
from segtrain.data.order import sampling_weights
from segtrain.data.oxford_pets import oxford_pets
from segtrain.errors import DataError

IMAGE = np.zeros((24, 32, 3), np.uint8)


def mask_of(values: list[int], street: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """A street scene whose 7 classes are given the raw values, and where each of them lies."""
    target = street[0][1].copy()
    target[target == IGNORE] = 0
    target[0, : len(values)] = np.arange(len(values))  # each occurs
    return np.array(values)[target], target


class TestCityscapes:
    RAW = (7, 23, 11, 0, 33, 17, 255)  # with a class that is not evaluated and a licence plate
    EXPECTED = (0, 10, 2, 255, 18, 5, 255)

    @pytest.fixture
    def root(self, tmp_path: Path, save, street) -> Path:
        raw, _ = mask_of(list(self.RAW), street)
        for kind, split, city in (
            ("gtFine", "train", "ulm"),
            ("gtFine", "val", "bern"),
            ("gtCoarse", "train_extra", "aix"),
        ):
            stem = f"{city}_000001_000019"
            save(f"cityscapes/leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", street[0][0])
            save(f"cityscapes/{kind}/{split}/{city}/{stem}_{kind}_labelIds.png", raw.astype(np.uint8))
            save(f"cityscapes/{kind}/{split}/{city}/{stem}_{kind}_color.png", IMAGE)
        return tmp_path / "cityscapes"

    @pytest.mark.parametrize(("split", "annotations"), [("train", "fine"), ("val", "fine"), ("train_extra", "coarse")])
    def test_ids_are_mapped_on_reading(self, root: Path, street, split: str, annotations: str):
        dataset = cityscapes.cityscapes(root=root, split=split, annotations=annotations)
        assert len(dataset) == 1
        assert dataset.path(0).startswith(f"leftImg8bit/{split}/")
        _, target = mask_of(list(self.RAW), street)
        assert np.array_equal(dataset[0].target, np.array(self.EXPECTED)[target])
        assert len(dataset.labels.names) == 19

    def test_the_table_is_the_published_one(self):
        train = "7 8 11 12 13 17 19 20 21 22 23 24 25 26 27 28 31 32 33"
        expected = {int(raw): i for i, raw in enumerate(train.split())}
        assert cityscapes.LABELS["labelIds"].table == {raw: expected.get(raw, 255) for raw in (*range(34), 255)}

    def test_converted_files_are_read_too(self, root: Path, save, street):
        name = "gtFine/train/ulm/ulm_000001_000019_gtFine_labelTrainIds.png"
        save(f"cityscapes/{name}", np.where(street[0][1] == IGNORE, IGNORE, street[0][1] + 12).astype(np.uint8))
        target = cityscapes.cityscapes(root=root, files="labelTrainIds")[0].target
        assert set(np.unique(target)) <= {*range(12, 19), IGNORE}

    def test_a_folder_one_level_too_deep_is_found(self, root: Path):
        (root / "inner").mkdir()
        for name in ("leftImg8bit", "gtFine"):
            (root / name).rename(root / "inner" / name)
        with pytest.raises(
            DataError, match=r"leftImg8bit/train does not exist.*one level too deep\? then root: .*inner"
        ):
            cityscapes.cityscapes(root=root)


class TestVoc:
    @pytest.fixture
    def root(self, tmp_path: Path, save) -> Path:
        voc, lists = tmp_path / "VOCdevkit/VOC2012", tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
        lists.mkdir(parents=True)
        raw = np.full((24, 32), 15, np.uint8)
        raw[0], raw[1] = 0, 255
        for name in ("2007_000032", "2007_000039", "2007_000033"):
            save(f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", IMAGE)
            save(f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", raw, palette=True)
        (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
        (lists / "val.txt").write_text("2007_000033\n")
        (lists / "trainval.txt").write_text("2007_000032\n2007_000033\n2007_000039\n")
        for name in ("2007_000032", "2007_000033", "2008_000002"):
            save(f"VOCaug/dataset/img/{name}.jpg", IMAGE)
            file = tmp_path / f"VOCaug/dataset/cls/{name}.mat"
            file.parent.mkdir(exist_ok=True)
            savemat(file, {"GTcls": {"Boundaries": 0, "Segmentation": np.full((24, 32), 20, np.uint8)}})
        (tmp_path / "VOCaug/dataset/train.txt").write_text("2007_000032\n2008_000002\n")
        (tmp_path / "VOCaug/dataset/val.txt").write_text("2007_000033\n")
        return voc

    def test_palette_images_are_indices_and_borders_are_ignored(self, root: Path):
        for split, count in {"train": 2, "val": 1, "trainval": 3}.items():
            dataset = voc2012.voc2012(root=root, split=split)
            assert len(dataset) == count
            assert dataset[0].target[:3, 0].tolist() == [0, 255, 15]
        assert dataset.labels.names[15] == "person"
        assert len(dataset.labels.names) == 21

    def test_more_training_data_never_holds_an_image_of_val_nor_one_twice(self, root: Path, tmp_path: Path):
        dataset = voc2012.voc2012(root=root, split="trainaug", sbd=tmp_path / "VOCaug/dataset")
        assert [dataset.pairs[i].image.stem for i in range(3)] == ["2007_000032", "2007_000039", "2008_000002"]
        assert (dataset[2].target == 20).all()
        (tmp_path / "VOCaug/dataset/cls/2008_000002.mat").write_bytes(b"nothing")
        with pytest.raises(DataError, match=r"2008_000002\.mat cannot be read as labels"):
            dataset[2]


class TestAde:
    @pytest.fixture
    def root(self, tmp_path: Path, save) -> Path:
        raw = np.full((24, 32), 150, np.uint8)
        raw[0], raw[1] = 0, 1
        for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
            save(f"ADEChallengeData2016/images/{folder}/{name}.jpg", IMAGE)
            save(f"ADEChallengeData2016/annotations/{folder}/{name}.png", raw)
        rows = [f"{i}\t0.1\t10\t1\tthing {i}, other name" for i in range(1, 151)]
        rows[29] = rows[29].replace("thing 30", "screen")
        rows[130] = rows[130].replace("thing 131", "screen")
        root = tmp_path / "ADEChallengeData2016"
        (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
        return root

    def test_0_is_ignored_and_classes_count_from_1(self, root: Path):
        for split in ("train", "val"):
            dataset = ade20k.ade20k(root=root, split=split)
            assert dataset[0].target[:3, 0].tolist() == [255, 0, 149]
        assert dataset.labels.names[:2] == ("thing 1", "thing 2")
        assert (dataset.labels.names[29], dataset.labels.names[130]) == ("screen 30", "screen 131")

    def test_the_full_ade20k_is_refused_with_a_hint(self, root: Path):
        (root / "index_ade20k.pkl").touch()
        with pytest.raises(DataError, match=r"is the full ADE20K.*needed is ADEChallengeData2016"):
            ade20k.ade20k(root=root)


class TestOxfordPets:
    @pytest.fixture
    def root(self, tmp_path: Path, save) -> Path:
        root = tmp_path / "oxford-iiit-pet"
        rows = ["Abyssinian_100 1 1 1", "american_bulldog_10 2 2 1", "Birman_3 3 1 2"]
        for row in rows:
            save(f"oxford-iiit-pet/images/{row.split()[0]}.jpg", IMAGE)
            raw = np.full((24, 32), 2, np.uint8)
            raw[0], raw[1] = 1, 3
            save(f"oxford-iiit-pet/annotations/trimaps/{row.split()[0]}.png", raw)
        save("oxford-iiit-pet/annotations/trimaps/._Birman_3.png", np.zeros((1, 1), np.uint8))
        (root / "annotations/trainval.txt").write_text("\n".join(rows) + "\n")
        (root / "annotations/test.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n" + "\n".join(rows) + "\n")
        return root

    @pytest.mark.parametrize("split", ["trainval", "test"])
    def test_trimaps_are_background_pet_and_ignored_or_a_third_class(self, root: Path, split: str):
        dataset = oxford_pets(root=root, split=split)
        assert dataset.labels.names == ("background", "pet")
        assert dataset[0].target[:3, 0].tolist() == [1, 255, 0]
        bordered = oxford_pets(root=root, split=split, border="class")
        assert bordered.labels.names == ("background", "pet", "border")
        assert bordered[0].target[:3, 0].tolist() == [1, 2, 0]

    def test_breeds_count_from_0_and_are_named_by_the_files(self, root: Path):
        dataset = oxford_pets(root=root, target="breed")
        assert dataset.kind == "classification"
        assert dataset.labels.names == ("Abyssinian", "american_bulldog", "Birman")
        assert [int(dataset[i].target) for i in range(3)] == [0, 1, 2]

    def test_other_lines_are_an_error(self, root: Path):
        (root / "annotations/test.txt").write_text("Abyssinian_100.jpg\n")
        with pytest.raises(DataError, match="lines that are not 'Id CLASS SPECIES BREED'"):
            oxford_pets(root=root, split="test")


class TestCocoPanoptic:
    @pytest.fixture
    def root(self, tmp_path: Path, save) -> Path:
        ids = np.zeros((24, 32), np.int64)
        ids[1], ids[2], ids[3:] = 70_000, 255, 16_000_000
        save("coco/val2017/000000000139.jpg", IMAGE)
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
        save("coco/annotations/panoptic_val2017/000000000139.png", colors)
        categories = [(200, "rug"), (1, "person"), (90, "toothbrush")]
        segments = [(70_000, 90, 0), (255, 1, 1), (16_000_000, 200, 0)]
        content = {
            "images": [{"id": 139, "file_name": "000000000139.jpg"}],
            "categories": [{"id": i, "name": name, "isthing": 1, "color": [i % 256, 1, 2]} for i, name in categories],
            "annotations": [
                {
                    "image_id": 139,
                    "file_name": "000000000139.png",
                    "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
                }
            ],
        }
        (tmp_path / "coco/annotations/panoptic_val2017.json").write_text(json.dumps(content))
        return tmp_path / "coco"

    def test_segments_become_classes_and_void_and_crowds_are_ignored(self, root: Path):
        dataset = coco_panoptic(root=root, split="val")
        assert dataset.labels.names == ("person", "toothbrush", "rug")
        assert dataset.labels.palette[0] == (1, 1, 2)
        sample = dataset[0]
        assert sample.target[:4, 0].tolist() == [255, 1, 255, 2]
        assert (sample.target.dtype, sample.id) == (np.uint8, "val2017/000000000139.jpg")
        assert coco_panoptic(root=root, split="val", crowd="keep")[0].target[:4, 0].tolist() == [255, 1, 0, 2]
        assert check_labels(dataset).startswith("labels of 1 samples ok")

    def test_a_segment_without_information_is_an_error(self, root: Path, save):
        for value, segment in ((9, 592137), (255, 16777215)):
            save("coco/annotations/panoptic_val2017/000000000139.png", np.full((24, 32, 3), value, np.uint8))
            with pytest.raises(DataError, match=rf"000000000139\.png holds segment {segment} \(768 pixels"):
                coco_panoptic(root=root, split="val")[0]
        save("coco/annotations/panoptic_val2017/000000000139.png", np.full((24, 32), 9, np.uint8))
        with pytest.raises(DataError, match="is not RGB; segment ids are coded"):
            coco_panoptic(root=root, split="val")[0]

    def test_another_json_file_is_an_error(self, root: Path):
        file = root / "annotations/panoptic_val2017.json"
        content = json.loads(file.read_text())
        content["annotations"][0]["segments_info"][0]["category_id"] = 77
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match="an annotation without, or with an unknown, 77"):
            coco_panoptic(root=root, split="val")
        file.write_text('{"categories": []}')
        with pytest.raises(DataError, match="lacks annotations, images"):
            coco_panoptic(root=root, split="val")


def test_coco_stuff_closes_the_gaps_between_its_values(tmp_path: Path, save):
    raw = np.full((24, 32), 181, np.uint8)
    raw[0], raw[1], raw[2], raw[3] = 0, 10, 12, 255
    save("coco_stuff/images/train2017/000000000009.jpg", IMAGE)
    save("coco_stuff/annotations/train2017/000000000009.png", raw)
    dataset = coco_stuff.coco_stuff(root=tmp_path / "coco_stuff")
    assert dataset[0].target[:5, 0].tolist() == [0, 10, 11, 255, 170]
    assert [dataset.labels.names[i] for i in (0, 10, 11, 79, 80, 170)] == [
        *("person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood")
    ]
    assert len(dataset.labels.names) == len(set(dataset.labels.names)) == 171
    assert set(range(182)) - dataset.labels.table.keys() == {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    raw[0] = 11
    save("coco_stuff/annotations/train2017/000000000009.png", raw)
    with pytest.raises(DataError, match=r"holds 11 \(32 pixels\)"):
        dataset[0]


class TestCamvidOriginal:
    @pytest.fixture
    def root(self, tmp_path: Path, save) -> Path:
        names = sorted(part for parts in camvid.PARTS.values() for part in parts)
        colors = {name: (64 * (i % 4), 64 * (i // 4 % 4), 10 + i) for i, name in enumerate(names)} | {"Void": (0, 0, 0)}
        for stem in ("0001TP_006690", "Seq05VD_f00000"):
            save(f"CamVid/701_StillsRaw_full/{stem}.png", IMAGE[:1, :4])
            label = [colors[name] for name in ("LaneMkgsDriv", "Train", "Void", "Sky")]
            save(f"CamVid/LabeledApproved_full/{stem}_L.png", np.array([label], np.uint8))
        lines = [f"{r} {g} {b}\t\t{name}" for name, (r, g, b) in colors.items()]
        (tmp_path / "CamVid/label_colors.txt").write_text("\r\n".join(lines))
        return tmp_path / "CamVid"

    def test_32_colours_become_11_classes_or_31(self, root: Path):
        dataset = camvid.camvid_original(root=root)
        assert len(dataset) == 2
        assert dataset.labels.names == camvid.LABELS.names
        assert dataset[0].target.tolist() == [[3, 8, 255, 0]]
        every = camvid.camvid_original(root=root, classes=32)
        assert len(every.labels.names) == 31
        assert [every.labels.names[i] for i in every[0].target[0, :2]] == ["LaneMkgsDriv", "Train"]
        assert every[0].target[0, 2] == 255

    def test_a_list_makes_a_split(self, root: Path):
        (root / "val.txt").write_text("Seq05VD_f00000\n")
        dataset = camvid.camvid_original(root=root, files=Path("val.txt"))
        assert [dataset.path(i) for i in range(len(dataset))] == ["701_StillsRaw_full/Seq05VD_f00000.png"]

    def test_another_table_of_colours_is_an_error(self, root: Path):
        file = root / "label_colors.txt"
        file.write_text(file.read_text().replace("Bridge", "Brigde"))
        with pytest.raises(DataError, match="differ in Bridge, Brigde"):
            camvid.camvid_original(root=root)
        file.write_text("1 2 Sky\n")
        with pytest.raises(DataError, match="R G B name"):
            camvid.camvid_original(root=root)


class TestManifest:
    @pytest.fixture
    def write(self, tmp_path: Path, save):
        for name in "abc":
            save(f"set/i/{name}.png", IMAGE)
            save(f"set/m/{name}.png", np.full((24, 32), ord(name) - ord("a"), np.uint8))

        def table(text: str) -> Path:
            (tmp_path / "set" / "table.csv").write_text(text, encoding="utf-8-sig")
            return tmp_path / "set" / "table.csv"

        return table

    def test_masks_by_split(self, write):
        file = write(
            'image,mask,split,note\ni/a.png,m/a.png,train,"x, y"\ni/b.png,m/b.png,val,\ni/c.png, m/c.png,train,\n'
        )
        dataset = manifest(file=file, split="train", names=["a", "b", "c"])
        assert [(dataset.path(i), int(dataset[i].target[0, 0])) for i in range(2)] == [("i/a.png", 0), ("i/c.png", 2)]
        assert len(manifest(file=file, names=["a", "b", "c"])) == 3
        with pytest.raises(DataError, match="no row of split 'test'; there are train, val"):
            manifest(file=file, split="test", names=["a"])

    def test_labels_are_sorted_names_or_those_given(self, write):
        file = write("image,label\ni/a.png,dog\ni/b.png,cat\ni/c.png,dog\n")
        dataset = manifest(file=file)
        assert dataset.kind == "classification"
        assert dataset.labels.names == ("cat", "dog")
        assert [int(dataset[i].target) for i in range(3)] == [1, 0, 1]
        assert manifest(file=file, names=["dog", "cat", "cow"])[0].target == 0
        with pytest.raises(DataError, match="labels that are not among names: dog"):
            manifest(file=file, names=["cat"])
        with pytest.raises(DataError, match="has no column split; leave split out"):
            manifest(file=file, split="train")
        with pytest.raises(ValueError, match="are for masks"):
            manifest(file=file, values={0: "x"})

    def test_rows_are_drawn_as_often_as_their_weights_say(self, write):
        rows = "image,{},split,weight\ni/a.png,{},train,3\ni/b.png,{},val,\ni/c.png,{},train,0.5\n"
        masks = manifest(
            file=write(rows.format("mask", "m/a.png", "m/b.png", "m/c.png")), split="train", names=[*"abc"]
        )
        classes = manifest(file=write(rows.format("label", "dog", "cat", "cat")), split="train")
        for dataset in (masks, classes):
            assert sampling_weights(dataset).tolist() == [3, 0.5]
        for weight, said in {"": "weight ''", "much": "weight 'much'", "-1": "from 0 on", "inf": "'inf'"}.items():
            with pytest.raises(DataError, match=said):
                manifest(file=write(f"image,mask,weight\ni/a.png,m/a.png,1\ni/b.png,m/b.png,{weight}\n"), names=["a"])
        with pytest.raises(DataError, match="weights of all 1 rows are 0"):
            manifest(file=write("image,mask,weight\ni/a.png,m/a.png,0\n"), names=["a"])

    def test_wrong_tables_say_what_is_needed(self, write, tmp_path: Path):
        for text, said in {
            "image,mask,label\na,b,c\n": "needed are image and one of mask and label",
            "a.png,b.png\n": "columns a.png, b.png; needed",
            "image,mask\n": "has a header and no rows",
            "": "table.csv is empty; needed are image",
            "image;mask\na;b\n": "separated by commas",
            "image,mask,mask\na,b,c\n": "several columns called mask",
            "image,mask\ni/a.png,m/a.png\n\ni/b.png\n": r"table\.csv:4 has 1 cells, the header has 2",
            "image,mask\ni/a, b.png,m/a.png\n": r"table\.csv:2 has 3 cells",
            "image,mask\ni/a.png,\n": r"table\.csv:2 has no mask",
            'image,mask\n"a,b\n': "cannot be read as CSV",
            "image,mask\ni/a.png,m/z.png\n": r"1 of 1 samples lacks a file: i/a\.png \(looked for m/z\.png\)",
        }.items():
            with pytest.raises(DataError, match=said):
                manifest(file=write(text), names=["a"])
        with pytest.raises(DataError, match=r"no\.csv does not exist"):
            manifest(file=tmp_path / "no.csv")
