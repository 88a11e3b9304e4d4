"""predict as a user meets it: the same answers as in validation, for whatever lies there as an image."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain.build import register_components
from segtrain.cli.predict import main
from segtrain.cli.train import main as train
from segtrain.data.files import named_files
from segtrain.errors import DataError
from segtrain.models.classifier import torchvision_classifier
from segtrain.trained import load_trained

HERE = Path(__file__).parents[1]
OURS = ["--import", "tiny_components"]


@pytest.fixture
def run(colors, capsys):
    """A trained classifier of colours in run/; the current directory holds colors/ too."""
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run"]) == 0
    capsys.readouterr()
    return Path("run")


def ask(*arguments):
    return main([*OURS, "--checkpoint", "run", *map(str, arguments)])


def answers(folder="predictions"):
    with open(Path(folder, "predictions.csv"), newline="") as file:
        return list(csv.DictReader(file))


def test_names_come_with_probabilities_the_most_probable_first(run, capsys):
    assert ask("colors/val/red/0.png", "colors/val/blue", "--topk", "2") == 0
    rows = answers()
    assert list(rows[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row["image"] for row in rows] == ["colors/val/red/0.png", *(f"colors/val/blue/{i}.png" for i in range(4))]
    assert [row["class_1"] for row in rows] == ["red"] + 4 * ["blue"]
    assert all(float(row["probability_1"]) > float(row["probability_2"]) > 0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("img 1/5  ")
    assert "colors/val/red/0.png  red " in lines[0]
    assert lines[-1].startswith("5 of 5 images in predictions/predictions.csv, ")
    assert lines[-1].endswith(" images/s")


def test_the_answers_are_those_of_validation_whatever_the_batch(run, classifier):
    built = classifier()
    for weights, batch in (("raw", 1), ("ema", 5)):
        assert ask("colors/val", "--weights", weights, "--batch", batch, "--topk", 99, "--quiet", "--overwrite") == 0
        said = {row["image"].removeprefix("colors/"): row for row in answers()}
        model = load_trained(run, torch.device("cpu"), weights=weights).model
        assert len(said) == 12
        for loaded in built.evaluator.loader:
            with torch.no_grad():
                shares = model(loaded.image).softmax(1)
            for name, expected in zip(loaded.ids, shares, strict=True):
                ours = {said[name][f"class_{i}"]: float(said[name][f"probability_{i}"]) for i in (1, 2, 3)}
                assert ours == pytest.approx(dict(zip(built.task.classes, expected.tolist(), strict=True)), abs=2e-6)


def test_images_of_all_kinds_are_decoded_as_those_of_a_data_set(run, in_tmp):
    odd = in_tmp / "odd"
    odd.mkdir()
    red = np.full((20, 24, 3), (210, 40, 50), np.uint8)
    Image.fromarray(red).quantize(4).save(odd / "palette.gif")
    Image.fromarray(red).convert("CMYK").save(odd / "print.jpg")
    Image.fromarray(np.dstack([red, np.full((20, 24), 255, np.uint8)])).save(odd / "alpha.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(red).save(odd / "turned.jpg", exif=turned)
    assert ask(odd, "--quiet") == 0
    assert [row["class_1"] for row in answers()] == 4 * ["red"]


def test_an_unreadable_image_is_named_and_the_others_are_answered(run, in_tmp, capsys):
    (in_tmp / "broken.jpg").write_bytes(b"no image")
    assert ask("broken.jpg", "gone.jpg", "colors/val/green/1.png") == 1
    told = capsys.readouterr()
    assert "error: broken.jpg cannot be read" in told.err
    assert "error: gone.jpg does not exist" in told.err
    assert [row["image"] for row in answers()] == ["colors/val/green/1.png"]
    assert "1 of 3 images" in told.out


def test_files_folders_patterns_and_lists_name_images_once_each(colors, in_tmp):
    (in_tmp / "colors" / "list.txt").write_text("val/red/0.png\n\nval/blue\n")
    found = named_files(["colors/list.txt", "colors/val/red/*.png", "colors/val/red/0.png"])
    assert [str(path) for path in found] == [
        "colors/val/red/0.png",
        *(f"colors/val/blue/{i}.png" for i in range(4)),
        *(f"colors/val/red/{i}.png" for i in (1, 2, 3)),
    ]
    assert len(named_files(["colors/**/*.png"])) == 48
    (in_tmp / "empty").mkdir()
    for nothing in ("empty", "colors/*.webp"):
        with pytest.raises(DataError, match="no image there"):
            named_files([nothing])
    (colors / "val" / "red" / "0.png").rename(colors / "val" / "red" / "a[1].png")
    assert named_files(["colors/val/red/a[1].png"]), "a name with brackets is a file where there is one"


def test_answers_that_are_there_are_never_overwritten_unless_told(run, capsys):
    assert ask("colors/val/red/0.png", "--quiet") == 0
    before = Path("predictions/predictions.csv").read_bytes()
    assert ask("colors/val/blue", "--quiet") == 2
    assert "predictions/predictions.csv would be overwritten; choose another --out, or add --overwrite" in (
        capsys.readouterr().err
    )
    assert Path("predictions/predictions.csv").read_bytes() == before
    assert ask("colors/val/blue", "--quiet", "--overwrite") == 0
    assert len(answers()) == 4


def test_the_answers_are_those_of_validation_where_its_data_set_cuts_images(colors, classifier):
    cut = "data.val={name: center_crop, of: {name: image_folder, root: colors, split: val}, size: [16, 16], share: 0.5}"
    arguments = ["--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", cut, "data.val_prepare=[]"]
    assert train([*OURS, *arguments, "--quiet"]) == 0
    assert ask("colors/val", "--topk", 3, "--quiet") == 0
    model, said = load_trained(Path("run"), torch.device("cpu")).model, {row["image"]: row for row in answers()}
    for loaded in classifier(cut, "data.val_prepare=[]").evaluator.loader:
        with torch.no_grad():
            best = model(loaded.image).softmax(1).amax(1)
        for name, share in zip(loaded.ids, best.tolist(), strict=True):
            assert float(said[f"colors/{name}"]["probability_1"]) == pytest.approx(share, abs=2e-6)


def test_a_classifier_looks_at_mirror_images_too(run):
    for way in ("none", "flip", "ms"):
        assert ask("colors/val", "--quiet", "--tta", way, "--out", way) == 0
    assert len({tuple(row["probability_1"] for row in answers(way)) for way in ("none", "flip", "ms")}) == 3
    assert [row["class_1"] for row in answers("flip")] == [row["class_1"] for row in answers("none")]


def test_a_mistake_is_one_clear_message(run, capsys):
    for arguments, message in (
        (["--checkpoint", "nowhere.pt", "colors"], "nowhere.pt"),
        (["--checkpoint", "colors", "colors"], "colors holds no checkpoints/best.pt or last.pt"),
        (["--checkpoint", "run", "nothing/*.jpg"], "nothing/*.jpg: no image there"),
        (["--checkpoint", "run", "colors", "--out", "run/config.yaml/x"], "choose another --out"),
        (["--checkpoint", "run", "colors", "--window", "8x8"], "--window: run is a classifier"),
        (["--checkpoint", "run", "colors", "--overlay"], "--overlay: run is a classifier"),
        (["--checkpoint", "run", "colors", "--scales", "1,2"], "--scales goes with --tta ms"),
        (["--checkpoint", "run", "colors", "--device", "cuda:7"], "cuda:7"),
    ):
        assert main([*OURS, *arguments]) in (1, 2)
        told = capsys.readouterr().err
        assert message in told
        assert told.count("error:") == 1
        assert "Traceback" not in told


def test_a_missing_average_is_told(colors, capsys):
    changes = ["train.ema=null", "validate.weights=raw", "log.pictures=0", "train.steps=2", "validate.every=2"]
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", *changes]) == 0
    assert main([*OURS, "--checkpoint", "run", "colors", "--weights", "ema"]) == 2
    assert "holds no average of weights (train.ema was null); use --weights raw" in capsys.readouterr().err


def test_a_trained_model_needs_no_weights_to_start_from(colors):
    torch.save(torchvision_classifier(7, arch="squeezenet1_1", weights=None).net.state_dict(), "start.pth")
    changes = ["model={name: torchvision, arch: squeezenet1_1, weights: start.pth}", "train.steps=1", "log.pictures=0"]
    size = ["data.augment.0.size=[32,32]", "data.val_prepare=[{name: Resize, height: 32, width: 32}]"]
    config = str(HERE / "tiny_classifier.yaml")
    assert train([*OURS, "--config", config, "--run-dir", "run", "--limit-val", "2", *changes, *size]) == 0
    Path("start.pth").unlink()
    assert ask("colors/val/red/0.png", "--quiet") == 0
    state = load_trained(Path("run"), torch.device("cpu"), weights="raw").model.state_dict()
    saved = torch.load("run/checkpoints/best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in saved.items())


def test_the_command_needs_the_components_of_the_model(run):
    command = [sys.executable, str(HERE.parent / "tools" / "predict.py"), "--checkpoint", "run", "colors/val/red/0.png"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert "unknown model 'tiny_classifier'" in result.stderr


def test_help_does_not_wait_for_torch():
    code = "import sys; import segtrain.cli.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=HERE.parent).returncode == 0


def test_a_checkpoint_knows_what_its_channels_mean(run):
    register_components(["tiny_components"])
    trained = load_trained(run, torch.device("cpu"))
    assert (trained.link, trained.task.kind, trained.task.ignore_index) == ("softmax", "classification", -100)
    assert trained.task.classes == ("blue", "green", "red")
    assert trained.step == json.loads((run / "status.json").read_text())["best"]["step"]
    assert not trained.model.training


def test_nothing_is_left_where_no_image_could_be_read(run, capsys):
    assert ask("gone.jpg") == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == "error: gone.jpg does not exist"
    assert told.out == ""
    assert not Path("predictions").exists()
