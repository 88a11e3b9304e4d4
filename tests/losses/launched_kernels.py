"""What the operators start on a GPU, compiled for one that is not here; test_gpu_kernels.py runs this file.

The tensors have a shape and no numbers. Triton compiles what they would be started with: a kernel of its own for sizes
that are 1 or multiples of 16, which no interpreter shows.
"""

import itertools
import random
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from segtrain.losses.kernels.gpu import operators
from segtrain.selection import cut_kernels, radix

ARCHES = (80, 90)
FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Launch(NamedTuple):
    name: str
    grid: tuple[int, int, int]
    registers: int
    spilled: int  # bytes
    shared: int  # bytes
    ptx: str

    @property
    def wide(self):
        """Loads and stores of 128 bits."""
        return len(re.findall(r"(?:ld|st)\.global\.\S*v4", self.ptx))

    @property
    def barriers(self):
        return self.ptx.count("bar.sync")


class NoGPU:
    """Stands where Triton expects the driver of a GPU; a device for each kind, since kernels are kept by device."""

    launches: list[Launch]

    def __init__(self):
        self.arch, self.launches, self.launcher_cls = 90, [], self._launcher
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 48 << 10}, load_binary=self._load
        )
        self._ptx = ""
        knobs.compilation.listener = self._compiled

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        return self.arch

    def get_current_stream(self, device):
        return 0

    def _compiled(self, *, metadata_group, **_):
        self._ptx = next(Path(path).read_text() for name, path in metadata_group.items() if name.endswith(".ptx"))

    def _load(self, name, cubin, shared, device):
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            told = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
        used = {what: int(number) for what, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", told.stdout)}
        return self, (used["REG"], used["STACK"] + used["LOCAL"], shared, self._ptx), 0, 0, 1024

    def _launcher(self, source, metadata):
        def start(x, y, z, stream, function, *_):
            self.launches.append(Launch(source.name, (x, y, z), *function))

        return start


@pytest.fixture(scope="module")
def gpu():
    driver.set_active(NoGPU())
    return driver.active


def empty(*size, dtype=torch.float32):
    return torch.empty(size, dtype=dtype, device="meta")


def run(operator, *inputs):
    """An operator as on a GPU: for tensors without numbers torch would only make its outputs."""
    return operator._init_fn(*inputs)


def losses(
    gpu, logits, labels=torch.uint8, *, factor=0, weighted=False, ignore_index=255, smoothing=0.0, sigmoid=False
):
    """What forward and backward of a pixel loss launch; logits at 1/factor of the resolution, if any."""
    images, classes, *size = logits.shape
    grid = tuple(factor * one for one in size)
    target = empty(images, *(grid if factor else size), dtype=labels)
    weight = empty(max(classes, 2) if sigmoid else classes) if weighted else None
    options = (logits, target, weight, ignore_index, smoothing, sigmoid, *grid, False)
    gpu.launches = []
    value, *_, peak, log_total = run(operators._forward, *options)
    run(operators._backward, *options, value, peak, log_total)
    return gpu.launches


@pytest.mark.parametrize("classes", [19, 150])
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("factor", [0, 4])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_loss_reads_128_bits_at_a_time_without_spills(gpu, sigmoid, factor, dtype, arch, classes):
    gpu.arch = arch
    sizes = [(512, 512), (500, 334)] if not factor else [(128, 128)]  # the second: multiples of 8, but not of 16
    for size in sizes:
        launches = losses(gpu, empty(1, classes, *size, dtype=dtype), factor=factor, sigmoid=sigmoid)
        assert len(launches) == (5 if factor else 2)
        for one in launches:
            assert one.spilled == 0
            assert one.registers <= 168  # three programs of 4 warps on a multiprocessor
            if factor:  # neighbours on the screen read the same logits: the cache does what wide loads would
                assert one.barriers == 0
                continue
            chunk = 8 if dtype == torch.float32 else 4  # of classes, 128 bits each, which backward writes too
            assert one.wide >= (2 * chunk if one.name == "backward_kernel" else chunk)
            # forward in bf16 a thread holds twice as many pixels, and float32 maps change hands
            assert one.barriers == 0 or (dtype == torch.bfloat16 and one.name == "forward_kernel")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("classes", [2, 19, 24, 150])  # 24: Triton itself sees only multiples of 16
@pytest.mark.parametrize("factor", [0, 4])
def test_with_the_classes_last_a_thread_holds_few_of_them(gpu, factor, classes, dtype, arch):
    gpu.arch = arch
    logits = empty(1, classes, 128, 128, dtype=dtype).to(memory_format=torch.channels_last)
    for sigmoid in (False, True):
        for one in losses(gpu, logits, factor=factor, sigmoid=sigmoid):
            assert one.spilled == 0
            assert one.registers <= (128 if factor else 80)
            if classes == 24 and one.name != "backward_of_cells_kernel":
                assert one.wide  # whole vectors of classes
            if factor or classes == 2:
                assert one.barriers == 0  # a pixel per thread


def test_a_loss_compiles_whatever_the_sizes(gpu):
    sizes = ((1, 1), (1, 7), (5, 1), (8, 8), (16, 16), (33, 17))
    flags = (False, True)
    ways = list(itertools.product((0, 1, 2, 4), (1, 2, 19), sizes, DTYPES, FORMATS, flags, flags, (0.0, 0.1)))
    labels = itertools.cycle((torch.uint8, torch.int64, torch.int16, torch.int32, torch.int8, torch.bool))
    for number, way in enumerate(random.Random(0).sample(ways, 50)):
        factor, classes, size, dtype, layout, weighted, sigmoid, smoothing = way
        images, ignore_index = 1 + number % 2, (255, 1, 0, -100)[number % 4]
        gpu.arch = ARCHES[number % 2]
        logits = empty(images, classes, *size, dtype=dtype).to(memory_format=layout)
        launches = losses(
            gpu,
            logits,
            next(labels),
            factor=factor,
            weighted=weighted,
            ignore_index=ignore_index,
            smoothing=smoothing,
            sigmoid=sigmoid,
        )
        assert launches, way
        assert all(one.spilled <= 32 and one.grid[0] > 0 and one.grid[1] <= 65_535 for one in launches), way


@pytest.mark.parametrize("arch", ARCHES)
def test_the_selection_counts_in_shared_memory(gpu, arch):
    gpu.arch, gpu.launches = arch, []
    run(radix._take, *entries((4, 512, 512)), empty(1, dtype=torch.float64), True, False)
    assert [one.name for one in gpu.launches] == ["count_kernel", "cut_kernel"] * 3
    for one in gpu.launches:
        assert one.spilled == 0
        assert one.registers <= 128
    for one, (_, width) in zip(gpu.launches[::2], radix.DIGITS, strict=True):
        assert one.shared >= 4 << width
        assert re.search(r"atom\S*shared\S*add", one.ptx)


@pytest.mark.parametrize("arch", ARCHES)
def test_what_a_cut_takes_is_read_and_written_128_bits_at_a_time(gpu, arch):
    for one in cuts(gpu, arch, (4, 512, 512), groups=1):
        assert one.spilled == 0
        assert one.registers <= 128
        assert one.wide >= 2 or one.name == "total_kernel"  # eight scores


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7), (3, 1), (2, 16, 16), (70_000, 3), (1, 0), (2048, 1), (1, 4096)])
def test_the_selection_compiles_whatever_the_sizes(gpu, shape):
    for groups, arch in itertools.product({1, shape[0]}, ARCHES):
        gpu.arch, gpu.launches = arch, []
        for portion in (False, True):
            run(radix._take, *entries(shape), empty(groups, dtype=torch.float64), portion, False)
        for one in gpu.launches + cuts(gpu, arch, shape, groups):
            assert one.spilled == 0
            assert 0 < one.grid[0] < 1 << 31
            assert one.grid[1:] == (1, 1)


def entries(shape):
    return empty(*shape), empty(*shape, dtype=torch.bool)


def cuts(gpu, arch, shape, groups):
    gpu.arch, gpu.launches = arch, []
    cut = (*entries(shape), empty(groups), empty(groups, dtype=torch.float64))
    run(cut_kernels.share, *cut)
    run(cut_kernels.taken_of_images, *cut)
    elsewhere = empty(2, *shape)[1]  # as memory is told apart, though there is none
    for x, y in itertools.product((cut[0], elsewhere), (None, empty(*shape))):
        run(cut_kernels.sums, x, y, *cut)
    for slopes in ((empty(), None), (None, empty()), (empty(), empty())):
        run(cut_kernels._slope, *slopes, *cut)
    return gpu.launches
