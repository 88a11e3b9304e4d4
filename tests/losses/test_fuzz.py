"""Mined losses of random shapes, types, layouts and options: both paths against float64, whatever the options are."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import binary_cross_entropy, mined_cross_entropy, pixels, shares, unpixels

from segtrain.losses import channels, kernels, pixel
from segtrain.losses.kernels import blocks, graph
from segtrain.losses.maps import divide, reduced
from segtrain.losses.mining import hardest
from segtrain.upsampling import Upsampled, full_resolution

DTYPES = (torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16)


class Case:
    """What a seed stands for."""

    def __init__(self, seed):
        draw = self.draw = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.link = draw.choice(("softmax", "softmax", "sigmoid"))
        self.dtype = draw.choice(DTYPES)
        self.classes = draw.choice((1, 2, 3, 5, 8, 19, 40))
        self.known = max(self.classes, 2) if self.link == "sigmoid" else self.classes
        self.images, *size = draw.randint(1, 3), draw.randint(1, 14), draw.randint(1, 14)
        self.upsampled = draw.random() < 0.3
        self.smoothing = draw.choice((0.0, 0.0, 0.1, 1.0, draw.random()))
        self.spread = draw.choice(("all", "others")) if self.link == "softmax" and self.classes > 1 else "all"
        self.p = draw.choice((1.0, 0.15, 0.5, 1e-3, 1 - draw.random()))
        self.scope = draw.choice(("batch", "rank", "image"))
        self.ignore_index = draw.choice((255, 255, -100, 0))
        self.block = draw.choice((1, 64, 1000, 1 << 19))
        self.weight = None
        if draw.random() < 0.4:
            self.weight = torch.rand(self.known, generator=self.generator) * draw.choice((1, 10))
            self.weight[draw.randrange(self.known)] *= draw.choice((0, 1))
        self.logits = self._logits(size)
        self.target = self._target(size if not self.upsampled else list(self.logits.size))

    def _logits(self, size):
        draw = self.draw
        logits = torch.randn(self.images, self.classes, *size, generator=self.generator) * draw.choice((0, 1, 4, 60))
        if draw.random() < 0.3:
            logits = logits.round()  # ties
        logits = logits.to(self.dtype)
        layout = draw.choice(("contiguous", "contiguous", "channels last", "cropped", "transposed"))
        if layout == "channels last":
            logits = logits.to(memory_format=torch.channels_last)
        elif layout == "cropped":
            logits = F.pad(logits, (1, 3, 0, 2))[..., : size[0], 1 : size[1] + 1]
        elif layout == "transposed":
            logits = logits.transpose(2, 3).contiguous().transpose(2, 3)
        if not self.upsampled:
            return logits
        factor = draw.choice((1, 2, 4, 1.7, 0.6))
        grid = tuple(max(1, int(factor * one)) for one in size)
        cropped = tuple(draw.randint(max(1, one - 3), one) for one in grid)
        return Upsampled(logits, grid, cropped, draw.random() < 0.5)

    def _target(self, size):
        dtype = torch.int64 if self.ignore_index < 0 else self.draw.choice((torch.uint8, torch.int32, torch.int64))
        target = torch.randint(0, self.known, (self.images, *size), generator=self.generator)
        ignored = torch.rand(target.shape, generator=self.generator) < self.draw.choice((0, 0.2, 0.9, 1))
        target[ignored] = self.ignore_index
        return target.to(dtype)

    def mined(self):
        """The mined mean, its gradient, the map, and how much a pixel's slopes are scaled at most."""
        low = (self.logits.low if self.upsampled else self.logits).detach().requires_grad_()
        logits = self.logits._replace(low=low) if self.upsampled else low
        options = {"weight": self.weight, "ignore_index": self.ignore_index, "label_smoothing": self.smoothing}
        if self.link == "softmax":
            losses = pixel.cross_entropy(logits, self.target, spread=self.spread, **options)
        else:
            losses = channels.bce_with_logits(logits, self.target, **options)
        selection = hardest(self.p, scope=self.scope)(losses, 0, self.target, self.known)
        sums = reduced(losses, selection.share)
        value = divide(sums.total, sums.count)
        most = 1.0 if self.weight is None else float(self.weight.max())
        most *= max(1.0, self.target[0].numel() / low[0, 0].numel())  # pixels that add up to the slope of a logit
        return value.detach(), torch.autograd.grad(value, low)[0], losses, most / max(1e-30, float(sums.count))

    def expected(self, hardness):
        """The same in float64, mined by what a path ranks by: rounding may exchange pixels that are nearly as hard."""
        low = (self.logits.low if self.upsampled else self.logits).detach().double().requires_grad_()
        logits = self.logits._replace(low=low).full() if self.upsampled else low
        x, target = logits.detach().numpy(), self.target.numpy()
        weight = np.ones(self.known) if self.weight is None else self.weight.double().numpy()
        hardness = hardness.double().numpy().ravel()
        if self.link == "softmax":
            value, slope = mined_cross_entropy(
                x, target, self.p, weight=weight, ignore_index=self.ignore_index, smoothing=self.smoothing,
                spread=self.spread, scope=self.scope, hardness=hardness,
            )  # fmt: skip
        else:
            value, slope = self._expected_of_sigmoids(x, target, weight, hardness)
        return value, torch.autograd.grad(logits, low, torch.from_numpy(slope))[0]

    def _expected_of_sigmoids(self, x, target, weight, hardness):
        labels = target.astype(np.int64).ravel()
        valid = labels != self.ignore_index
        safe = np.where(valid, labels, 0)
        valid &= weight[safe] > 0
        wanted = safe[:, None] if self.classes == 1 else np.eye(self.classes)[safe]
        rows = pixels(x)
        value, slope = binary_cross_entropy(rows, wanted * (1 - self.smoothing) + self.smoothing / 2)
        images = np.repeat(np.arange(len(target)), len(labels) // len(target))
        groups = [images == image for image in range(len(target))] if self.scope == "image" else [images >= 0]
        share = sum(shares(hardness, valid & group, self.p) for group in groups) * weight[safe]
        count = (share * self.classes).sum() or 1.0
        return float((value.sum(1) * share).sum() / count), unpixels(slope * share[:, None] / count, x.shape)


def check(seed, monkeypatch):
    case = Case(seed)
    for path, least in (("blocks", 0), ("plain", 1 << 60), ("graph", 1 << 60)):
        if path != "blocks" and case.upsampled and case.dtype in (torch.bfloat16, torch.float16):
            continue  # torch interpolates in half precision: its logits are others, by up to 2^-9 of them
        with monkeypatch.context() as patch:
            patch.setattr(blocks, "_BLOCK", case.block)
            patch.setattr(kernels, "_LARGE", least)
            if path == "graph":
                patch.setattr(kernels, "cross_entropy", in_a_graph)
            value, gradient, losses, scale = case.mined()
        expected, slope = case.expected(losses.hardness)
        place = f"seed {seed}, {path}"
        # some dozen operations round to `eps`: relative to a loss, and in a slope to terms that may cancel each other
        eps = 60 * torch.finfo(losses.value.dtype).eps
        if case.upsampled:  # positions between logits round too, and a part of a large logit is large
            eps *= max(1.0, float(case.logits.low.abs().max()))
        np.testing.assert_allclose(value.double(), expected, rtol=eps, atol=eps, err_msg=place)
        # then a slope is rounded once to the type of the logits, which near 0 has steps of its smallest number
        kind = torch.finfo(case.dtype)
        allowed = (
            eps * max(scale, float(slope.abs().max())) + kind.eps / 2 * slope.abs() + kind.smallest_normal * kind.eps
        )
        error = (gradient.double() - slope).abs()
        assert gradient.dtype == case.dtype
        assert bool((error <= allowed).all()), (place, float((error - allowed).max()))


def in_a_graph(logits, *options):
    """What the compiler is given."""
    return graph.cross_entropy(full_resolution(logits), *options)


@pytest.mark.parametrize("start", range(0, 40, 20))
def test_some_random_mined_losses_are_those_of_float64(start, monkeypatch):
    for seed in range(start, start + 20):
        check(seed, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 2000, 500))
def test_many_random_mined_losses_are_those_of_float64(start, monkeypatch):
    for seed in range(start, start + 500):
        check(seed, monkeypatch)
