"""The trainer with classifiers: the same steps and files, other data, models and metrics."""

import csv
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_components import TinyClassifier

from segtrain.build import Limits, build, register_components
from segtrain.checkpoint import load as load_checkpoint
from segtrain.cli.train import main
from segtrain.config import load
from segtrain.errors import ConfigError, DataError

HERE = Path(__file__).parent
OURS = ["--import", "tiny_components", "--config", str(HERE / "tiny_classifier.yaml")]


def batches(built, count):
    return list(islice(built.loader.start(0), count))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- the whole way


def test_a_classifier_learns_and_leaves_what_every_run_leaves(colors, capsys):
    assert main([*OURS, "--run-dir", "run"]) == 0
    told = capsys.readouterr().out
    assert json.loads(told.splitlines()[-1])["best"]["val/top1"] == 1.0
    assert "top-1 1.000" in told
    assert "red 1.000" in told, "accuracies of classes are told"
    rows = rows_of("run/metrics.csv")
    ours = [tag for tag in rows[0] if not tag.startswith(("val_ema/", "mining/"))]
    assert ours == ["step", "val/top1", "val/top5", "val/macc", "val/nll", "val/ece", "val/loss"]
    assert [row["step"] for row in rows] == ["12", "24"]
    drawn = {path.stem for path in Path("run/val").iterdir()}
    assert {"probe-panel", "mining-overlay", "most_confused", "confusion"} <= drawn


def test_a_resumed_classifier_ends_as_the_uninterrupted_one(colors, capsys):
    assert main([*OURS, "--run-dir", "whole", "optimizer.freeze_encoder=14"]) == 0
    assert main([*OURS, "--run-dir", "parts", "optimizer.freeze_encoder=14", "--profile", "12"]) == 0
    assert main([*OURS, "--run-dir", "parts", "optimizer.freeze_encoder=14", "--resume", "auto"]) == 0
    assert "resume from parts/checkpoints/last.pt at step 12" in capsys.readouterr().out
    whole, parts = (load_checkpoint(f"{run}/checkpoints/last.pt") for run in ("whole", "parts"))
    assert str(whole["model"]) == str(parts["model"])
    assert str(whole["ema"]) == str(parts["ema"])
    assert str(whole["optimizer"]) == str(parts["optimizer"])


def test_images_of_different_sizes_need_to_be_prepared_for_training_only(classifier):
    built = classifier("data.val_prepare=[]")
    assert built.evaluator(built.learner.model, 0).confusion.sum() == 12
    with pytest.raises(DataError, match="images of different sizes cannot be trained on in one batch"):
        batches(classifier("data.augment=[]"), 1)


def test_what_is_learnt_by_heart_is_prepared_as_for_validation(classifier):
    built = classifier(overfit=8)
    (batch,) = batches(built, 1)
    assert sorted(batch.ids) == sorted(name for loaded in built.evaluator.loader for name in loaded.ids)
    assert batch.image.shape == (8, 3, 16, 16)


@pytest.mark.parametrize("name", ["stanford_cars_resnet18", "stanford_cars_scratch", "image_folder"])
def test_the_published_configurations_are_valid(name):
    register_components()
    config, _ = load(HERE.parent / "configs" / f"{name}.yaml")
    assert config.task == "classification"
    assert config.data.val_prepare


# ---- an encoder at rest


def test_a_frozen_encoder_stays_as_it_is_and_learns_later(classifier):
    built = classifier("optimizer.freeze_encoder=3", "train.ema=null", "validate.weights=raw")
    learner, model = built.learner, built.learner.model
    encoder = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("encoder.")}
    head = model.head.weight.clone()
    for step, batch in enumerate(batches(built, 4)):
        learner.update([batch])
        same = all(torch.equal(value, model.state_dict()[name]) for name, value in encoder.items())
        assert same == (step < 3), "weights, and the statistics of batch normalisation"
    assert not torch.equal(head, model.head.weight)


def test_a_frozen_encoder_gives_features_as_in_evaluation(classifier):
    learner = classifier("optimizer.freeze_encoder=1", "criterion={name: cross_entropy}").learner
    batch = batches(classifier(), 1)[0]
    with torch.no_grad():
        expected = learner.model.eval()(batch.image)
    torch.testing.assert_close(learner.update([batch]), expected)
    assert learner.model.training


def test_only_the_gradients_of_the_head_are_clipped_and_logged_while_the_encoder_rests(classifier):
    built = classifier("optimizer.freeze_encoder=1", "criterion={name: cross_entropy}")
    (batch,) = batches(built, 1)
    model = built.learner.model.eval()
    F.cross_entropy(model(batch.image), batch.target).backward()
    expected = torch.stack([p.grad.norm() for p in model.head.parameters()]).norm().item()
    model.zero_grad()
    built.learner.update([batch])
    assert built.learner.read_logs()["train/grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_freezing_what_is_not_there_is_an_error(classifier, monkeypatch):
    monkeypatch.delattr(TinyClassifier, "in_encoder")
    with pytest.raises(ConfigError, match="freeze_encoder 3 has nothing to act on"):
        classifier("optimizer.freeze_encoder=3", "optimizer.encoder_lr=null")


# ---- criteria, from a configuration to a value


def criterion_of(in_tmp, classes, text):
    """The criterion that a configuration names, for a data set of so many classes."""
    for split in ("train", "val"):
        for index in range(classes):
            folder = in_tmp / "many" / split / f"class {index}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "0.png").write_bytes(b"never read")
    overrides = [f"criterion={text}", "data.train.root=many", "data.val.root=many", "log.pictures=0"]
    register_components(["tiny_components"])
    config, source = load(HERE / "tiny_classifier.yaml", overrides)
    return build(config, source, torch.device("cpu"), Limits()).learner.criterion


FIVE = [[0, 0.2, 0.7, 0.1, 0], [0, 0.9, 0.2, 0.2, 1], [1, 0.2, 0.7, 0.9, 1]]


@pytest.mark.parametrize(
    ("smoothing", "spread", "logits", "target", "value"),
    [
        (0.3, "all", FIVE, [2, 1, 0], 1.3883),
        (0.3, "others", FIVE, [2, 1, 0], 1.4178),
        (0.5, "others", FIVE, [2, 1, 0], 1.5161),
        (0.05, "all", [[1, 8, 1], [1, 1, 8]], [1, 2], 0.2352),
        (0.05, "all", [[0.1, 8, 0.1], [0.1, 0.1, 8]], [1, 2], 0.2641),
    ],
)
def test_label_smoothing_has_its_published_values(in_tmp, smoothing, spread, logits, target, value):
    text = f"{{name: label_smoothed_ce, label_smoothing: {smoothing}, spread: {spread}}}"
    criterion = criterion_of(in_tmp, len(logits[0]), text)
    loss = criterion(torch.tensor(logits, dtype=torch.float32), torch.tensor(target), 0)
    assert loss.value.item() == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize("top_p", [0.1, 0.01, 1e-9])
def test_at_least_one_sample_is_mined_also_when_all_are_right(in_tmp, top_p):
    criterion = criterion_of(in_tmp, 3, f"{{name: bootstrapped_ce, top_p: {top_p}}}")
    target = torch.arange(8) % 3
    logits = (20.0 * F.one_hot(target, 3)).requires_grad_()
    loss = criterion(logits, target, 0)
    loss.value.backward()
    assert 0 <= loss.value.item() < 1e-6
    assert logits.grad.isfinite().all()
    scalars = criterion.scalars({name: float(value) for name, value in loss.logs.items()})
    assert scalars["mining/kept_pixels"] == pytest.approx(1.0), "tied samples share it"


def test_the_hardest_samples_are_mined_by_the_unsmoothed_loss(in_tmp):
    criterion = criterion_of(in_tmp, 3, "{name: bootstrapped_ce, top_p: 0.25, label_smoothing: 0.1}")
    logits = torch.tensor([[40.0, 0, 0], [0.0, 1, 0], [2.0, 0, 0], [3.0, 0, 0]])  # a confident one, a wrong one, …
    target = torch.zeros(4, dtype=torch.int64)
    loss = criterion(logits, target, 0)
    smoothed = F.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    assert smoothed.argmax() == 0, "which ranking by the smoothed loss would take"
    torch.testing.assert_close(loss.value, smoothed[1])


def test_ignored_samples_are_neither_mined_nor_counted(in_tmp):
    criterion = criterion_of(in_tmp, 3, "{name: bootstrapped_ce, top_p: 0.5}")
    logits, target = torch.randn(6, 3), torch.tensor([0, -100, 1, -100, -100, 2])
    kept = F.cross_entropy(logits, target, reduction="none")[[0, 2, 5]].max()
    torch.testing.assert_close(criterion(logits, target, 0).value, kept)
    empty = criterion(logits.requires_grad_(), torch.full((6,), -100), 0)
    assert empty.value == 0


# ---- which images stay hard, and which mistakes are shown


def test_wrong_labels_are_the_hardest_samples_of_a_run(colors, capsys):
    for name in ("0.png", "1.png"):
        (colors / "train" / "red" / name).rename(colors / "train" / "blue" / f"wrong {name}")
    assert main([*OURS, "--run-dir", "run", "train.steps=48", "optimizer.lr=0.2"]) == 0
    rows = rows_of("run/hardest.csv")
    assert [row["image"] for row in rows[:2]] in (
        ["train/blue/wrong 0.png", "train/blue/wrong 1.png"],
        ["train/blue/wrong 1.png", "train/blue/wrong 0.png"],
    )
    assert all(row["label"] == "blue" != row["last_prediction"] for row in rows[:2])
    assert all(float(row["mined"]) > 0.6 for row in rows[:2]), "of all samples half are mined"
    assert sum(int(row["seen"]) for row in rows) == 48 * 8
    assert len(rows) == 36


def test_plain_losses_tell_of_hard_samples_too(colors, capsys):
    assert main([*OURS, "--run-dir", "run", "criterion={name: label_smoothed_ce}"]) == 0
    assert {row["mined"] for row in rows_of("run/hardest.csv")} == {"1"}


def test_the_shown_mistakes_are_the_most_confident_ones(classifier):
    built = classifier("log.pictures=3")
    model = built.learner.model.eval()
    with torch.no_grad():
        model.head.bias += torch.tensor([0.5, 0.0, -0.5])
    report = built.evaluator(model, 0)
    found = []
    for batch in built.evaluator.loader:
        with torch.no_grad():
            shares = model(batch.image).softmax(1)
        for name, label, share in zip(batch.ids, batch.target.tolist(), shares, strict=True):
            if share.argmax() != label:
                found.append((-share.max().item(), name, label, int(share.argmax())))
    assert len(found) > 3
    expected = sorted(found)[:3]
    assert [(probe.id, int(probe.target), int(probe.prediction)) for probe in report.wrong] == [
        (name, label, said) for _, name, label, said in expected
    ]
    assert [-float(probe.confidence) for probe in report.wrong] == pytest.approx([one[0] for one in expected])
    assert all(probe.image.shape == (16, 16, 3) for probe in report.wrong)


def test_the_most_confused_pairs_are_named(classifier):
    built = classifier()
    model = built.learner.model.eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([9.0, 0, 0]))
    report = built.evaluator(model, 0)
    assert [str(pair) for pair in report.confused()] == ["green taken for blue: 4 of 4", "red taken for blue: 4 of 4"]
    assert "green taken for blue: 4 of 4" in report.table()


# ---- real images


def test_the_real_cars_train(real_data, in_tmp, capsys):
    config = str(HERE.parent / "configs" / "stanford_cars_scratch.yaml")
    small = ["train.steps=2", "data.batch_size=4", "data.workers=0", "log.every=1", "log.pictures=2"]
    assert main(["--config", config, "--run-dir", "run", "--limit-val", "6", *small]) == 0
    told = capsys.readouterr().out
    assert "20 classes, ignore -100" in told
    assert "of the 8144 training images: val_share 0.25 of each class is val" in told
    assert np.isfinite(float(rows_of("run/metrics.csv")[-1]["val/loss"]))
