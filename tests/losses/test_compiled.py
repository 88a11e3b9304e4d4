"""A compiled criterion is one graph, with the values and gradients of the plain one."""

import pytest
import torch

import segtrain.losses as L
from segtrain.losses import as_criterion, components, pixel
from segtrain.losses.criterion import WeightedTerm, bootstrapped_bce_with_logits, bootstrapped_ce, ohem, weighted_sum
from segtrain.schedule import linear
from segtrain.task import Task

TASK = Task("segmentation", ("a", "b", "c", "d"), ((0, 0, 0),) * 4)
WEIGHTS = [0.5, 1.0, 0.0, 3.0]


def criteria():
    rising = WeightedTerm(components.bce_with_logits(TASK, label_smoothing=0.1), linear(start=0, end=10))
    return {
        "bootstrapped_ce": bootstrapped_ce(TASK, top_p=0.3),
        "options": bootstrapped_ce(TASK, top_p=0.3, scope="image", skip_hardest=0.05, min_per_class=3),
        "warm-up": bootstrapped_ce(TASK, top_p=0.3, warmup=linear(start=2, end=10)),
        "smoothed": as_criterion(components.label_smoothed_ce(TASK, class_weights=WEIGHTS), TASK),
        "focal": as_criterion(components.focal(TASK), TASK),
        "bce": bootstrapped_bce_with_logits(TASK, top_p=0.3, class_weights=WEIGHTS, label_smoothing=0.1),
        "ohem": ohem(TASK, threshold=0.4, min_kept=20),
        "weighted sum": weighted_sum(
            TASK,
            terms={
                "mined": WeightedTerm(bootstrapped_ce(TASK, top_p=0.3)),
                "dice": WeightedTerm(components.dice(TASK), 0.3),
            },
        ),
        "schedule": weighted_sum(
            TASK, terms={"rising": rising, "l1": WeightedTerm(components.l1(TASK, link="sigmoid"))}
        ),
    }


def modules():
    return {
        "BootstrappedCrossEntropy": L.BootstrappedCrossEntropy(
            0.3, weight=WEIGHTS, ignore_index=255, label_smoothing=0.1
        ),
        "BootstrappedBCEWithLogits": L.BootstrappedBCEWithLogits(0.3, warmup=2, ignore_index=255),
        "Mined": L.Mined(L.FocalLoss(ignore_index=255), 0.5, lambda p, step: p, scope="image"),
    }


def scene():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 9, 11, generator=generator)
    target = torch.randint(0, 4, (2, 9, 11), generator=generator, dtype=torch.uint8)
    target[0, :4] = 255
    return logits.requires_grad_(), target


def compare(plain, compiled):
    logits, target = scene()
    for step in (0, 5):
        losses = [call(logits, target, step) for call in (plain, compiled)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


OFTEN = ("bootstrapped_ce", "smoothed", "bce", "weighted sum")  # the others at night: each takes the compiler seconds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in criteria()]
)
def test_a_criterion_of_a_configuration_is_one_graph(name):
    criterion = criteria()[name]
    whole = torch.compile(criterion, fullgraph=True, backend="eager")
    compare(lambda *batch: criterion(*batch).value, lambda *batch: whole(*batch).value)
    logits, target = scene()
    torch.testing.assert_close(whole(logits, target, 0).logs, criterion(logits, target, 0).logs)


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_that_is_told_the_iteration_is_one_graph(name):
    module = modules()[name]
    whole = torch.compile(module, fullgraph=True, backend="eager")
    compare(lambda x, y, step: module(x, y, iteration=step), lambda x, y, step: whole(x, y, iteration=step))


def test_the_compiler_is_given_nothing_to_gather_or_scatter_for_cross_entropy():
    asked = set()

    def note(module, _inputs):
        graphs = [part.graph for part in module.modules() if isinstance(part, torch.fx.GraphModule)]
        asked.update(str(node.target) for graph in graphs for node in graph.nodes)
        return module.forward

    logits, target = scene()
    torch.compile(pixel.cross_entropy, fullgraph=True, backend=note)(logits, target)
    assert any("exp" in name for name in asked)
    assert not any(word in name for name in asked for word in ("gather", "scatter", "softmax"))


@pytest.mark.parametrize("loss", [L.CrossEntropyLoss, L.NLLLoss, L.BCEWithLogitsLoss, L.L1Loss])
def test_what_is_not_finite_under_an_ignored_label_has_no_gradient_in_a_graph_either(loss):
    logits, target = scene()
    with torch.no_grad():
        logits[0, :, 0, 0], logits[0, :, 3, 2] = torch.nan, torch.inf
    module = loss(ignore_index=255)
    value, expected = torch.compile(module, fullgraph=True, backend="eager")(logits, target), module(logits, target)
    torch.testing.assert_close(value, expected)
    slope, wanted = (torch.autograd.grad(one, logits)[0] for one in (value, expected))
    torch.testing.assert_close(slope, wanted)
    assert not slope[0, :, :4].any()
