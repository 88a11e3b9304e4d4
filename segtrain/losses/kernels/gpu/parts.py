"""What the kernels have in common: labels, interpolation, and how a loss follows its logits.

Numbers of a pixel come in a shape that spreads over a tile of classes by pixels.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: N803, SIM108
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def aligned(pixels, classes, by_image, by_class, by_pixel, ALIGNED: tl.constexpr, LAST: tl.constexpr):
    """The same, known to be multiples of a power of two, for loads of vectors: Triton itself sees only those of 16.

    LAST: the classes of a pixel are neighbours in memory. Of `by_class` Triton knows no more than it is told here.
    """
    by_image = by_image // ALIGNED * ALIGNED
    if LAST:
        classes, by_class, by_pixel = classes // ALIGNED * ALIGNED, 1, by_pixel // ALIGNED * ALIGNED
    else:
        pixels, by_class = pixels // ALIGNED * ALIGNED, by_class // ALIGNED * ALIGNED
    return pixels, classes, by_image, by_class, by_pixel


@triton.jit
def pixels_of_program(pixels, BLOCK: tl.constexpr, VECTOR: tl.constexpr):
    """The image of a program and its pixels, [BLOCK / VECTOR, VECTOR]."""
    blocks = tl.cdiv(pixels, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    group = tl.arange(0, BLOCK // VECTOR)[:, None] * VECTOR
    return image, tl.program_id(0) % blocks * BLOCK + group + tl.arange(0, VECTOR)[None, :]


@triton.jit
def classes_of_chunk(start, CHUNK: tl.constexpr, LANES: tl.constexpr):
    """[CHUNK / LANES, 1, LANES]: what neighbouring threads read are neighbours."""
    return start + tl.arange(0, CHUNK // LANES)[:, None, None] * LANES + tl.arange(0, LANES)[None, None, :]


@triton.jit
def over_classes(x, LANES: tl.constexpr):
    """The sum, a number per pixel."""
    x = tl.sum(x, 0)
    if LANES > 1:
        x = tl.sum(x, 1, keep_dims=True)
    return x


@triton.jit
def largest_class(x, LANES: tl.constexpr):
    """The maximum, a number per pixel."""
    x = tl.max(x, 0)
    if LANES > 1:
        x = tl.max(x, 1, keep_dims=True)
    return x


@triton.jit
def labelled(target, weight, at, inside, known, ignore_index, WEIGHTED: tl.constexpr):
    """The label of a pixel (-1: none), what it counts for, and whether it is neither a class nor ignored."""
    label = tl.load(target + at, inside, other=0).to(tl.int64)
    named = label != ignore_index
    usable = named & (label >= 0) & (label < known)
    counts = tl.where(named, 1.0, 0.0)
    if WEIGHTED:
        counts = tl.where(usable, tl.load(weight + tl.where(usable, label, 0), inside, other=0.0), counts)
    return tl.where(usable, label, -1).to(tl.int32), counts, named & (usable == 0)


@triton.jit
def position(at, scale, half):
    """Where among the logits at low resolution a row or column of pixels is."""
    return tl.maximum((at.to(tl.float32) + half) * scale - half, 0.0)


@triton.jit
def behind(at, first, scale, half):
    """How far a row or column of pixels is behind `first`, as a part of the way to the next."""
    return tl.minimum(tl.maximum(position(at, scale, half) - first, 0.0), 1.0)


@triton.jit
def neighbours(at, scale, half, low):
    """What a row or column of pixels is interpolated from: the one before, the one behind, and the latter's part."""
    first = tl.minimum(position(at, scale, half).to(tl.int32), low - 1)
    return first, tl.minimum(first + 1, low - 1), behind(at, first, scale, half)


@triton.jit
def begin(first, scale, half, low, full):
    """The first row or column of pixels that has `first` or a later one before it; `full` if there is none."""
    at = tl.maximum((first + half) / scale - half, 0.0).to(tl.int32) - 1
    at = tl.where(first == 0, 0, tl.maximum(at, 0))
    for _ in tl.static_range(3):  # division rounds, the position decides
        at += (position(at, scale, half) < first).to(tl.int32)
    return tl.where(first >= low, full, tl.minimum(at, full))


@triton.jit
def interpolated(a, b, d, e, down, right):
    """From the neighbours top left, top right, bottom left, bottom right."""
    return (1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * d + right * e)


@triton.jit
def softplus(x):
    """log(1 + e^x); log1p(y) is 2 artanh(y / (2 + y)), whose series ends soon for y <= 1."""
    y = tl.exp(-tl.abs(x))
    s = y / (2 + y)
    q = s * s
    series = 1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15 + q * (1 / 17))))
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * series)))
    return tl.maximum(x, 0.0) + 2 * s * series


@triton.jit
def slopes(
    x, c, label, counts, share, peak, log_total, weight, mass, classes, known, smoothing,
    SIGMOID: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr,
):  # fmt: skip
    """The derivatives of a loss, `share` times, for its logits x of the classes c."""
    of_label = counts
    of_all = counts
    if SIGMOID:
        chance = tl.sigmoid(x)
    else:
        chance = tl.exp((x - peak) - log_total)
    if SMOOTHED:
        of_label = (1 - smoothing) * counts
        if SIGMOID:
            spread_out = smoothing / 2 * counts
        else:
            of_all = of_label + smoothing * tl.load(mass) / classes
            spread_out = smoothing / classes
            if WEIGHTED:
                spread_out *= tl.load(weight + c, c < classes, other=0.0)
    slope = chance * of_all - tl.where(c + (known - classes) == label, of_label, 0.0)
    if SMOOTHED:
        slope -= spread_out
    return tl.where(share == 0, 0.0, slope * share)
