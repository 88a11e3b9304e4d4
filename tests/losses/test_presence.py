"""Which classes occur in an image, against its definition; and the term of a criterion that reads it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.losses.components import cross_entropy
from segtrain.losses.criterion import WeightedTerm, as_criterion, bootstrapped_ce, mined, weighted_sum
from segtrain.losses.maps import divide
from segtrain.losses.presence import image_presence, presence
from segtrain.task import Output, Task

TASK = Task("segmentation", ("sky", "road", "pole"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def draw(seed, channels=3, ignored=0.9, images=4):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, channels, generator=generator, dtype=torch.float64)
    target = torch.randint(0, max(channels, 2), (images, 2, 3), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return scores.requires_grad_(), target


def by_hand(scores, target):
    """The mean over images that have a label, of the mean over classes."""
    each = []
    for image, labels in zip(scores.detach().numpy(), target.numpy(), strict=True):
        found = set(labels[labels != 255].tolist())
        classes = [1] if len(image) == 1 else range(len(image))
        p = 1 / (1 + np.exp(-image))
        if found:
            each.append(
                np.mean([-np.log(q) if c in found else -np.log(1 - q) for c, q in zip(classes, p, strict=True)])
            )
    return np.mean(each) if each else 0.0


@given(st.integers(0, 2**16), st.sampled_from([1, 2, 3, 21]), st.sampled_from([0.0, 0.9, 1.0]))
@settings(max_examples=60, deadline=None)
def test_presence_is_the_cross_entropy_of_each_class_in_the_images_that_have_labels(seed, channels, ignored):
    scores, target = draw(seed, channels, ignored)
    sums = presence(scores, target)
    value = divide(sums.total, sums.count)
    assert value.item() == pytest.approx(by_hand(scores, target), abs=1e-12)
    value.backward()
    labelled = (target != 255).flatten(1).any(1)
    assert (scores.grad[~labelled] == 0).all()
    assert scores.grad[labelled].abs().sum() > 0 or not labelled.any()


def test_a_label_out_of_range_is_nan_and_not_a_crash():
    scores, target = draw(0, ignored=0.0)
    target[1, 0, 0] = 3
    assert presence(scores, target).total.isnan()


def test_half_precision_is_computed_in_single():
    scores, target = draw(3, ignored=0.5)
    half = scores.detach().bfloat16()
    torch.testing.assert_close(presence(half, target).total, presence(half.float(), target).total)


def both(weight=0.5):
    terms = {
        "ce": WeightedTerm(bootstrapped_ce(TASK, top_p=0.5)),
        "presence": WeightedTerm(image_presence(TASK), weight),
    }
    return weighted_sum(TASK, terms=terms)


def test_a_sum_gives_each_head_its_own_gradient():
    scores, target = draw(1, ignored=0.2)
    logits = torch.randn(4, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    loss = both()(Output(logits, scores), target, 0)
    alone = bootstrapped_ce(TASK, top_p=0.5)(logits, target, 0).value
    torch.testing.assert_close(loss.value, alone + 0.5 * by_hand(scores, target))
    loss.value.backward()
    expected = torch.autograd.grad(alone, logits)[0]
    torch.testing.assert_close(logits.grad, expected)
    assert scores.grad.abs().sum() > 0
    scalars = both().scalars({key: value.item() for key, value in loss.logs.items()})
    assert scalars["train/loss/presence"] == pytest.approx(0.5 * by_hand(scores, target))


def test_shares_of_micro_batches_add_up_to_the_step():
    scores, target = draw(2, ignored=0.95, images=6)
    logits = torch.randn(6, 3, 2, 3, dtype=torch.float64)
    criterion = weighted_sum(
        TASK,
        terms={"ce": WeightedTerm(cross_entropy(TASK)), "presence": WeightedTerm(image_presence(TASK))},
    )
    parts = [slice(0, 2), slice(2, 6)]
    mass = torch.stack([criterion.mass(target[part]) for part in parts])
    shares = mass / mass.sum(0)
    split = sum(
        criterion(Output(logits[part], scores[part]), target[part], 0, share).value
        for part, share in zip(parts, shares, strict=True)
    )
    torch.testing.assert_close(split, criterion(Output(logits, scores), target, 0).value)


def test_a_step_asks_nothing_of_the_host():
    scores, target = draw(0)
    logits = torch.randn(4, 3, 2, 3, device="meta", requires_grad=True)
    loss = both().to("meta")(Output(logits, scores.to("meta")), target.to("meta"), 0)
    torch.autograd.grad(loss.value, logits)


def test_it_can_be_copied_and_pickled_and_has_no_state():
    scores, target = draw(0)
    output = Output(torch.randn(4, 3, 2, 3), scores)
    for twin in (copy.deepcopy(both()), pickle.loads(pickle.dumps(both()))):
        assert twin(output, target, 0).value.item() == both()(output, target, 0).value.item()
    assert both().state_dict() == {}


def test_in_evaluation_it_adds_nothing():
    _, target = draw(1)
    plain = both().plain(torch.randn(4, 3, 2, 3), target, 0)
    assert plain[1].tolist() == [0.0, 0.0]
    assert plain[0, 1] > 0


def test_a_model_without_an_image_head_is_named():
    with pytest.raises(ValueError, match=r"image_presence reads the scores of an image head.*aux_params"):
        both()(torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8), 0)


def test_presence_cannot_be_mined_and_classifies_no_samples():
    with pytest.raises(ValueError, match="image_presence cannot be mined"):
        mined(TASK, loss=as_criterion(image_presence(TASK), TASK), top_p=0.5)
    with pytest.raises(ValueError, match="image_presence in classification"):
        image_presence(Task("classification", ("a", "b"), ((0, 0, 0), (1, 1, 1)), -100))
