"""Values that were printed elsewhere, on inputs given in full."""

import pytest
import torch

import segtrain.losses as L

SMALL = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
CLEAR = torch.tensor([[1.0, 8, 1], [1, 1, 8]])
CLEARER = torch.tensor([[0.1, 8, 0.1], [0.1, 0.1, 8]])
FIVE = torch.tensor([[0, 0.2, 0.7, 0.1, 0], [0, 0.9, 0.2, 0.2, 1], [1, 0.2, 0.7, 0.9, 1]])
ONE, OTHER = torch.tensor([0.4, 0.1]), torch.tensor([0.2, 0.8])
GRID, WANTED = torch.tensor([[3.0, 1], [1, 0]]), torch.tensor([[1.0, 0], [1, 0]])


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (lambda: L.cross_entropy(SMALL, labels(1, 0)), 1.3133),
        (lambda: L.cross_entropy(CLEAR, labels(1, 2)), 0.0018),
        (lambda: L.cross_entropy(CLEARER, labels(1, 2)), 0.0007),
        (lambda: L.LabelSmoothingCrossEntropy(0.3)(FIVE, labels(2, 1, 0)), 1.3883),
        (lambda: L.LabelSmoothingCrossEntropy(0.3, "others")(FIVE, labels(2, 1, 0)), 1.4178),
        (lambda: L.LabelSmoothingCrossEntropy(0.5, "others")(FIVE, labels(2, 1, 0)), 1.5161),
        (lambda: L.LabelSmoothingCrossEntropy(0.05)(CLEAR, labels(1, 2)), 0.2352),
        (lambda: L.LabelSmoothingCrossEntropy(0.05)(CLEARER, labels(1, 2)), 0.2641),
        (lambda: L.LabelSmoothingCrossEntropy(0.05, "others")(CLEAR, labels(1, 2)), 0.3518),
        (lambda: L.LabelSmoothingCrossEntropy(0.05, "others")(CLEARER, labels(1, 2)), 0.3957),
        (lambda: L.binary_cross_entropy(ONE, OTHER), 1.2275),
        (lambda: L.binary_cross_entropy_with_logits(ONE, OTHER), 0.7487),
        (lambda: L.l1_loss(GRID, WANTED), 0.75),
        (lambda: L.mse_loss(GRID, WANTED), 1.25),
        (lambda: L.nll_loss(torch.tensor([[3.0, 1], [2, 4]]), labels(0, 1)), -3.5),
        (
            lambda: L.kl_div(torch.tensor([0.5, 0.2, 0.3]).log(), torch.tensor([0.1, 0.2, 0.7]), reduction="sum"),
            0.4322,
        ),
    ],
)
def test_published_value(loss, value) -> None:
    assert loss().item() == pytest.approx(value, abs=5.1e-5)


def test_smoothing_the_others_is_smoothing_all_by_more() -> None:
    others = L.LabelSmoothingCrossEntropy(0.3, "others")(FIVE, labels(2, 1, 0))
    torch.testing.assert_close(others, L.LabelSmoothingCrossEntropy(0.3 * 5 / 4)(FIVE, labels(2, 1, 0)))


@pytest.mark.parametrize(("step", "p"), [(19999, 1), (20000, 1), (45000, 0.575), (70000, 0.15), (70001, 0.15)])
def test_the_published_linear_warm_up(step: int, p: float) -> None:
    from segtrain.losses.mining import mined_share
    from segtrain.schedule import linear

    assert mined_share(0.15, linear(start=20000, end=70000), step) == pytest.approx(p, abs=1e-12)
