"""A first day with a folder of one's own: nothing divided, masks with a suffix, labels as some tool saved them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segtrain.build import Limits, build, register_components
from segtrain.cli import main
from segtrain.cli.arguments import as_called
from segtrain.config import load

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "configs" / "bootstrap.yaml"
OWN = {"name": "folder_pairs", "root": "own", "images": "photos", "masks": "masks", "mask_suffix": "_mask"}
COLORS = {"road": [0, 0, 0], "car": [250, 0, 0]}

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture
def told(told_by):
    return told_by(main)


@pytest.fixture
def photos(in_tmp):
    """24 photos beside masks of 0 and 255."""
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        Path("own", folder).mkdir(parents=True)
    for index in range(24):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(f"own/photos/{index:02d}.png")
        mask = np.zeros((20, 24), np.uint8)
        mask[index % 10 :] = 255
        Image.fromarray(mask).save(f"own/masks/{index:02d}_mask.png")


def config(train=OWN, **data):
    content = yaml.safe_load(BOOTSTRAP.read_text())
    train = {"values": {0: "road", 255: "car"}, **train} if "palette" not in train else train
    content["data"] = {"train": train, **data, "batch_size": 2, "workers": 0}
    content["data"]["augment"] = [{"name": "RandomScaleCrop", "size": [16, 16]}]
    Path("my.yaml").write_text(yaml.safe_dump(content))
    return content


def test_what_nobody_has_divided_yet_can_be_divided_and_trained_on(told, photos):
    content = config()
    code, _, err = told("train", "--config", "my.yaml", "--dry-run")
    assert (code, "missing key 'data.val'" in err, "segtrain data split --of train" in err) == (2, True, True)
    code, out, _ = told("data", "split", "my.yaml", "--of", "train", "--ratio", "0.75,0.25", "--out", "lists")
    assert code == 0
    named = yaml.safe_load(out[out.index("data:") :])["data"]
    assert set(named["train"]) == {*OWN, "values", "files"}  # no defaults
    content["data"] |= named
    Path("my.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = told("data", "check", "my.yaml")
    assert (code, "18 samples" in out, "6 samples" in out) == (0, True, True)


def test_the_same_samples_in_both_splits_are_said_once_and_warned_of(told, photos):
    content = config()
    content["data"]["val"] = content["data"]["train"]
    Path("my.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = told("data", "check", "my.yaml")
    assert code == 2
    assert out.count("wrong  ") == 1
    assert "24 images are in several splits" in out
    assert "segtrain data split C --of train" in out
    register_components()
    for limits, warned in ((Limits(), True), (Limits(overfit=2), False)):
        warnings = build(*load("my.yaml"), torch.device("cpu"), limits).warnings
        assert any("data.val has the samples of data.train" in warning for warning in warnings) is warned


def test_one_class_alone_is_refused(told, photos):
    one = {**OWN, "values": {0: "ignore", 255: "car"}}
    config(one, val={**one, "values": {0: "ignore", 255: "car"}})
    code, _, err = told("train", "--config", "my.yaml", "--dry-run")
    assert (code, "one class, car" in err, "values: {0: background, 255: car}" in err) == (2, True, True)


def test_smoothed_masks_are_called_so_and_do_not_fill_the_screen(told, photos):
    ramp = np.linspace(0, 250, 24 * 20).astype(np.uint8).reshape(20, 24)
    for mask in Path("own/masks").iterdir():
        Image.fromarray(np.stack([ramp, ramp * 0, ramp * 0], -1)).save(mask)
    config({**OWN, "palette": COLORS}, val={"name": "scenes"})
    code, out, _ = told("data", "check", "my.yaml", "--all")
    assert code == 2
    assert "blends at smoothed borders: export the masks without anti-aliasing" in out
    assert len(out.splitlines()) < 100
    assert "? (211 other values)" in out
    assert "4 more files (--json lists all)" in out


def test_bad_files_are_told_with_a_way_around_them(told, photos):
    Path("own/photos/07.png").write_bytes(Path("own/photos/07.png").read_bytes()[:300])
    content = config()
    code, _, err = told("data", "split", "my.yaml", "--of", "train", "--ratio", "0.75,0.25", "--out", "lists")
    assert (code, "07.png cannot be read" in err, "{name: readable, of: {…}}" in err) == (2, True, True)
    content["data"]["val"] = {**content["data"]["train"], "missing": "skip"}
    Path("my.yaml").write_text(yaml.safe_dump(content))
    code, _, err = told("train", "--config", "my.yaml", "--dry-run")
    assert (code, "to train without such files: {name: readable" in err) == (2, True)


def test_a_configuration_without_its_flag_is_told_the_flag(capsys):
    with pytest.raises(SystemExit):
        main(["train", "my.yaml"])
    assert "--config is needed: --config my.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "mein lauf.yaml"])
    assert "--config 'mein lauf.yaml'" in capsys.readouterr().err


def test_examples_are_given_as_the_command_was_called(monkeypatch):
    text = "  tools/train.py --config configs/ce.yaml\n  torchrun --nproc_per_node=8 tools/train.py --config a"
    monkeypatch.setattr(sys, "argv", ["/bin/segtrain", "train"])
    assert as_called(text) == "  segtrain train --config ce\n  torchrun --nproc_per_node=8 -m segtrain train --config a"
    monkeypatch.setattr(sys, "argv", ["tools/train.py"])
    assert as_called(text) == text


def test_the_help_of_the_installed_command_names_that_command():
    command = [sys.executable, "-m", "segtrain", "data", "split", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: segtrain data split")
    assert "  segtrain data split my.yaml" in shown
    assert "tools/" not in shown
