import numpy as np
import pytest
import torch
from metrics_ranks import task_of
from ranks import on_ranks

from segtrain.metrics.worst import ConfidentMistakes
from segtrain.task import Batch

IMAGES = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)
IDS = ("right", "slightly wrong", "very wrong", "ignored", "wrong", "surely right")
LOGITS = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [9.0, 0, 0], [9.0, 0, 0], [3.0, 0, 0], [9.0, 0, 0]])
TARGET = torch.tensor([0, 1, 2, -100, 1, 0])


def shown(keep, chosen=range(6), size=2, task=None):
    mistakes = ConfidentMistakes(task or task_of(3, "classification"), keep)
    for start in range(0, len(chosen), size):
        index = list(chosen[start : start + size])
        batch = Batch(IMAGES[index], TARGET[index], tuple(IDS[i] for i in index))
        mistakes.update(LOGITS[index], batch)
    return mistakes.total()


@pytest.mark.parametrize("size", [1, 2, 6])
def test_mistakes_come_most_confident_first_however_the_batches_are(size):
    probes = shown(4, size=size)
    assert [probe.id for probe in probes] == ["very wrong", "wrong", "slightly wrong"]
    assert [probe.id for probe in shown(2, size=size)] == ["very wrong", "wrong"]
    first = probes[0]
    assert (int(first.target), int(first.prediction)) == (2, 0)
    assert float(first.confidence) == pytest.approx(LOGITS[2].softmax(0)[0].item())
    assert float(first.loss) == pytest.approx(-LOGITS[2].log_softmax(0)[2].item())
    assert (first.image == 2).all()
    assert first.image.shape == (2, 2, 3)


def test_nothing_is_kept_where_nothing_is_wrong_or_asked_for():
    assert shown(4, chosen=[0, 3, 5]) == ()
    assert shown(0) == ()


def test_an_answer_that_is_no_number_hides_no_mistake():
    mistakes = ConfidentMistakes(task_of(3, "classification"), 2)
    logits = torch.cat([torch.full((2, 3), torch.nan), LOGITS[1:3]])
    mistakes.update(logits, Batch(IMAGES[:4], torch.tensor([1, 1, 1, 2]), ("a", "b", "c", "d")))
    assert [probe.id for probe in mistakes.total()] == ["d", "c"]


def shown_by(parts):
    return [
        (probe.id, np.asarray(probe.image).tolist()) for probe in shown(2, chosen=parts[torch.distributed.get_rank()])
    ]


@pytest.mark.distributed
def test_the_mistakes_of_all_ranks_are_compared():
    expected = [(probe.id, probe.image.tolist()) for probe in shown(2)]
    assert on_ranks(2, shown_by, ([2, 3, 0], [4, 1, 5])) == [expected, expected]
    assert on_ranks(2, shown_by, ([0, 3], [4, 1, 5, 2])) == [expected, expected]
