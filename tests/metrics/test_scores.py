import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_ranks import a_batch, counts, run, task_of
from torch import multiprocessing

from segtrain.errors import DataError
from segtrain.metrics.evaluation import Evaluation
from segtrain.metrics.scores import ClassificationMeter, ConfusionMatrix, SegmentationScores, meter

# ---- segmentation


@pytest.mark.parametrize("classes", [2, 5, 150])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_the_confusion_matrix_is_that_of_torchmetrics(classes, dtype):
    logits, target = a_batch(classes)
    matrix = ConfusionMatrix(task_of(classes))
    matrix.update(logits, target.to(dtype))
    expected = oracle.multiclass_confusion_matrix(logits, target.long(), classes, ignore_index=255)
    assert np.array_equal(matrix.total().confusion, expected.numpy())


@pytest.mark.parametrize("classes", [2, 5])
def test_the_scores_are_those_of_torchmetrics(classes):
    logits, target = a_batch(classes)
    matrix = ConfusionMatrix(task_of(classes))
    matrix.update(logits, target)
    scores, scalars = matrix.total(), matrix.total().scalars()
    arguments = {"num_classes": classes, "ignore_index": 255}
    iou = oracle.multiclass_jaccard_index(logits, target.long(), average=None, **arguments)
    recall = oracle.multiclass_recall(logits, target.long(), average=None, **arguments)
    precision = oracle.multiclass_precision(logits, target.long(), average=None, **arguments)
    np.testing.assert_allclose(scores.iou, iou, rtol=1e-6)
    np.testing.assert_allclose(scores.accuracy, recall, rtol=1e-6)
    np.testing.assert_allclose(scores.precision, precision, rtol=1e-6)
    for tag, average in (("miou", "macro"), ("fwiou", "weighted")):
        expected = oracle.multiclass_jaccard_index(logits, target.long(), average=average, **arguments)
        assert scalars[f"val/{tag}"] == pytest.approx(expected.item(), rel=1e-6)
    for tag, average in (("macc", "macro"), ("aacc", "micro")):
        expected = oracle.multiclass_accuracy(logits, target.long(), average=average, **arguments)
        assert scalars[f"val/{tag}"] == pytest.approx(expected.item(), rel=1e-6)
    assert scalars["val/iou/class 1"] == pytest.approx(scores.iou[1])
    assert scalars["val/acc/class 1"] == pytest.approx(scores.accuracy[1])


@given(splits=st.lists(st.integers(0, 3), max_size=4), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_the_counts_do_not_depend_on_how_the_images_are_batched(splits, seed):
    logits, target = a_batch(4, seed=seed)
    whole, parts = ConfusionMatrix(task_of(4)), ConfusionMatrix(task_of(4))
    whole.update(logits, target)
    bounds = [0, *sorted(splits), 3]
    for start, end in pairwise(bounds):
        parts.update(logits[start:end], target[start:end])
    assert np.array_equal(whole.total().confusion, parts.total().confusion)


def test_predicted_classes_count_as_their_logits_do():
    logits, target = a_batch(4)
    matrices = [ConfusionMatrix(task_of(4)) for _ in range(3)]
    matrices[0].update(logits, target)
    matrices[1].update(logits.argmax(1), target)
    matrices[2].update(logits.argmax(1).to(torch.uint8), target)
    first, *others = [matrix.total().confusion for matrix in matrices]
    assert all(np.array_equal(first, other) for other in others)


def test_one_channel_is_a_decision_between_two_classes():
    matrix = ConfusionMatrix(task_of(2))
    matrix.update(torch.tensor([[[[-1.0, 2.0, 3.0, 1.0]]]]), torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8))
    assert matrix.total().confusion.tolist() == [[1, 1], [0, 1]]


def test_a_label_that_is_no_class_is_an_error_and_not_a_miscount():
    matrix = ConfusionMatrix(task_of(4))
    logits, target = a_batch(4)
    target[0, 0, :3] = 4
    matrix.update(logits, target)
    with pytest.raises(DataError, match=r"3 labels are neither a class \(0\.\.3\) nor ignored \(255\)"):
        matrix.total()


def test_absent_classes_are_in_no_mean_but_missed_and_invented_ones_are():
    confusion = np.array([[6, 2, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    scores = SegmentationScores(confusion, ("found", "invented", "missed", "absent"))
    np.testing.assert_equal(scores.iou, [0.6, 0.0, 0.0, np.nan])
    np.testing.assert_equal(scores.accuracy, [0.75, np.nan, 0.0, np.nan])
    scalars = scores.scalars()
    assert scalars["val/miou"] == pytest.approx(0.2)
    assert scalars["val/macc"] == pytest.approx(0.375)
    assert scalars["val/aacc"] == pytest.approx(0.6)
    assert scalars["val/fwiou"] == pytest.approx(0.8 * 0.6)
    assert "val/iou/absent" not in scalars
    assert "val/acc/invented" not in scalars


def test_nothing_valid_gives_nan_and_no_warning():
    matrix = ConfusionMatrix(task_of(3))
    matrix.update(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255, dtype=torch.uint8))
    scalars = matrix.total().scalars()
    assert sorted(scalars) == ["val/aacc", "val/fwiou", "val/macc", "val/miou"]
    assert all(np.isnan(value) for value in scalars.values())


# ---- classification


@pytest.mark.parametrize("classes", [3, 12])
def test_classification_scores_are_those_of_torchmetrics(classes):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, classes, generator=generator)
    target = torch.randint(0, classes, (200,), generator=generator)
    target[::7] = -100
    counts = meter(task_of(classes, "classification"))
    for start in range(0, 200, 64):
        counts.update(logits[start : start + 64], target[start : start + 64])
    scalars = counts.total().scalars()
    arguments = {"num_classes": classes, "ignore_index": -100}
    expected = {
        "val/top1": oracle.multiclass_accuracy(logits, target, average="micro", **arguments),
        "val/top5": oracle.multiclass_accuracy(logits, target, average="micro", top_k=min(5, classes), **arguments),
        "val/macc": oracle.multiclass_accuracy(logits, target, average="macro", **arguments),
        "val/ece": oracle.multiclass_calibration_error(logits.softmax(1), target, n_bins=15, **arguments),
        "val/nll": torch.nn.functional.cross_entropy(logits, target),
    }
    assert scalars == pytest.approx({tag: value.item() for tag, value in expected.items()}, rel=1e-5)


def test_a_sigmoid_classifier_is_a_softmax_over_two_classes():
    task = task_of(2, "classification")
    generator = torch.Generator().manual_seed(0)
    logit, target = torch.randn(50, 1, generator=generator), torch.randint(0, 2, (50,), generator=generator)
    one, two = ClassificationMeter(task), ClassificationMeter(task)
    one.update(logit, target)
    two.update(torch.cat([torch.zeros_like(logit), logit], 1), target)
    assert one.total().scalars() == two.total().scalars()


def test_a_classifier_that_saw_nothing_valid_has_nan_scores():
    empty = ClassificationMeter(task_of(3, "classification"))
    empty.update(torch.randn(4, 3), torch.full((4,), -100))
    assert all(np.isnan(value) for value in empty.total().scalars().values())
    empty.update(torch.randn(1, 3), torch.tensor([7]))
    with pytest.raises(DataError, match="1 labels are neither a class"):
        empty.total()


# ---- several ranks


@pytest.mark.distributed
def test_two_ranks_count_what_one_counts_also_with_nothing_on_a_rank(tmp_path):
    numbers = [21, 1]
    multiprocessing.spawn(run, (str(tmp_path), numbers), nprocs=2)
    for rank in range(2):
        totals = json.loads(Path(tmp_path, f"{rank}.json").read_text())
        for number, total in zip(numbers, totals, strict=True):
            alone = counts(number, range(number))
            assert total["confusion"] == alone["confusion"]
            assert total["scalars"] == pytest.approx(alone["scalars"], rel=1e-12)


# ---- the report


def report(confusion: list[list[int]], names: tuple[str, ...], kind: str = "segmentation") -> Evaluation:
    task = dataclasses.replace(task_of(len(names), kind), classes=names)
    counts = np.array(confusion)
    return Evaluation(SegmentationScores(counts, names).scalars(), names, counts, task)


def test_the_table_is_aligned_and_marks_the_worst_and_the_absent_class():
    table = report([[600, 200, 0], [0, 1200, 0], [0, 0, 0]], ("road", "traffic light", "sky")).table()
    assert table.splitlines() == [
        "class                IoU        Acc  Precision          pixels  share",
        "road               75.00      75.00     100.00             800  40.00  <- worst",
        "traffic light      85.71     100.00      85.71           1,200  60.00",
        "sky               absent     absent     absent               0   0.00",
        "miou 0.8036  macc 0.8750  aacc 0.9000  fwiou 0.8143",
    ]


def test_of_many_classes_the_table_shows_the_worst():
    confusion = np.diag(np.arange(1, 101)).tolist()
    confusion[42][0] = 1000
    lines = report(confusion, tuple(f"car {index}" for index in range(100)), "classification").table().splitlines()
    assert lines[1].startswith("car 42")
    assert lines[1].endswith("<- worst")
    assert lines[-3] == "… and 80 more classes, all better or absent"
    assert lines[-1] == "car 42 taken for car 0: 1,000 of 1,043"
    assert "IoU" not in lines[0]


def test_an_empty_evaluation_has_a_table():
    assert "absent" in report([[0, 0], [0, 0]], ("a", "b")).table()
