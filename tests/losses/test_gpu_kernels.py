"""The Triton kernels without a GPU: under Triton's interpreter, and as a compiler for one makes them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segtrain import gpu_code
from segtrain.losses.criterion import bootstrapped_bce_with_logits, bootstrapped_ce, ohem
from segtrain.task import Task

pytest.importorskip("triton")

TASK = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)


def passes(tests, **environment):
    """Run the tests of a file beside this one in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", Path(__file__).with_name(tests)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("tests", ["interpreted_kernels.py", "interpreted_selection.py", "interpreted_cut.py"])
def test_the_kernels_give_under_the_interpreter_what_those_of_the_cpu_give(tests):
    passes(tests, TRITON_INTERPRET="1")  # Triton decides when it is imported whether it interprets


@pytest.mark.slow
def test_what_is_launched_compiles_for_gpus_that_are_not_here():
    passes("launched_kernels.py")


@pytest.mark.parametrize(
    "criterion",
    [
        bootstrapped_ce(TASK, top_p=0.2, label_smoothing=0.1),
        bootstrapped_ce(TASK, top_p=1.0),
        bootstrapped_ce(TASK, top_p=0.2, scope="image"),
        bootstrapped_ce(TASK, top_p=0.2, skip_hardest=0.1, min_per_class=3),
        bootstrapped_bce_with_logits(TASK, top_p=0.2),
        ohem(TASK),
    ],
)
def test_a_compiled_step_on_a_gpu_is_one_graph(monkeypatch, criterion):
    monkeypatch.setattr(gpu_code, "_modules", SimpleNamespace())  # as in a process that has not used them
    logits = torch.empty(2, 19, 16, 32, dtype=torch.bfloat16, device="meta", requires_grad=True)
    target = torch.empty(2, 16, 32, dtype=torch.uint8, device="meta")
    loss = torch.compile(criterion, backend="aot_eager", fullgraph=True)(logits, target, 0)
    loss.value.backward()
    assert logits.grad.dtype == torch.bfloat16


EAGER = "eager CE, topk, mean"


def traffic(*options):
    """(classes, labels, criterion) → bytes per pixel, times the least, launches, MiB."""
    script = Path(__file__).parents[2] / "benchmarks" / "traffic.py"
    told = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told.stdout.splitlines()[4:]]
    assert len(rows) == 24
    return {tuple(row[:3]): [float(row[at]) for at in (3, 5, 6, 7)] for row in rows}


def test_a_step_moves_no_more_than_half_as_much_again_as_the_least():
    seen = traffic()
    for (classes, labels, criterion), (moved, times, launches, extra) in seen.items():
        if criterion == EAGER:
            continue
        assert times <= (1.5 if classes == "19" else 1.1)
        assert launches <= 40
        assert extra <= 0.22 * seen[classes, labels, EAGER][3]
        if criterion == "mined":
            assert moved < 1.1 * seen[classes, labels, "mean"][0]
            assert moved < seen[classes, labels, EAGER][0] / 4


def test_a_step_from_low_resolution_moves_a_sixth_of_what_interpolation_would():
    seen = traffic("--upsample")
    for (classes, labels, criterion), (moved, _, _, extra) in seen.items():
        if criterion != EAGER:
            assert moved < seen[classes, labels, EAGER][0] / 6
            assert extra < 0.1 * seen[classes, labels, EAGER][3]
