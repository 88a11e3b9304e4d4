"""Whatever a run tells TensorBoard is explained there."""

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.cli.train import main
from segtrain.observers.meanings import LAYOUT, meaning

TESTS = Path(__file__).parents[1]


def tags_of(config, *overrides):
    flags = ["--import", "tiny_components", "--quiet", "--device", "cpu", "--run-dir", "run", *overrides]
    assert main(["--config", str(TESTS / config), *flags]) == 0
    events = EventAccumulator("run/tb")
    events.Reload()
    tags = events.Tags()
    epoch = {"tiny.yaml": 5, "tiny_classifier.yaml": 4}[config]
    assert [one.step for one in events.Images("data/batch")] == [0, epoch], "the first batch of two epochs"
    return tags["scalars"], tags["images"], tags["tensors"]


def in_charts(kind, tags):
    patterns = [one for charts in LAYOUT[kind].values() for chart in charts.values() for one in chart]
    return [one for one in patterns if not any(re.match(one, tag) for tag in tags)]


def test_every_scalar_and_picture_of_a_segmentation_has_a_meaning_and_every_chart_has_a_line(in_tmp):
    scalars, images, texts = tags_of("tiny.yaml", "train.on_nonfinite=skip")
    assert [tag for tag in (*scalars, *images) if not meaning(tag)] == []
    assert in_charts("segmentation", scalars) == []
    assert {"mining/churn", "val_ema/miou", "optim/ema_decay", "optim/weight_decay", "mining/boundary_share"} <= set(
        scalars
    )
    assert {"probe/panel", "probe/train", "mining/overlay", "mining/classes", "val/worst", "data/batch"} <= set(images)
    assert {"config/text_summary", "command/text_summary", "classes/text_summary"} <= set(texts)


@pytest.mark.usefixtures("colors")
def test_every_scalar_and_picture_of_a_classification_has_a_meaning_and_every_chart_has_a_line():
    mined = "criterion={name: bootstrapped_ce, top_p: 0.5}"
    scalars, images, _ = tags_of("tiny_classifier.yaml", mined, "train.ema={decay: 0.9}", "validate.every=2")
    assert [tag for tag in (*scalars, *images) if not meaning(tag)] == []
    left_out = ("boundary_lift", "churn")  # an image has no boundaries, and in few of them the same may be mined
    missing = in_charts("classification", scalars)
    assert [one for one in missing if not any(word in one for word in left_out)] == []
    assert "train/accuracy" in scalars
    assert "probe/train" in images


def test_averaged_weights_have_the_meaning_of_the_weights():
    assert meaning("val_ema/iou/pole").startswith("Intersection / union of a class.")
    assert "averaged" in meaning("val_ema/iou/pole")
    assert meaning("val_ema/unheard") == ""
