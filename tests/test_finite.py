import pytest
import torch

from segtrain.finite import Attempt, FiniteGuard, NonFiniteError

GOOD, NAN, INF = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


def attempt(norm, step=0, *ids, loss=GOOD):
    return Attempt(step, step + 2, ids, norm, {"loss": loss}, {"loss": loss})


def test_raise_names_the_first_bad_step_its_numbers_and_its_files_when_asked():
    guard = FiniteGuard("raise")
    for step, norm in enumerate([GOOD, GOOD, NAN, INF]):
        assert guard.admits(attempt(norm, step, f"{step}.png", loss=norm))
    with pytest.raises(NonFiniteError, match=r"step 2: .* norm nan, loss nan\. Batch: 2\.png") as caught:
        guard.check()
    assert (caught.value.attempt, caught.value.ranks) == (4, (0,))


def test_a_gradient_that_overflows_under_a_finite_loss_is_told_with_both():
    guard = FiniteGuard("raise")
    guard.admits(attempt(INF, 3, "a.png"))
    with pytest.raises(NonFiniteError, match=r"step 3: .*gradient norm inf, loss 1\. Batch: a\.png"):
        guard.check()


def test_raise_forgets_what_it_has_told_of():
    guard = FiniteGuard("raise")
    guard.admits(attempt(GOOD))
    guard.check()
    guard.check()


def test_skip_refuses_the_step_and_counts_only_those_in_a_row():
    guard = FiniteGuard("skip", max_consecutive=3)
    verdicts = [guard.admits(attempt(norm)) for norm in (NAN, INF, GOOD, NAN, NAN)]
    assert verdicts == [False, False, True, False, False]
    with pytest.raises(NonFiniteError, match=r"3 steps in a row .*a\.png"):
        guard.admits(attempt(NAN, 7, "a.png"))
