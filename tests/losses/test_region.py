"""Losses of regions, against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import segtrain.losses as L
from tests import reference


def draw(seed, shape=(2, 3, 4, 5), ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def rows(logits, target):
    p = reference.pixels(logits.detach().softmax(1).numpy())
    labels = target.numpy().ravel()
    return p, np.eye(p.shape[1])[np.where(labels == 255, 0, labels)], labels != 255


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(max_examples=50, deadline=None)
def test_dice_is_its_definition(seed, ignored):
    logits, target = draw(seed, ignored=ignored)
    assert L.dice_loss(logits, target, ignore_index=255).item() == pytest.approx(
        reference.dice(*rows(logits, target)), abs=1e-12
    )


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(max_examples=50, deadline=None)
def test_lovasz_is_the_integral_over_the_levels_of_error(seed, ignored):
    logits, target = draw(seed, ignored=ignored)
    images = [(logits[i : i + 1], target[i : i + 1]) for i in range(2) if (target[i] != 255).any()]
    expected = np.mean([reference.lovasz(*rows(*image)) for image in images]) if images else 0.0
    assert L.lovasz_loss(logits, target, ignore_index=255).item() == pytest.approx(expected, abs=1e-12)


def test_jaccard_and_dice_are_tversky():
    logits, target = draw(0)
    for loss, weight in ((L.dice_loss, 0.5), (L.jaccard_loss, 1.0)):
        ours = L.tversky_loss(logits, target, None, 255, false_positives=weight, false_negatives=weight)
        torch.testing.assert_close(loss(logits, target, ignore_index=255), ours)
    p, wanted, valid = rows(logits, target)
    hit = (p * wanted)[valid].sum(0)
    jaccard = hit / (p[valid].sum(0) + wanted[valid].sum(0) - hit)
    assert L.jaccard_loss(logits, target, ignore_index=255).item() == pytest.approx(1 - jaccard.mean())


@pytest.mark.parametrize("loss", [L.dice_loss, L.jaccard_loss, L.tversky_loss, L.lovasz_loss])
def test_a_perfect_prediction_is_0_and_the_worst_is_1(loss):
    _, target = draw(1, ignored=0.0)
    onehot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    assert loss(1000.0 * onehot, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-1000.0 * onehot, target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("loss", [L.dice_loss, L.jaccard_loss, L.tversky_loss, L.lovasz_loss])
def test_ignored_pixels_change_nothing_and_gradients_are_right(loss):
    logits, target = draw(2)
    value = loss(logits, target, ignore_index=255)
    (gradient,) = torch.autograd.grad(value, logits)
    hidden = (target == 255)[:, None].expand_as(logits)
    assert gradient[hidden].abs().sum() == 0
    other = torch.where(hidden, torch.full_like(logits, torch.nan), logits)
    assert loss(other, target, ignore_index=255).item() == value.item()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, ignore_index=255), (logits,))


@pytest.mark.parametrize("loss", [L.dice_loss, L.jaccard_loss, L.tversky_loss, L.lovasz_loss])
def test_two_classes_can_share_a_channel(loss):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 4, 4), dtype=torch.uint8)
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    foreground = loss(both, target, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(loss(logits, target, link="sigmoid"), foreground)


def test_weights_count_classes():
    logits, target = draw(3)
    each = [L.dice_loss(logits, target, torch.eye(3)[c], 255) for c in range(3)]
    weighted = L.dice_loss(logits, target, torch.tensor([1.0, 2.0, 5.0]), 255)
    torch.testing.assert_close(weighted, (each[0] + 2 * each[1] + 5 * each[2]) / 8)
