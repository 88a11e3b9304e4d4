"""Histograms against sorting everything."""

import math

import numpy as np
import pytest
import torch

from segtrain.losses.inspection import near_label_change
from segtrain.metrics.spectrum import Overlap, Spectrum
from segtrain.task import Task, predict, probabilities

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)
PS = (0.01, 0.1, 0.3, 1.0)


@pytest.fixture(scope="module")
def images():
    """Three batches of logits, labels with ignored pixels, and losses over many orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for count in (2, 1, 3):
        logits = torch.randn(count, 3, 24, 30, generator=generator) * 6
        target = logits.argmax(1) if count == 1 else torch.randint(0, 3, (count, 24, 30), generator=generator)
        target[:, :4] = 255
        hardness = torch.nn.functional.cross_entropy(logits, target, ignore_index=255, reduction="none")
        batches.append((hardness, target != 255, logits, target.to(torch.uint8)))
    return batches


@pytest.fixture(scope="module")
def spectrum(images):
    spectrum = Spectrum(TASK, PS, 2)
    for batch in images:
        spectrum.update(*batch)
    return spectrum


def flat(images, of):
    return torch.cat([of(*batch)[batch[1]] for batch in images])


def test_every_number_is_that_of_sorting_all_losses(images, spectrum):
    losses = flat(images, lambda hardness, *_: hardness).double()
    labels = flat(images, lambda hardness, valid, logits, target: target).long()
    near = flat(images, lambda hardness, valid, logits, target: near_label_change(target, 255, 2))
    wrong = flat(
        images,
        lambda hardness, valid, logits, target: (predict(logits) != target) & (probabilities(logits).amax(1) > 0.95),
    )
    order = losses.argsort(descending=True)
    assert spectrum.valid == len(losses)
    assert spectrum.ignored == 6 * 4 * 30
    for index, p in enumerate(PS):
        mined = spectrum.mined(index)
        kept = order[: max(1, math.floor(p * len(losses) + 1e-6))]
        assert mined.pixels == len(kept)
        assert mined.threshold == pytest.approx(losses[kept[-1]].item(), rel=0.01, abs=1e-5)
        assert mined.loss_share == pytest.approx((losses[kept].sum() / losses.sum()).item(), rel=0.01)
        close = {"abs": 1.5 / len(kept) + 0.01}  # some of the pixels in the bin of the threshold
        assert mined.easy_share == pytest.approx((losses[kept] < 0.01).double().mean().item(), **close)
        assert mined.confident_wrong == pytest.approx(wrong[kept].double().mean().item(), **close)
        assert mined.boundary_share == pytest.approx(near[kept].double().mean().item(), **close)
        assert mined.boundary_lift * near.double().mean().item() == pytest.approx(mined.boundary_share)
        shares = torch.bincount(labels[kept], minlength=3) / len(kept)
        assert mined.class_share == pytest.approx(shares.numpy(), **close)
        present = torch.bincount(labels, minlength=3).numpy() / len(labels)
        assert mined.class_lift == pytest.approx(mined.class_share / present)
    running = losses[order].cumsum(0)
    natural = ((running < 0.99 * running[-1]).sum() + 1) / len(losses)
    assert spectrum.natural() == pytest.approx(natural.item(), rel=0.01)


def test_what_the_same_p_mines_per_image_is_compared(images, spectrum):
    losses = flat(images, lambda hardness, *_: hardness)
    for index, p in enumerate(PS):
        k = max(1, math.floor(p * len(losses) + 1e-6))
        threshold = losses.sort(descending=True).values[k - 1]
        both = either = 0
        for hardness, valid, *_ in images:
            for one, known in zip(hardness, valid, strict=True):
                inside = one[known]
                own = inside >= inside.sort(descending=True).values[max(1, math.floor(p * len(inside) + 1e-6)) - 1]
                both += (own & (inside >= threshold)).sum().item()
                either += (own | (inside >= threshold)).sum().item()
        assert spectrum.mined(index).same_per_image == pytest.approx(both / either, abs=0.02)
    assert spectrum.mined(3).same_per_image == 1


def test_an_even_loss_is_shared_out_like_ties():
    spectrum = Spectrum(TASK, (0.25,), 1)
    target = torch.arange(2).repeat_interleave(20).view(1, 4, 10)
    spectrum.update(torch.ones(1, 4, 10), target < 2, torch.zeros(1, 3, 4, 10), target)
    mined = spectrum.mined(0)
    assert mined.class_share == pytest.approx([0.5, 0.5, 0])
    assert mined.class_lift[:2] == pytest.approx([1, 1])
    assert math.isnan(mined.class_lift[2])
    assert mined.boundary_share == pytest.approx(0.5)
    assert mined.boundary_lift == pytest.approx(1)
    assert mined.loss_share == pytest.approx(0.25)


def test_losses_beyond_the_bins_count_in_the_first_and_the_last():
    spectrum = Spectrum(TASK, (0.25, 0.5), 1)
    losses = torch.tensor([[[0.0, 1e-12, -3.0, 1e6]]])
    spectrum.update(losses, losses < 1e9, torch.zeros(1, 3, 1, 4), torch.zeros(1, 1, 4, dtype=torch.uint8))
    assert spectrum.valid == 4
    assert spectrum.mined(0).threshold > 250
    assert spectrum.mined(1).threshold < 1e-5


def test_nothing_labelled_and_nothing_hard_are_no_errors():
    nothing = Spectrum(TASK, (0.5,), 1)
    nothing.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), torch.zeros(1, 3, 2, 2),
                   torch.full((1, 2, 2), 255))  # fmt: skip
    assert (nothing.valid, nothing.ignored) == (0, 4)
    assert math.isnan(nothing.natural())
    assert math.isnan(nothing.mined(0).loss_share)
    learnt = Spectrum(TASK, (0.5,), 1)
    learnt.update(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 3, 2, 2),
                  torch.zeros(1, 2, 2, dtype=torch.int64))  # fmt: skip
    assert math.isnan(learnt.mined(0).loss_share)
    assert learnt.mined(0).easy_share == 1


def test_images_have_classes_but_no_boundaries():
    spectrum = Spectrum(Task("classification", ("a", "b"), ((0, 0, 0),) * 2, -100), (0.5,), 3)
    target = torch.tensor([0, 1, 1, -100])
    spectrum.update(torch.tensor([0.1, 3.0, 0.2, 0.0]), target >= 0, torch.zeros(4, 2), target)
    mined = spectrum.mined(0)
    assert mined.pixels == 1
    assert mined.class_share == pytest.approx([0, 1])
    assert math.isnan(mined.boundary_share)
    assert math.isnan(mined.same_per_image)


def test_two_models_overlap_as_their_sets_do():
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(4, 50, 50, generator=generator).exp()
    other = one * torch.randn(4, 50, 50, generator=generator).mul(0.5).exp()
    valid = torch.rand(4, 50, 50, generator=generator) > 0.2
    overlap, same = Overlap(), Overlap()
    for index in range(4):
        overlap.update(one[index : index + 1], other[index : index + 1], valid[index : index + 1])
        same.update(one[index : index + 1], one[index : index + 1], valid[index : index + 1])
    for p in (0.05, 0.25, 0.8):
        sets = []
        for losses in (one[valid], other[valid]):
            sets.append(losses >= losses.sort(descending=True).values[int(p * valid.sum()) - 1])
        expected = (sets[0] & sets[1]).sum() / (sets[0] | sets[1]).sum()
        assert overlap.jaccard(p) == pytest.approx(expected.item(), abs=0.02)
        assert same.jaccard(p) > 0.9
    assert overlap.jaccard(1.0) == 1


def test_the_memory_does_not_grow_with_the_data(images):
    spectrum = Spectrum(TASK, PS, 2)
    sizes = []
    for batch in images:
        spectrum.update(*batch)
        sizes.append(sum(value.nbytes for value in vars(spectrum).values() if isinstance(value, torch.Tensor)))
    assert len(set(sizes)) == 1
    assert sizes[0] < 1 << 20
    assert np.sum([valid.sum() for _, valid, *_ in images]) == spectrum.valid
