"""Shards: what is written is read back, from any disk, in the order that the loader's contract wants."""

import json
import os
import tarfile
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from segtrain.data.image_folder import image_folder
from segtrain.data.loading import train_loader
from segtrain.data.scenes import Scenes
from segtrain.data.shard_cache import ShardCache
from segtrain.data.shard_files import write_shards
from segtrain.data.shards import shards
from segtrain.errors import DataError

SCENES = Scenes("train", 23, (24, 32), 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """23 scenes in 6 shards."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_shards(folder, "train", SCENES, shard_bytes=10_000)
    write_shards(folder, "val", Scenes("val", 3, (24, 32), 0), shard_bytes=10_000)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("train-*.tar"))


def test_samples_are_what_they_were(folder):
    dataset = shards(root=folder)
    assert len(files(folder)) > 3
    assert (len(dataset), dataset.kind, dataset.labels.names) == (23, "segmentation", SCENES.labels.names)
    for i in range(23):
        before, after = SCENES[i], dataset[i]
        assert np.array_equal(before.image, after.image)
        assert np.array_equal(before.target, after.target)
        assert after.id == dataset.path(i)
        assert after.id.endswith(f"/{i:05d}")
    assert len(shards(root=folder, split="val")) == 3


def test_mixed_samples_are_a_permutation(tmp_path):
    write_shards(tmp_path, "train", SCENES, seed=0)
    dataset, order = shards(root=tmp_path), np.random.default_rng(0).permutation(23)
    assert all(np.array_equal(dataset[i].image, SCENES[order[i]].image) for i in range(23))


def test_classes_are_stored_in_the_index_and_for_others_beside_the_image(tmp_path, save):
    for number, name in enumerate(("cat/a", "dog/b", "dog/c")):
        save(f"pets/train/{name}.png", np.full((4, 5, 3), number, np.uint8))
    dataset = image_folder(root=tmp_path / "pets")
    out = tmp_path / "out"
    out.mkdir()
    write_shards(out, "train", dataset)
    written = shards(root=out)
    assert written.kind == "classification"
    assert [int(written[i].target) for i in range(3)] == [0, 1, 1]
    assert [int(written[i].image[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    with tarfile.open(out / "train-000000.tar") as tar:
        assert tar.getnames() == [f"{name}{end}" for name in ("cat/a", "dog/b", "dog/c") for end in (".png", ".cls")]


def test_writing_twice_gives_the_same_bytes(folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    write_shards(again, "train", SCENES, shard_bytes=10_000)
    for name in [*files(folder), "train.index.npy"]:
        assert (folder / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.parametrize("window", [None, 2])
def test_every_sample_comes_once_in_an_epoch_over_all_ranks_and_a_start_anywhere_goes_on_exactly(folder, window):
    dataset = shards(root=folder, window=window)
    loaders = [train_loader(dataset, [], batch_size=2, workers=0, seed=3, rank=rank, world=3) for rank in range(3)]
    per_epoch = loaders[0].batches_per_epoch
    batches = [list(islice(loader.start(), 3 * per_epoch)) for loader in loaders]
    for epoch in range(3):
        ids = [name for of_rank in batches for batch in of_rank[epoch * per_epoch :][:per_epoch] for name in batch.ids]
        assert len(ids) == len(set(ids)) == 18
    for start in range(3 * per_epoch):
        again = next(loaders[1].start(start))
        assert again.ids == batches[1][start].ids
        assert (again.image == batches[1][start].image).all()
    assert batches[0][0].ids != batches[0][per_epoch].ids


def test_a_window_reads_each_shard_in_one_stretch(folder):
    dataset = shards(root=folder, window=2)
    order = dataset.order(np.random.default_rng(0))
    assert sorted(order) == list(range(23))
    of_shard = dataset.described.rows[order, 0]
    spans = [np.flatnonzero(of_shard == shard) for shard in range(len(files(folder)))]
    largest = max(shard.samples for shard in dataset.described.shards)
    assert all(span.max() - span.min() < 2 * largest for span in spans)
    firsts = {int(dataset.described.rows[dataset.order(np.random.default_rng(seed))[0], 0]) for seed in range(20)}
    assert len(firsts) > 3, "the shards themselves come in another order each time"


def test_shards_may_lie_on_several_disks(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    moved = files(folder)[1]
    (folder / moved).rename(other / moved)
    with pytest.raises(DataError, match=rf"{moved} is in none of .*; fetch it, or name its folder in places"):
        [shards(root=folder)[i] for i in range(23)]
    dataset = shards(root=folder, places=[other])
    assert np.array_equal(dataset[22].image, SCENES[22].image)
    assert all(np.array_equal(dataset[i].image, SCENES[i].image) for i in range(23))


class TestCache:
    def test_whole_shards_are_copied_once_and_read_from_then_on(self, folder, tmp_path):
        local = tmp_path / "local"
        dataset = shards(root=folder, cache=local)
        assert all(np.array_equal(dataset[i].image, SCENES[i].image) for i in range(23))
        assert len(list(local.glob("*.tar"))) == len(files(folder))
        for name in files(folder):
            (folder / name).unlink()
        assert all(np.array_equal(dataset[i].target, SCENES[i].target) for i in range(23))

    @pytest.mark.parametrize("evict", [False, True])
    def test_it_stays_within_its_limit(self, folder, tmp_path, evict):
        sizes = [(folder / name).stat().st_size for name in files(folder)]
        limit = 2 * max(sizes)
        cache = ShardCache(tmp_path / "local", limit, evict)
        for number, name in enumerate(files(folder)):
            local = cache.local(f"{number}.tar", sizes[number], [folder / name])
            assert (local is not None) == (evict or number < 2)
            assert sum(path.stat().st_size for path in (tmp_path / "local").glob("*.tar")) <= limit
        kept = {path.name for path in (tmp_path / "local").glob("*.tar")}
        assert ("0.tar" in kept) != evict

    def test_a_copy_cut_short_is_not_used(self, folder, tmp_path):
        dataset = shards(root=folder, cache=tmp_path / "local")
        first = dataset[0]
        copy = next((tmp_path / "local").glob("*.tar"))
        os.truncate(copy, 100)
        assert np.array_equal(dataset[0].image, first.image)
        assert copy.stat().st_size == dataset.described.shards[0].bytes

    def test_a_folder_that_cannot_be_written_is_no_error(self, folder):
        dataset = shards(root=folder, cache=Path("/proc/nothing"))
        assert np.array_equal(dataset[0].image, SCENES[0].image)

    @pytest.mark.distributed
    def test_processes_share_it(self, folder, tmp_path):
        dataset = shards(root=folder, cache=tmp_path / "local")
        with get_context("fork").Pool(4) as pool:
            images = pool.map(_image, [(dataset, i) for i in range(23)])
        assert all(np.array_equal(image, SCENES[i].image) for i, image in enumerate(images))
        assert not list((tmp_path / "local").glob("*unfinished"))


def _image(task):
    dataset, index = task
    return dataset[index].image


class TestDamage:
    def test_a_shard_that_was_copied_in_part_is_named(self, folder):
        name = files(folder)[-1]
        os.truncate(folder / name, 1000)
        with pytest.raises(DataError, match=rf"{name} has 1,000 of [\d,]+ bytes: it was copied in part"):
            [shards(root=folder)[i] for i in range(23)]

    def test_an_image_that_changed_is_named_with_its_shard(self, folder):
        dataset, name = shards(root=folder), files(folder)[0]
        row = dataset._row(1)
        content = bytearray((folder / name).read_bytes())
        content[row.image + row.image_size // 2] ^= 0xFF
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}/00001\.png cannot be read"):
            dataset[1]

    def test_an_index_of_another_conversion_is_refused(self, folder):
        rows = np.load(folder / "train.index.npy")
        np.save(folder / "train.index.npy", rows[:-1])
        with pytest.raises(DataError, match=r"has \(22, 5\) entries .* 23 samples: they are of different conversions"):
            shards(root=folder)
        np.save(folder / "train.index.npy", rows + np.array([0, 512, 0, 512, 0]))
        with pytest.raises(DataError, match=r"has no image of .* bytes at .*, where the index says one is"):
            shards(root=folder)[0]

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/b.tar"])
    def test_no_shard_lies_outside(self, folder, name):
        content = json.loads((folder / "shards.json").read_text())
        content["splits"]["train"]["shards"][0]["file"] = name
        (folder / "shards.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="a shard lies beside it, without folders"):
            shards(root=folder)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "else"}', "nothing"])
    def test_what_does_not_describe_shards_is_refused(self, folder, text):
        (folder / "shards.json").write_text(text)
        with pytest.raises(DataError, match=r"shards\.json"):
            shards(root=folder)

    def test_an_index_with_objects_is_not_loaded(self, folder):
        np.save(folder / "train.index.npy", np.array([{"a": 1}], object), allow_pickle=True)
        with pytest.raises(DataError, match="do not describe shards"):
            shards(root=folder)

    def test_a_split_that_is_not_there_is_named_with_those_that_are(self, folder):
        with pytest.raises(DataError, match="no split 'test'; there are train, val"):
            shards(root=folder, split="test")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
def test_webdataset_reads_them_as_well(folder):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(folder / name) for name in files(folder)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert len(samples) == 23
    for i, sample in enumerate(samples):
        assert np.array_equal(sample["png"], SCENES[i].image)
        assert sample["__key__"] == f"{i:05d}"
        assert "seg.png" in sample
