"""Misuse of the functions and modules, and what is left when nothing is."""

import pytest
import torch

from segtrain.losses import BootstrappedCrossEntropy, bootstrapped_cross_entropy


@pytest.mark.parametrize("warmup", [0.1, "soon", True])
def test_a_warm_up_is_a_whole_number_or_a_function(warmup):
    with pytest.raises(ValueError, match=r"warmup .*; expected a whole number of steps"):
        BootstrappedCrossEntropy(0.25, warmup=warmup)


@pytest.mark.parametrize("p", ["0.2", None, True, 0, 1.5, float("nan")])
def test_p_is_a_share(p):
    with pytest.raises(ValueError, match=r"expected a share of the valid pixels in \(0, 1\]"):
        BootstrappedCrossEntropy(p)


def test_a_callable_reduction_of_nothing_is_a_connected_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), 255)
    loss = bootstrapped_cross_entropy(logits, target, 0, 0.2, ignore_index=255, reduction=torch.mean)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
