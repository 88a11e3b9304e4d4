"""The Triton kernels without a GPU: under Triton's interpreter, and as a compiler for one makes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize("tests", ["interpreted_kernels.py", "interpreted_selection.py"])
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


COMPILE = """
import itertools, re, subprocess, sys, tempfile, torch
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, compile
from segtrain.losses.kernels.gpu import kernels, operators

FLOATS = ("smoothing", "scale_y", "scale_x", "half")
TYPES = {"target": "*u8", "valid": "*i1"} | dict.fromkeys(FLOATS, "fp32")
POINTERS = ("weight", "mass", "value", "count", "hardness", "peak", "log_total", "slope")

def types(kernel, dtype):
    known = TYPES | dict.fromkeys(POINTERS, "*fp32") | {"logits": "*" + dtype, "gradient": "*" + dtype}
    if kernel is kernels.backward_of_cells_kernel:
        known["gradient"] = "*fp32"
    return {name: known.get(name, "i32") for name in kernel.arg_names}

todo = ((kernels.forward_kernel, False), (kernels.backward_kernel, False), (kernels.forward_kernel, True),
        (kernels.backward_of_cells_kernel, True))
for sigmoid, (kernel, upsampled), (dtype, torch_dtype), arch, classes in itertools.product(
    (False, True), todo, (("fp32", torch.float32), ("bf16", torch.bfloat16)), (80, 90), (19, 150)
):
    logits = torch.empty(1, classes, 512, 512, dtype=torch_dtype, device="meta")
    shape = operators.tile(logits, upsampled, kernel is not kernels.forward_kernel)
    options = {"num_warps": shape.pop("num_warps")}
    constants = {"SIGMOID": sigmoid, "WEIGHTED": False, "SMOOTHED": False, "by_pixel": 1, **shape}
    if kernel is kernels.forward_kernel:
        constants["UPSAMPLED"] = upsampled
    signature = types(kernel, dtype) | {name: "constexpr" for name in constants}
    aligned = [name for name, kind in signature.items() if kind[0] == "*"] + ["pixels", "by_image", "by_class"]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    made = compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = made.asm["ptx"]
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
    print(kernel.__name__, sigmoid, upsampled, dtype, arch, classes, spills, registers, wide, barriers)
"""

SELECTION = """
import re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from segtrain import radix

TYPES = {"scores": "*fp32", "score": "*fp32", "available": "*i1", "length": "i32", "threshold": "*i32"}
TYPES |= dict.fromkeys(("missing", "tied", "share"), "*fp64")
for arch in (80, 90):
    for high, width in radix.DIGITS:
        for kernel in (radix.count_kernel, radix.cut_kernel, radix.share_kernel):
            constants = {"HIGH": high, "WIDTH": width, "BLOCK": radix.BLOCK}
            constants = {name: number for name, number in constants.items() if name in kernel.arg_names}
            counts = "*i32" if kernel is radix.count_kernel else "*i64"
            types = {name: TYPES.get(name, counts) for name in kernel.arg_names}
            types |= dict.fromkeys(constants, "constexpr")
            options = {"num_warps": radix.WARPS} if kernel is radix.count_kernel else {}
            made = compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", arch, 32), options=options)
            atomics = bool(re.search(r"atom\\S*shared\\S*add", made.asm["ptx"]))
            print(kernel.__name__, arch, high, made.metadata.shared, atomics)
"""


@pytest.mark.slow
def test_the_selection_compiles_and_counts_in_shared_memory():
    told = subprocess.run([sys.executable, "-c", SELECTION], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    print(told.stdout)
    lines = [line.split() for line in told.stdout.splitlines()]
    assert len(lines) == 18
    for name, _, high, shared, atomics in lines:
        assert int(shared) <= 48 << 10
        if name == "count_kernel":
            assert int(shared) >= (1 << (10 if high == "0" else 11)) * 4
            assert atomics == "True"


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here_with_wide_loads_and_without_spills():
    told = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr
    print(told.stdout)
    lines = [line.split() for line in told.stdout.splitlines()]
    assert len(lines) == 64
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
