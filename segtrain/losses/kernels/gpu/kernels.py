"""Cross entropy (softmax) and binary cross entropy (sigmoid) of labels, forward and backward.

A program holds some pixels and meets their classes in chunks. Where pixels are neighbours in memory, a thread holds all
classes of its own pixels, so nothing is exchanged between threads; where classes are, a few threads share a pixel.
A mask that depends on data makes each load a scalar, unless it is the same for all that a thread loads at a time:
forward the masks are bounds only, backward what no pixel of a vector needs is not read.

`known` is the number of labels; one channel speaks for label 1 of two.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: D103, N803, SIM108
from __future__ import annotations

import triton
import triton.language as tl

from segtrain.losses.kernels.gpu.parts import (
    aligned,
    begin,
    behind,
    classes_of_chunk,
    interpolated,
    labelled,
    largest_class,
    neighbours,
    over_classes,
    pixels_of_program,
    slopes,
    softplus,
)


@triton.jit(do_not_specialize=["by_class"])
def forward_kernel(
    logits, target, weight, mass, value, count, hardness, valid, peak, log_total,
    pixels, classes, known, by_image, by_class, by_pixel, ignore_index, smoothing,
    width, low_height, low_width, scale_y, scale_x, half,
    SIGMOID: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr, UPSAMPLED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, VECTOR: tl.constexpr, LANES: tl.constexpr,
    ALIGNED: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    pixels, classes, by_image, by_class, by_pixel = aligned(
        pixels, classes, by_image, by_class, by_pixel, ALIGNED, LAST
    )
    image, pixel = pixels_of_program(pixels, BLOCK, VECTOR)
    inside = pixel < pixels
    at = image * pixels + pixel
    label, counts, spoiled = labelled(target, weight, at, inside, known, ignore_index, WEIGHTED)
    base = logits + image * by_image
    if UPSAMPLED:
        y0, y1, down = neighbours(pixel // width, scale_y, half, low_height)
        x0, x1, right = neighbours(pixel % width, scale_x, half, low_width)
        down, right = down[None, :, :], right[None, :, :]
        first = base + (y0 * low_width + x0)[None, :, :].to(tl.int64) * by_pixel
        second = base + (y0 * low_width + x1)[None, :, :].to(tl.int64) * by_pixel
        third = base + (y1 * low_width + x0)[None, :, :].to(tl.int64) * by_pixel
        fourth = base + (y1 * low_width + x1)[None, :, :].to(tl.int64) * by_pixel
    else:
        first = base + pixel[None, :, :].to(tl.int64) * by_pixel
    top = tl.full([BLOCK // VECTOR, VECTOR], float("-inf"), tl.float32)
    # top, but never -inf: what is masked out is no more than 0
    anchor = tl.zeros([BLOCK // VECTOR, VECTOR], tl.float32)
    total = tl.zeros([BLOCK // VECTOR, VECTOR], tl.float32)
    x_label = tl.zeros([BLOCK // VECTOR, VECTOR], tl.float32)
    others = tl.zeros([BLOCK // VECTOR, VECTOR], tl.float32)
    seen = tl.zeros([BLOCK // VECTOR, VECTOR], tl.float32)
    for start in range(0, classes, CHUNK):
        c = classes_of_chunk(start, CHUNK, LANES)
        here = (c < classes) & inside[None, :, :]
        at_class = c.to(tl.int64) * by_class
        if UPSAMPLED:
            x = interpolated(
                tl.load(first + at_class, here, other=0.0).to(tl.float32),
                tl.load(second + at_class, here, other=0.0).to(tl.float32),
                tl.load(third + at_class, here, other=0.0).to(tl.float32),
                tl.load(fourth + at_class, here, other=0.0).to(tl.float32),
                down, right,
            )  # fmt: skip
            x = tl.where(here, x, float("-inf"))
        else:
            x = tl.load(first + at_class, here, other=float("-inf")).to(tl.float32)
        x_label += over_classes(tl.where(c + (known - classes) == label[None, :, :], x, 0.0), LANES)
        if SIGMOID:
            total += over_classes(softplus(x), LANES)
            if SMOOTHED:
                others += over_classes(tl.where(here, x, 0.0), LANES)
        else:
            top = tl.maximum(top, largest_class(x, LANES))
            before = anchor
            anchor = tl.where(top == float("-inf"), 0.0, top)
            total = tl.where(total == 0, 0.0, total * tl.exp(before - anchor))
            total += over_classes(tl.exp(x - anchor[None, :, :]), LANES)
            if SMOOTHED:  # Σ weight · (x - anchor)
                if WEIGHTED:
                    w = tl.load(weight + c, c < classes, other=0.0)
                else:
                    w = tl.where(c < classes, 1.0, 0.0)
                others += seen * (before - anchor)
                others += over_classes(tl.where(here, w * (x - anchor[None, :, :]), 0.0), LANES)
                seen += over_classes(w, LANES)
    is_valid = counts > 0
    total = tl.where(spoiled, float("nan"), total)
    if SIGMOID:
        surprise = total - x_label
        loss = surprise
        if SMOOTHED:
            loss = total - (1 - smoothing) * x_label - smoothing / 2 * others
        loss *= counts
        surprise /= classes
        counts *= classes
    else:
        log_sum = tl.log(total)
        surprise = log_sum - (x_label - top)
        loss = surprise * counts
        if SMOOTHED:
            spread_out = (log_sum * tl.load(mass) - others) / classes
            loss = (1 - smoothing) * loss + smoothing * spread_out
        tl.store(peak + at, top, inside)
        tl.store(log_total + at, log_sum, inside)
    tl.store(value + at, tl.where(is_valid, loss, 0.0), inside)
    tl.store(count + at, counts, inside)
    if SIGMOID or WEIGHTED or SMOOTHED:  # else it is the value
        tl.store(hardness + at, tl.where(is_valid, surprise, 0.0), inside)
    tl.store(valid + at, is_valid, inside)


@triton.jit(do_not_specialize=["by_class"])
def backward_kernel(
    logits, target, weight, mass, slope, peak, log_total, gradient,
    pixels, classes, known, by_image, by_class, by_pixel, ignore_index, smoothing,
    SIGMOID: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr, VECTOR: tl.constexpr, LANES: tl.constexpr,
    ALIGNED: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    pixels, classes, by_image, by_class, by_pixel = aligned(
        pixels, classes, by_image, by_class, by_pixel, ALIGNED, LAST
    )
    image, pixel = pixels_of_program(pixels, BLOCK, VECTOR)
    inside = pixel < pixels
    at = image * pixels + pixel
    label, counts, spoiled = labelled(target, weight, at, inside, known, ignore_index, WEIGHTED)
    share = tl.where(counts == 0, 0.0, tl.load(slope + at, inside, other=0.0))
    counts = tl.where(spoiled, float("nan"), counts)[None, :, :]
    needed = (tl.max((share != 0).to(tl.int32), 1) > 0)[None, :, None]
    share = share[None, :, :]
    if SIGMOID:
        top, log_sum = share, share  # not read
    else:
        top = tl.load(peak + at, inside, other=0.0).to(tl.float32)[None, :, :]
        log_sum = tl.load(log_total + at, inside, other=0.0)[None, :, :]
    offset = image * by_image + pixel[None, :, :].to(tl.int64) * by_pixel
    for start in range(0, classes, CHUNK):
        c = classes_of_chunk(start, CHUNK, LANES)
        here = (c < classes) & inside[None, :, :]
        where = offset + c.to(tl.int64) * by_class
        x = tl.load(logits + where, here & needed, other=0.0).to(tl.float32)
        slope_of_x = slopes(
            x, c, label[None, :, :], counts, share, top, log_sum, weight, mass, classes, known, smoothing,
            SIGMOID, WEIGHTED, SMOOTHED,
        )  # fmt: skip
        tl.store(gradient + where, slope_of_x.to(gradient.dtype.element_ty), here)


@triton.jit(do_not_specialize=["by_class"])
def backward_of_cells_kernel(
    logits, target, weight, mass, slope, peak, log_total, gradient,
    pixels, classes, known, by_image, by_class, by_pixel, ignore_index, smoothing,
    odd_y, odd_x, height, width, low_height, low_width, scale_y, scale_x, half,
    SIGMOID: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTHED: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A thread has a cell, the pixels between the same four logits, and adds to the gradient (float32) of these.

    Of the cells a launch takes every second one along both axes: no two of them touch the same number, so four
    launches add everything up in one order. The first one touches all numbers, so it writes them.
    """
    across = (low_width - odd_x + 1) // 2
    cells = across * ((low_height - odd_y + 1) // 2)
    blocks = tl.cdiv(cells, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    cell = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = cell < cells
    y0 = cell // across * 2 + odd_y
    x0 = cell % across * 2 + odd_x
    y1, x1 = tl.minimum(y0 + 1, low_height - 1), tl.minimum(x0 + 1, low_width - 1)
    first_y = begin(y0, scale_y, half, low_height, height)
    first_x = begin(x0, scale_x, half, low_width, width)
    rows = tl.where(inside, begin(y0 + 1, scale_y, half, low_height, height) - first_y, 0)
    columns = tl.where(inside, begin(x0 + 1, scale_x, half, low_width, width) - first_x, 0)
    c = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)[:, None]
    here = (c < classes) & inside[None, :]
    at_class = image * by_image + c.to(tl.int64) * by_class
    at_a = at_class + (y0 * low_width + x0)[None, :].to(tl.int64) * by_pixel
    at_b = at_class + (y0 * low_width + x1)[None, :].to(tl.int64) * by_pixel
    at_d = at_class + (y1 * low_width + x0)[None, :].to(tl.int64) * by_pixel
    at_e = at_class + (y1 * low_width + x1)[None, :].to(tl.int64) * by_pixel
    a = tl.load(logits + at_a, here, other=0.0).to(tl.float32)
    b = tl.load(logits + at_b, here, other=0.0).to(tl.float32)
    d = tl.load(logits + at_d, here, other=0.0).to(tl.float32)
    e = tl.load(logits + at_e, here, other=0.0).to(tl.float32)
    of_a = tl.zeros([CHUNK, BLOCK], tl.float32)
    of_b = tl.zeros([CHUNK, BLOCK], tl.float32)
    of_d = tl.zeros([CHUNK, BLOCK], tl.float32)
    of_e = tl.zeros([CHUNK, BLOCK], tl.float32)
    for row in range(tl.max(rows, 0)):
        y = first_y + row
        down = behind(y, y0, scale_y, half)  # of this cell, wherever rounding would put the row
        for column in range(tl.max(columns, 0)):
            x = first_x + column
            active = (row < rows) & (column < columns)
            pixel = image * pixels + y.to(tl.int64) * width + x
            label, counts, spoiled = labelled(target, weight, pixel, active, known, ignore_index, WEIGHTED)
            share = tl.where(counts == 0, 0.0, tl.load(slope + pixel, active, other=0.0))
            if tl.max((share != 0).to(tl.int32), 0) > 0:
                shares = share[None, :]
                if SIGMOID:
                    top, log_sum = shares, shares  # not read
                else:
                    top = tl.load(peak + pixel, active, other=0.0)[None, :]
                    log_sum = tl.load(log_total + pixel, active, other=0.0)[None, :]
                right = behind(x, x0, scale_x, half)
                above, below = (1 - down)[None, :], down[None, :]
                before, after = (1 - right)[None, :], right[None, :]
                slope_of_x = slopes(
                    interpolated(a, b, d, e, below, after),
                    c, label[None, :], tl.where(spoiled, float("nan"), counts)[None, :], shares,
                    top, log_sum, weight, mass, classes, known, smoothing,
                    SIGMOID, WEIGHTED, SMOOTHED,
                )  # fmt: skip
                of_a += above * before * slope_of_x
                of_b += above * after * slope_of_x
                of_d += below * before * slope_of_x
                of_e += below * after * slope_of_x
    # at the last row and column neighbours are the same logit, which is then written once
    last_x, last_y = (x1 == x0)[None, :], (y1 == y0)[None, :]
    of_a += tl.where(last_x, of_b, 0.0)
    of_d += tl.where(last_x, of_e, 0.0)
    of_a += tl.where(last_y, of_d, 0.0)
    of_b += tl.where(last_y, of_e, 0.0)
    has_b, has_d = here & (last_x == 0), here & (last_y == 0)
    has_e = has_b & has_d
    adds = odd_y + odd_x > 0
    tl.store(gradient + at_a, of_a + tl.load(gradient + at_a, here & adds, other=0.0), here)
    tl.store(gradient + at_b, of_b + tl.load(gradient + at_b, has_b & adds, other=0.0), has_b)
    tl.store(gradient + at_d, of_d + tl.load(gradient + at_d, has_d & adds, other=0.0), has_d)
    tl.store(gradient + at_e, of_e + tl.load(gradient + at_e, has_e & adds, other=0.0), has_e)
