"""The data command on small sets, whole and broken in every way that people break them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segtrain.build import build, register_components
from segtrain.cli.data import main
from segtrain.config import load
from segtrain.data.survey import form

ROOT = Path(__file__).parents[2]
BOOTSTRAP = str(ROOT / "configs" / "bootstrap.yaml")

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture
def told(told_by):
    return told_by(main)


@pytest.fixture
def config(in_tmp, told):
    """A configuration of 6 + 1 scenes that lie in set/ as folder_pairs."""
    assert told("synth", "--out", "set", "--n", 6, "--size", "24x32")[0] == 0
    return as_config("set/data.yaml", "config.yaml")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def as_config(section, file, task="segmentation"):
    content = yaml.safe_load(Path(BOOTSTRAP).read_text()) | {"task": task}
    content["data"] = yaml.safe_load(Path(section).read_text())["data"] | {
        "batch_size": 2,
        "workers": 0,
        "augment": [{"name": "RandomScaleCrop", "size": [16, 16]}],
    }
    Path(file).write_text(yaml.safe_dump(content))
    return file


def test_help_needs_no_torch():
    code = "import sys, segtrain.cli.data as d; d.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class TestCheck:
    def test_a_good_set_is_told_in_numbers(self, told, config):
        code, out, _ = told("check", config)
        assert code == 0
        assert "6 samples, all read" in out
        assert "all PNG RGB" in out
        assert "sizes 32x24" in out
        assert "all PNG L" in out
        assert "no problem found in 7 samples" in out

    def test_the_counts_are_those_of_the_files(self, told, config):
        masks = [pixels(path) for path in Path("set/masks/train").iterdir()]
        values, counts = np.unique(np.stack(masks), return_counts=True)
        report = json.loads(told("check", config, "--json")[1])
        told_counts = {row["value"]: row["pixels"] for row in report["splits"]["train"]["values"]}
        assert told_counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert report["ok"]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_everything_wrong_is_listed_with_file_and_remedy(self, told, config, workers):
        train = Path("set/images/train")
        masks = Path("set/masks/train")
        names = [f"{i:06d}.png" for i in range(6)]
        content = (train / names[0]).read_bytes()
        (train / names[0]).write_bytes(content[:-200])
        (train / names[1]).write_bytes(b"")
        (train / names[2]).write_bytes(b"<!DOCTYPE html><title>404</title>")
        Image.fromarray(np.zeros((10, 10), np.uint8)).save(masks / names[3])
        wrong = pixels(masks / names[4]).copy()
        wrong[0, :5] = 77
        Image.fromarray(wrong).save(masks / names[4])
        (masks / names[5]).unlink()
        code, out, _ = told("check", config, "--workers", workers)
        assert code == 2
        for expected in (
            "000000.png cannot be read: ",
            "000001.png is empty (0 bytes)",
            "000002.png cannot be read: it is a web page, not an image; fetch it again",
            "000003.png is 10x10",
            "000004.png holds 77 (5 pixels); known are 0..6, 255",
            "missing: 000005.png (looked for masks/train/000005.*)",
            "leave it out with data.train.missing: skip",
            "5 not usable",
            "bad    6 problems",
        ):
            assert expected in out
        assert "? (in files that are not usable)" in out

    def test_a_mask_in_another_mode_is_told(self, told, config):
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save("set/masks/train/000000.png")
        code, out, _ = told("check", config)
        assert code == 2
        assert "000000.png is RGB (32x24x3), a class-index image is needed" in out
        assert "PNG L (5), PNG RGB (1)" in out

    def test_one_image_in_two_splits_is_wrong_even_when_it_was_saved_anew(self, told, config):
        Image.fromarray(pixels("set/images/train/000002.png")).save("set/images/val/000006.bmp")
        Path("set/images/val/000006.png").unlink()
        code, out, _ = told("check", config)
        assert code == 2
        assert "one image in several splits, with different labels: train: images/train/000002.png = val: " in out

    def test_one_image_twice_in_a_split_is_a_note(self, told, config):
        for kind in ("images", "masks"):
            Path(f"set/{kind}/train/again.png").write_bytes(Path(f"set/{kind}/train/000002.png").read_bytes())
        code, out, _ = told("check", config)
        assert code == 0
        assert "note   1 images occur more than once: images/train/" in out

    def test_masks_of_0_and_255_are_understood(self, told, config):
        for mask in Path("set/masks").rglob("*.png"):
            Image.fromarray(((pixels(mask) == 3) * 255).astype(np.uint8)).save(mask)
        two = ["data.train.names=[other,road]", "data.val.names=[other,road]"]
        code, out, _ = told("check", config, *two)
        assert code == 2
        assert "If 255 means road, set values: {0: other, 255: road}" in out
        named = [
            f"data.{split}.{key}"
            for split in ("train", "val")
            for key in ("names=null", "values={0: other, 255: road}")
        ]
        assert told("check", config, *named)[0] == 0

    def test_missing_files_that_are_left_out_are_a_note(self, told, config):
        Path("set/masks/train/000003.png").unlink()
        code, out, _ = told("check", config, "data.train.missing=skip")
        assert code == 0
        assert "1 of 6 samples lacks a file and is left out" in out

    def test_many_missing_files_are_counted_and_not_all_printed(self, told, in_tmp):
        assert told("synth", "--out", "set", "--n", 30, "--size", "16x16")[0] == 0
        for mask in list(Path("set/masks/train").iterdir())[:25]:
            mask.unlink()
        code, out, _ = told("check", as_config("set/data.yaml", "config.yaml"))
        assert (code, out.count("missing: 0000")) == (2, 20)
        assert "missing: 5 more (--json lists all)" in out
        assert "bad    25 problems" in out
        report = json.loads(told("check", "config.yaml", "--json")[1])
        assert len(report["splits"]["train"]["problems"]) == 25

    def test_a_split_that_cannot_be_made_does_not_hide_the_other(self, told, config):
        code, out, _ = told("check", config, "data.train.root=nowhere")
        assert code == 2
        assert "Expected layout: nowhere/images/train" in out
        assert "1 samples, all read" in out

    def test_what_is_left_out_by_the_configuration_is_still_found(self, told, config):
        Path("set/images/train/000001.png").write_bytes(b"")
        inner = yaml.safe_load(Path(config).read_text())["data"]["train"]
        override = "data.train=" + json.dumps({"name": "readable", "of": inner})
        code, out, _ = told("check", config, override)
        assert code == 2
        assert "000001.png is empty" in out


def test_a_crashing_decoder_names_its_file(told, config, monkeypatch):
    import os

    from segtrain.data import pairs, survey

    real = pairs.read_image

    def crash(path):
        if path.name == "000003.png":
            os.abort()
        return real(path)

    monkeypatch.setattr(pairs, "read_image", crash)
    register_components()
    loaded, source = load(config)
    from segtrain.maker import Maker

    dataset = Maker(source).make(loaded.data.train)
    seen = list(survey.looks(dataset, range(6), workers=2))
    assert [one.id[-10:] for one in seen] == [f"{i:06d}.png" for i in range(6)]
    assert [bool(one.errors) for one in seen] == [False] * 3 + [True] + [False] * 2
    assert "crashed the process" in seen[3].errors[0]


def test_stats_are_those_of_the_pixels(told, config):
    report = json.loads(told("stats", config, "--json")[1])
    images = np.stack([pixels(path) for path in sorted(Path("set/images/train").iterdir())])
    train = report["splits"]["train"]
    assert np.allclose(train["mean"], images.reshape(-1, 3).mean(0))
    assert np.allclose(train["std"], images.reshape(-1, 3).std(0))
    masks = np.stack([pixels(path) for path in Path("set/masks/train").iterdir()])
    assert train["classes"]["road"] == {
        "pixels": int((masks == 3).sum()),
        "images": int((masks == 3).any((1, 2)).sum()),
    }
    assert set(report["class_weights"]) == {"inverse_frequency", "median_frequency", "effective_number"}
    assert "of labelled pixels" in told("stats", config)[1]


class TestBrowse:
    def test_augmented_is_what_the_first_batch_holds(self, told, config):
        from segtrain.cli.data.browse import _augmented
        from segtrain.cli.data.common import component
        from segtrain.maker import Maker

        register_components()
        loaded, source = load(config)
        maker = Maker(source)
        shown = _augmented(loaded, maker, maker.make(component(loaded, "train")), 4)
        import torch

        loader = build(loaded, source, torch.device("cpu")).loader
        batches = loader.start()
        for pair in (shown[:2], shown[2:]):
            batch = next(batches)
            assert batch.ids == tuple(one.id for one in pair)
            assert all((batch.image[i].permute(1, 2, 0).numpy() == one.image).all() for i, one in enumerate(pair))
            assert all((batch.target[i].numpy() == one.target).all() for i, one in enumerate(pair))

    def test_a_picture_is_written_once(self, told, config):
        code, _, _ = told("browse", config, "--n", 3, "--out", "pictures")
        assert code == 0
        assert pixels("pictures/config-train.png").shape[1] > 200
        code, _, err = told("browse", config, "--n", 3, "--out", "pictures")
        assert (code, "exists; give another --out, or --overwrite" in err) == (2, True)
        assert told("browse", config, "--n", 3, "--out", "pictures", "--overwrite")[0] == 0
        assert told("browse", config, "--augmented", "--split", "val")[0] == 2


class TestSplit:
    def test_lists_are_what_folder_pairs_reads(self, told, config):
        assert told("split", config, "--ratio", "0.5,0.5", "--out", "lists")[0] == 2  # val lies in another folder
        code, out, err = told("split", config, "--of", "train", "--ratio", "0.5,0.5", "--out", "lists")
        assert code == 0, err
        files = [f"data.{split}.files={Path('lists', split + '.txt').absolute()}" for split in ("train", "val")]
        code, out, _ = told("check", config, *files, "data.val.split=train")
        assert (code, out.count("3 samples, all read")) == (0, 2)
        assert "exists; give another --out" in told("split", config, "--of", "train", "--out", "lists")[2]

    def test_lists_of_any_data_set_are_read_by_listed(self, told, in_tmp):
        assert told("synth", "--layout", "camvid", "--out", "set", "--n", 8, "--size", "24x32")[0] == 0
        config = as_config("set/data.yaml", "config.yaml")
        code, out, err = told("split", config, "--ratio", "0.6,0.4", "--out", "lists")
        assert code == 0, err
        assert "&" not in out, "configurations have no aliases"
        Path("lists.yaml").write_text(out[out.index("data:") :])
        code, out, err = told("check", as_config("lists.yaml", "new.yaml"))
        assert (code, out.count("samples, all read")) == (0, 2), out + err
        first, second = (Path("lists", f"{split}.txt").read_text().split() for split in ("train", "val"))
        assert (len(first), len(second), len({*first} & {*second})) == (6, 4, 0)

    def test_samples_of_one_name_in_several_splits_are_not_mixed_up(self, told, in_tmp):
        assert told("synth", "--layout", "image_folder", "--out", "set", "--n", 8, "--size", "24x32")[0] == 0
        config = as_config("set/data.yaml", "config.yaml", "classification")
        shutil.rmtree("set/val")
        shutil.copytree("set/train", "set/val")
        code, _, err = told("split", config, "--out", "lists")
        assert (code, "would both be called" in err) == (2, True)
        assert told("split", config, "--of", "train", "--ratio", "0.5,0.5", "--out", "lists")[0] == 0

    def test_groups(self, told, config):
        for kind in ("images", "masks"):
            for path in Path(f"set/{kind}/train").iterdir():
                path.rename(path.with_name(f"seq{int(path.stem) // 2}_{path.name}"))
        code, _, _ = told(
            "split", config, "--of", "train", "--ratio", "0.67,0.33", "--group-by", "^(seq[0-9]+)_", "--out", "l"
        )
        assert code == 0
        lists = [{line.split("_")[0] for line in Path(f"l/{s}.txt").read_text().split()} for s in ("train", "val")]
        assert [len(groups) for groups in lists] == [2, 1]
        assert not lists[0] & lists[1]
        assert told("split", config, "--of", "train", "--group-by", "^x", "--out", "m")[0] == 2
        assert told("split", config, "--of", "train", "--group-by", "(", "--out", "m")[0] == 2


class TestConvert:
    def test_a_folder_that_cannot_be_made_is_said(self, told, config):
        for arguments in (["convert", config, "set/data.yaml/new"], ["synth", "--out", "set/data.yaml/new"]):
            code, _, err = told(*arguments)
            assert (code, "cannot be written: " in err, "Traceback" in err) == (2, True, False)
        code, _, err = told("split", config, "--of", "train", "--ratio", "0.5,0.5", "--out", "set/data.yaml/new")
        assert (code, "cannot be written: " in err) == (2, True)

    def test_an_empty_folder_is_filled_also_if_it_is_the_current_one(self, told, in_tmp, monkeypatch):
        (in_tmp / "empty").mkdir()
        monkeypatch.chdir(in_tmp / "empty")
        assert told("synth", "--n", "2", "--out", ".")[0] == 0
        assert {path.name for path in Path().absolute().iterdir()} == {"images", "masks", "data.yaml"}

    def test_a_name_that_is_too_long_is_said(self, told, in_tmp):
        code, _, err = told("synth", "--out", "x" * 300)
        assert (code, "cannot be written: File name too long" in err) == (2, True)

    def test_changes_may_stand_after_the_folder(self, told, config):
        assert told("convert", config, "new", "data.workers=0", "data.batch_size=1")[0] == 0
        assert Path("new/data.yaml").exists()
        with pytest.raises(SystemExit):
            told("convert", config, "new", "other")

    @pytest.mark.parametrize("layout", ["folder_pairs", "shards"])
    def test_samples_stay_what_they_are(self, told, config, layout):
        code, out, err = told("convert", config, "new", "--to", layout)
        assert code == 0, err
        assert "train 6 samples, 6 read back: identical" in out
        before, after = (
            json.loads(told("check", file, "--json")[1]) for file in (config, as_config("new/data.yaml", "n.yaml"))
        )
        for split in ("train", "val"):
            assert before["splits"][split]["classes"] == after["splits"][split]["classes"]
            assert before["splits"][split]["ignored"] == after["splits"][split]["ignored"]

    def test_colours_become_indices(self, told):
        assert told("synth", "--layout", "camvid_original", "--out", "set", "--n", 3)[0] == 0
        config = as_config("set/data.yaml", "c.yaml")
        assert told("convert", config, "new")[0] == 0
        masks = list(Path("new/masks/train").iterdir())
        assert len(masks) == 3
        assert all(form(mask) == "PNG P" for mask in masks)

    def test_a_folder_in_use_is_left_alone(self, told, config):
        Path("new").mkdir()
        Path("new/mine.txt").write_text("precious")
        for arguments in (["convert", config, "new"], ["synth", "--out", "new"]):
            code, _, err = told(*arguments)
            assert (code, "new exists and is not empty; nothing is overwritten" in err) == (2, True)
        assert [path.name for path in Path("new").iterdir()] == ["mine.txt"]

    def test_nothing_half_written_stays(self, told, config):
        Path("set/images/train/000003.png").write_bytes(b"")
        before = set(Path().iterdir())
        assert told("convert", config, "new")[0] == 2
        assert told("convert", config, "new", "--to", "shards")[0] == 2
        assert set(Path().iterdir()) == before


def test_flags_that_make_no_sense_are_usage_errors(told):
    for arguments in (
        ["check"],
        ["split", "c.yaml", "--ratio", "0.8,0.3", "--out", "x"],
        ["synth", "--size", "9"],
        ["mend"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert told("check", "nothing.yaml")[0] == 2
