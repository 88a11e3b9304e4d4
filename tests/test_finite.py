import pytest
import torch

from segtrain.errors import TrainingError
from segtrain.finite import FiniteGuard

GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


def test_raise_names_the_first_bad_step_and_its_files_when_asked():
    guard = FiniteGuard("raise")
    for step, norm in enumerate([GOOD, GOOD, NAN, INF]):
        assert guard.admits(norm, step, (f"{step}.png",))
    with pytest.raises(TrainingError, match=r"step 2: the gradient is not finite .*2\.png"):
        guard.check()


def test_raise_forgets_what_it_has_told_of():
    guard = FiniteGuard("raise")
    guard.admits(GOOD, 0, ())
    guard.check()
    guard.check()


def test_skip_refuses_the_step_and_counts_only_those_in_a_row():
    guard = FiniteGuard("skip", max_consecutive=3)
    verdicts = [guard.admits(norm, 0, ("a.png",)) for norm in (NAN, INF, GOOD, NAN, NAN)]
    assert verdicts == [False, False, True, False, False]
    with pytest.raises(TrainingError, match=r"3 steps in a row .*a\.png"):
        guard.admits(NAN, 7, ("a.png",))
