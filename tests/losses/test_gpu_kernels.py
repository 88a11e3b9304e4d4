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


@pytest.mark.parametrize("tests", ["interpreted_kernels.py", "interpreted_selection.py", "interpreted_cut.py"])
def test_the_kernels_give_under_the_interpreter_what_those_of_the_cpu_give(tests):
    # Triton decides when it is imported whether it interprets: a process of its own
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            Path(__file__).with_name(tests),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert told.returncode == 0, told.stdout + told.stderr


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


COMPILER = """
import itertools, re, subprocess, tempfile, torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, compile

def made(kernel, arch, types, constants, multiples_of_16=(), **options):
    # the intermediate code, bytes spilled, registers, loads and stores of 128 bits, barriers, bytes of shared memory
    signature = types | dict.fromkeys(constants, "constexpr")
    aligned = [name for name, kind in signature.items() if kind[0] == "*"] + list(multiples_of_16)
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    result = compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = result.asm["ptx"]
    machine = re.search(r"\\.target (\\w+)", ptx).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        told = subprocess.run(
            [get_ptxas(arch).path, "-v", "--gpu-name=" + machine, file.name, "-o", "/dev/null"],
            capture_output=True, text=True, check=True,
        ).stderr
    spills = sum(map(int, re.findall(r"(\\d+) bytes spill", told)))
    registers = re.search(r"Used (\\d+) registers", told).group(1)
    wide = len(re.findall(r"(?:ld|st)\\.global\\.\\S*v4", ptx))
    barriers = len(re.findall(r"bar\\.sync", ptx))
    return ptx, spills, registers, wide, barriers, result.metadata.shared
"""

COMPILE = """
from segtrain.losses.kernels.gpu import kernels, operators

FLOATS = ("smoothing", "scale_y", "scale_x", "half")
TYPES = {"target": "*u8", "valid": "*i1"} | dict.fromkeys(FLOATS, "fp32")
POINTERS = ("weight", "mass", "value", "count", "hardness", "peak", "log_total", "slope")

def types(kernel, dtype, upsampled):
    known = TYPES | dict.fromkeys(POINTERS, "*fp32") | {"logits": "*" + dtype, "gradient": "*" + dtype}
    if not upsampled:
        known["peak"] = "*" + dtype
    if kernel is kernels.backward_of_cells_kernel:
        known["gradient"] = "*fp32"
    return {name: known.get(name, "i32") for name in kernel.arg_names}

todo = ((kernels.forward_kernel, False), (kernels.backward_kernel, False), (kernels.forward_kernel, True),
        (kernels.backward_of_cells_kernel, True))

def report(kernel, upsampled, sigmoid, dtype, torch_dtype, arch, classes, size=(512, 512)):
    logits = torch.empty(1, classes, *size, dtype=torch_dtype, device="meta")
    shape = operators.tile(logits, upsampled, kernel is not kernels.forward_kernel)
    options = {"num_warps": shape.pop("num_warps")}
    constants = {"SIGMOID": sigmoid, "WEIGHTED": False, "SMOOTHED": False, "by_pixel": 1, **shape}
    if kernel is kernels.forward_kernel:
        constants["UPSAMPLED"] = upsampled
    multiples = ("pixels", "by_image", "by_class") if size == (512, 512) else ()
    told = made(kernel, arch, types(kernel, dtype, upsampled), constants, multiples, **options)
    print(kernel.__name__, sigmoid, upsampled, dtype, arch, classes, *told[1:5])

for sigmoid, (kernel, upsampled), dtypes, arch, classes in itertools.product(
    (False, True), todo, (("fp32", torch.float32), ("bf16", torch.bfloat16)), (80, 90), (19, 150)
):
    report(kernel, upsampled, sigmoid, *dtypes, arch, classes)
for kernel, upsampled in todo[:2]:  # of 8, but not of 16 pixels
    report(kernel, upsampled, False, "bf16", torch.bfloat16, 90, 19, (500, 334))
"""

SELECTION = """
from segtrain.selection import cut_kernels, radix

TYPES = dict.fromkeys(("scores", "score", "x", "y", "of_x", "taken_of_x", "slope"), "*fp32")
TYPES |= {"available": "*i1", "counts": "*i32", "slope_of_taken": "*fp32", "slope_of_all": "*fp32"}
TYPES |= dict.fromkeys(("amount", "missing", "part", "share", "sums", "total"), "*fp64")

def types(kernel, **known):
    return {name: (TYPES | known).get(name, "i32") for name in kernel.arg_names}

def of(kernel, **constants):
    return {name: number for name, number in constants.items() if name in kernel.arg_names}

for arch in (80, 90):
    for high, width in radix.DIGITS:
        for kernel in (radix.count_kernel, radix.cut_kernel):
            constants = of(kernel, HIGH=high, WIDTH=width, BLOCK=radix.BLOCK, PORTION=True)
            options = {"num_warps": radix.WARPS} if kernel is radix.count_kernel else {}
            told = made(kernel, arch, types(kernel, threshold="*i32"), constants, **options)
            atomics = bool(re.search(r"atom\\S*shared\\S*add", told[0]))
            print(kernel.__name__, arch, high, *told[1:], atomics)
    for name, flag in itertools.product(("share", "sums", "total", "slope"), (False, True)):
        kernel = getattr(cut_kernels, name + "_kernel")
        flags = dict.fromkeys(("OWN_X", "HAS_Y", "OF_TAKEN", "OF_ALL"), flag)
        constants = of(kernel, BLOCK=cut_kernels.BLOCK, **flags)
        multiples = [one for one in ("length",) if one in kernel.arg_names]
        told = made(kernel, arch, types(kernel, threshold="*fp32"), constants, multiples)
        print(kernel.__name__, arch, flag, *told[1:], False)
"""


def compiled(script, timeout):
    told = subprocess.run([sys.executable, "-c", COMPILER + script], capture_output=True, text=True, timeout=timeout)
    assert told.returncode == 0, told.stderr
    print(told.stdout)
    return [line.split() for line in told.stdout.splitlines()]


@pytest.mark.slow
def test_the_selection_compiles_and_counts_in_shared_memory():
    lines = compiled(SELECTION, timeout=300)
    assert len(lines) == 28
    for name, _, high, spills, registers, wide, _, shared, atomics in lines:
        assert int(spills) == 0
        assert int(registers) <= 128
        assert int(shared) <= 48 << 10
        if name == "count_kernel":
            assert int(shared) >= (1 << (10 if high == "0" else 11)) * 4
            assert atomics == "True"
        if name in ("share_kernel", "sums_kernel", "slope_kernel"):
            assert int(wide) >= 2  # eight scores


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here_with_wide_loads_and_without_spills():
    lines = compiled(COMPILE, timeout=600)
    assert len(lines) == 66
    for name, _, upsampled, dtype, _, _, spills, registers, wide, barriers in lines:
        assert int(spills) == 0
        assert int(registers) <= 168  # three programs of 4 warps on a multiprocessor
        if upsampled == "True":  # neighbours on the screen read the same logits: the cache does what wide loads would
            assert int(barriers) == 0
            continue
        assert int(wide) >= (8 if dtype == "fp32" else 4)  # the classes of a chunk, 128 bits each
        if (
            dtype == "fp32" or name == "backward_kernel"
        ):  # forward in bf16 a thread holds twice as many pixels, and float32 maps change hands
            assert int(barriers) == 0


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
