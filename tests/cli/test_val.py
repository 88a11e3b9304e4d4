"""val as a user meets it: the numbers of the run, from a checkpoint alone, in every way of looking."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.cli.train import main as train
from segtrain.cli.val import main

HERE = Path(__file__).parents[1]
OURS = ["--import", "tiny_components"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of scenes; its metrics.csv knows the scores of the averaged weights."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train([*OURS, "--config", str(HERE / "tiny.yaml"), "--run-dir", str(run), "--quiet"]) == 0
    return run


@pytest.fixture
def ask(trained, in_tmp, capsys):
    """Validates the run with further arguments and returns what is told, as JSON."""

    def run(*arguments, checkpoint=trained / "checkpoints" / "last.pt"):
        assert main([*OURS, "--checkpoint", str(checkpoint), "--json", "--out", "out", *map(str, arguments)]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def rows(name):
    with open(Path("out", name), newline="") as file:
        return list(csv.DictReader(file))


def recorded(run):
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))[-1]


def test_the_scores_are_those_of_the_run_from_the_checkpoint_alone(trained, ask, in_tmp):
    alone = in_tmp / "alone.pt"
    alone.write_bytes((trained / "checkpoints" / "last.pt").read_bytes())
    scores = ask(checkpoint=alone)["scores"]
    averaged = {tag: value for tag, value in recorded(trained).items() if tag.startswith("val_ema/") and value}
    assert len(averaged) > 5
    for tag, value in averaged.items():
        assert scores[tag.removeprefix("val_ema/")] == pytest.approx(float(value), abs=2e-6), tag


def test_raw_and_averaged_weights_differ_and_auto_means_those_that_chose_the_best(ask, in_tmp):
    said = {}
    for weights in ("raw", "ema", "auto"):
        said[weights] = ask("--weights", weights)
        for file in Path("out").iterdir():
            file.unlink()
    assert said["auto"]["weights"] == "ema"
    assert said["auto"]["scores"] == said["ema"]["scores"] != said["raw"]["scores"]


def test_the_table_of_classes_has_iou_accuracy_precision_pixels_and_boundaries(ask):
    told = ask("--boundary", "1,4")
    table = rows("classes.csv")
    assert list(table[0])[1:] == ["iou", "accuracy", "precision", "pixels", "boundary_iou_1px", "boundary_iou_4px"]
    with open("out/confusion.csv", newline="") as file:
        confusion = np.array([row[1:] for row in list(csv.reader(file))[1:]], np.int64)
    for index, row in enumerate(table):
        correct, labelled, predicted = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        assert int(row["pixels"]) == labelled
        for column, whole in (
            ("iou", labelled + predicted - correct),
            ("accuracy", labelled),
            ("precision", predicted),
        ):
            assert row[column] == "" if not whole else float(row[column]) == pytest.approx(correct / whole, abs=1e-6)
    assert set(told["boundary_iou"]) == {"1", "4"}
    present = [float(row["boundary_iou_4px"]) for row in table if row["boundary_iou_4px"]]
    assert told["boundary_iou"]["4"] == pytest.approx(np.mean(present), abs=1e-5)
    assert confusion.sum() == sum(int(row["pixels"]) for row in rows("images.csv"))


def test_pairs_that_are_confused_and_the_worst_images_are_listed_and_drawn(ask):
    told = ask("--worst", "2")
    pairs = rows("confused.csv")
    counts = [int(pair["count"]) for pair in pairs]
    assert counts == sorted(counts, reverse=True)
    assert told["confused"][0]["count"] == counts[0]
    images = rows("images.csv")
    assert len(images) == 5
    scores = [float(image["miou"]) for image in images]
    assert scores == sorted(scores)
    assert [one["id"] for one in told["worst"]] == [image["image"] for image in images[:2]]
    for name in ("confusion.jpg", "worst.jpg"):
        with Image.open(Path("out", name)) as picture:
            assert picture.width > 100


def test_ways_of_looking_are_those_of_prediction_and_are_told(ask, in_tmp):
    said = []
    for flags in ([], ["--window", "24x32"], ["--window", "16x16", "--batch", "3"], ["--tta", "flip"], ["--tta", "ms"]):
        said.append(ask(*flags))
        for file in Path("out").iterdir():
            file.unlink()
    assert said[0]["scores"] == said[1]["scores"], "one window is the whole image"
    assert len({one["scores"]["loss"] for one in said[1:]}) == 4
    assert [one["way"] for one in said] == [
        "whole images",
        "windows of 24x32, 12x16 apart",
        "windows of 16x16, 8x8 apart",
        "whole images · mirrored too",
        "whole images · mirrored too · scales 0.75, 1, 1.25",
    ]


def test_another_split_and_overrides_choose_other_data(ask, in_tmp):
    assert ask("--split", "train", "--limit", "3")["samples"] == 3
    for file in Path("out").iterdir():
        file.unlink()
    assert ask("data.val.length=2", "data.val.size=[20,20]")["samples"] == 2


def test_what_is_told_is_a_table(trained, in_tmp, capsys):
    assert main([*OURS, "--checkpoint", str(trained), "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert "ema weights · data.val, 5 images · whole images" in told
    for word in (
        "Precision",
        "mIoU" if "mIoU" in told else "miou",
        "boundary IoU within  1 px",
        "most confused",
        "worst image",
    ):
        assert word in told
    assert told.splitlines()[-1] == "written to out"
    about = json.loads(Path("out/scores.json").read_text())
    assert about["environment"]["torch"]


def test_by_itself_it_writes_a_new_folder_into_the_run(trained, in_tmp):
    for _ in range(2):
        assert main([*OURS, "--checkpoint", str(trained), "--limit", "1", "--json"]) == 0
    assert len(list((trained / "validation").iterdir())) == 2


def test_a_mistake_is_one_clear_message_and_leaves_nothing(trained, in_tmp, capsys):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("no.pt").write_text("no")
    for arguments, message in (
        (["--checkpoint", "nowhere"], "nowhere: cannot be read"),
        (["--checkpoint", "no.pt"], "no.pt: neither a checkpoint nor a file of weights"),
        (["--checkpoint", trained, "--out", "full"], "full exists and is not empty"),
        (["--checkpoint", trained, "--out", "no.pt/x"], "no.pt/x cannot be written: File exists: no.pt"),
        (["--checkpoint", trained, "data.val.lenght=2"], "did you mean 'length'?"),
        (["--checkpoint", trained, "model.width=6"], "its weights are not those of model tiny: size mismatch"),
        (["--checkpoint", trained, "--scales", "1,2"], "--scales goes with --tta ms"),
        (["--checkpoint", trained, "--window", "8", "--stride", "9"], "pixels would be left out"),
        (["--checkpoint", trained, "data.val={name: folder_pairs, root: gone, names: [a]}"], "gone"),
    ):
        assert main([*OURS, *map(str, arguments), *(["--out", "out"] if "--out" not in arguments else [])]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("error:") == 1
        assert not Path("out").exists()
    assert sorted(path.name for path in in_tmp.iterdir()) == ["full", "no.pt"]


def test_data_of_other_classes_are_refused(trained, in_tmp, capsys):
    for kind in ("images", "masks"):
        Path("pairs", kind).mkdir(parents=True)
        Image.new("RGB" if kind == "images" else "L", (8, 8)).save(f"pairs/{kind}/0.png")
    data = "data.val={name: folder_pairs, root: pairs, images: images, masks: masks, names: [a, b]}"
    assert main([*OURS, "--checkpoint", str(trained), data]) == 2
    assert "data.val is a segmentation set with the classes a, b; the model is one of segmentation with" in (
        capsys.readouterr().err
    )


def test_a_criterion_that_cannot_be_made_again_is_replaced_for_the_loss_and_told(trained, in_tmp, ask):
    weights = "criterion={name: cross_entropy, class_weights: auto}"
    lost = "data.train={name: folder_pairs, root: gone, names: [a]}"
    told = ask(weights, lost)
    assert "loss is that of cross_entropy, without weights: " in told["remarks"][0]
    assert math.isfinite(told["scores"]["loss"])


def test_a_classifier_has_its_answers_and_its_pictures(colors, capsys):
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*OURS, "--checkpoint", "run", "--out", "out", "--json", "--tta", "flip"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["scores"]["top1"] > 0.5
    assert list(rows("classes.csv")[0]) == ["class", "accuracy", "precision", "images"]
    answers = rows("images.csv")
    assert len(answers) == 12
    right = sum(row["label"] == row["prediction"] for row in answers)
    assert told["scores"]["top1"] == pytest.approx(right / 12, abs=1e-6)
    assert Path("out/confusion.jpg").exists()
    assert main([*OURS, "--checkpoint", "run", "--window", "8", "--out", "other"]) == 2
    assert "a classifier looks at whole images" in capsys.readouterr().err
