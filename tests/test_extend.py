"""The examples of docs/extend.md train together, brought in as their page says: by file and --import."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from segtrain.cli.train import main
from segtrain.config import load
from segtrain.registry import OBSERVERS, SCHEDULES
from segtrain.trained import load_trained

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def train(in_tmp):
    (in_tmp / "mine").mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        image, mask = rng.integers(0, 256, (32, 32, 3), np.uint8), rng.integers(0, 2, (32, 32), np.uint8)
        np.savez(in_tmp / "mine" / f"{index}.npz", image=image, mask=mask)
    modules = [
        word for name in ("npz_data", "small_model", "own_tracker") for word in ("--import", EXAMPLES / f"{name}.py")
    ]
    data = "{name: npz_folder, root: mine, names: [road, car]}"
    small = "data.augment=[] data.batch_size=2 data.workers=0 train.steps=4 log.every=1 log.pictures=0 validate.every=4"
    ours = [f"data.train={data}", f"data.val={data}", "model={name: small}", "optimizer.encoder_lr=1e-4"]

    def run(*overrides):
        return main([*map(str, modules), "--config", "ce", "--run-dir", "run", *small.split(), *ours, *overrides])

    return run


def test_own_data_model_schedule_and_tracker_train_together(train, in_tmp):
    schedule, tracker = "schedule={name: milestones, at: [0.5]}", "log.observers=[{name: own_tracker}]"
    assert train(schedule, tracker) == 0
    with open(in_tmp / "run" / "tracker.csv") as file:
        told = [(int(step), tag, float(number)) for step, tag, number in csv.reader(file)]
    rates = [number for _, tag, number in told if tag == "optim/lr/head"]
    assert np.array(rates) / rates[0] == pytest.approx([1, 1, 0.1, 0.1])
    last = {tag: number for step, tag, number in told if step == 4}
    assert 0 < last["val/miou"] < last["val/mean_dice"] < 1
    config, _ = load(in_tmp / "run" / "config.yaml")
    assert [one.name for one in config.log.observers] == ["own_tracker"]


def test_whoever_uses_a_trained_model_needs_no_tracker(train, in_tmp, monkeypatch, capsys):
    assert train("log.observers=[{name: own_tracker}]") == 0
    monkeypatch.delitem(OBSERVERS._factories, "own_tracker")
    assert load_trained(in_tmp / "run", torch.device("cpu")).step == 4
    capsys.readouterr()
    assert main(["--config", "ce", "log.observers=[{name: elsewhere}]"]) == 2
    assert "unknown observer 'elsewhere'; there is none yet: --import what registers it" in capsys.readouterr().err


def test_mistakes_in_their_keys_are_told_with_their_place(train, capsys):
    assert train("log.observers=[{name: own_tracker, every: 3}]") == 2
    assert "unknown key 'log.observers.0.every'" in capsys.readouterr().err
    assert train("log.observers=[{name: own_traker}]") == 2
    assert "unknown observer 'own_traker'; did you mean 'own_tracker'?" in capsys.readouterr().err
    assert train("data.val={name: npz_folder, root: nothing, names: [road, car]}") == 2
    assert "data.val: root nothing holds no .npz files" in capsys.readouterr().err


def test_the_example_of_a_schedule_falls_at_its_milestones(train):
    assert train("--dry-run") == 0  # which imports it
    way = SCHEDULES["milestones"](100, at=[0.5, 0.8], factor=0.5)
    assert [1 - way(step) for step in (0, 49, 50, 79, 80, 100)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
