"""The Triton kernels under Triton's interpreter against those of the CPU; test_gpu_kernels.py runs this file."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from segtrain.losses.criterion import bootstrapped_ce
from segtrain.losses.kernels import binary, blocks, gpu
from segtrain.losses.kernels.gpu.kernels import backward_kernel, forward_kernel
from segtrain.losses.kernels.gpu.operators import _forward
from segtrain.task import Task
from segtrain.upsampling import Upsampled

# NumPy, which stands in for the GPU, warns of what is meant: pixels outside, and numbers that are not finite
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SHAPES = [(1, 1, 1, 1), (2, 2, 5, 7), (2, 8, 3, 5), (2, 19, 13, 11), (1, 150, 9, 5), (1, 300, 4, 3)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
KERNELS = {
    "softmax": (gpu.cross_entropy, blocks.cross_entropy),
    "sigmoid": (gpu.bce_with_logits, binary.bce_with_logits),
}


@pytest.fixture(params=list(KERNELS), autouse=True)
def kernels(request):
    """The loss, on a GPU and on a CPU."""
    return KERNELS[request.param]


def scene(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(*shape, generator=generator)).to(dtype)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = -100
    return logits, target


def weights(kernels, classes):
    """One for each class, the first 0; a single channel has two classes under a sigmoid."""
    return torch.linspace(0, 3, max(classes, 2) if kernels is KERNELS["sigmoid"] else classes)


def both(kernels, logits, target, weight=None, ignore_index=-100, smoothing=0.0):
    """Maps and gradients of the two kernels, Triton's first. Only a few pixels are kept."""
    share = (torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    share[target == 99] = 1  # neither a class nor ignored: a loss that is not a number is mined first
    upsampled = isinstance(logits, Upsampled)
    for kernel in kernels:
        inputs = (logits.low if upsampled else logits).detach().requires_grad_()
        given = logits._replace(low=inputs) if upsampled else inputs
        maps = kernel(given, target, weight, ignore_index, smoothing)
        yield maps, torch.autograd.grad((maps.value * share).sum(), inputs)[0]


def check(kernels, logits, target, *args, **options):
    (maps, gradient), (wanted, slope) = both(kernels, logits, target, *args, **options)
    for one, other in zip(maps, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=3e-6, equal_nan=True)
    half = slope.dtype != torch.float32
    torch.testing.assert_close(gradient, slope, rtol=1e-2 if half else 1e-5, atol=1e-6, equal_nan=True)
    assert gradient.stride() == slope.stride()
    return maps, gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_triton_kernel_gives_what_the_cpu_gives(kernels, shape, layout, dtype):
    logits, target = scene(shape, dtype)
    check(kernels, logits.to(memory_format=layout), target)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("classes", "layout"), [(1, LAYOUTS[0]), (19, LAYOUTS[0]), (19, LAYOUTS[1]), (260, LAYOUTS[1])]
)
def test_weights_and_smoothing(kernels, classes, layout, weighted, smoothing):
    weight = weights(kernels, classes) if weighted else None
    logits, target = scene((2, classes, 6, 7))
    check(kernels, logits.to(memory_format=layout), target, weight, smoothing=smoothing)


@pytest.fixture
def new_memory_is_nan():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


SIZES = [
    ((1, 1), (4, 4), (4, 4)),
    ((2, 3), (8, 12), (7, 11)),
    ((3, 4), (10, 7), (10, 7)),
    ((2, 2), (11, 9), (11, 9)),
    ((5, 4), (3, 2), (3, 2)),
]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "grid", "size"), SIZES)
def test_logits_at_low_resolution(kernels, new_memory_is_nan, low, grid, size, align_corners):
    logits, target = scene((1, 3, *low))[0], scene((1, 3, *size))[1]
    check(kernels, Upsampled(logits, grid, size, align_corners), target)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_more_cells_than_a_program_has(kernels, new_memory_is_nan, layout):
    logits, target = scene((2, 2, 15, 17))[0].to(memory_format=layout), scene((2, 2, 20, 23))[1]
    check(kernels, Upsampled(logits, (20, 23), (20, 23), False), target)


@pytest.mark.parametrize("classes", [5, 16])
@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_at_low_resolution_with_everything(kernels, align_corners, classes):
    logits = scene((2, classes, 2, 3), torch.bfloat16)[0].to(memory_format=torch.channels_last)
    target = scene((2, classes, 4, 7))[1].byte()
    weight = weights(kernels, classes)
    check(kernels, Upsampled(logits, (4, 7), (4, 7), align_corners), target, weight, 156, smoothing=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_edges(kernels, layout):
    logits, target = scene((1, 19, 12, 50))
    logits = logits.to(memory_format=layout)
    check(kernels, logits + 1e4, target)
    check(kernels, logits * 5e3, target, smoothing=0.1)
    check(kernels, logits, torch.full_like(target, -100))
    masked = logits.clone()
    masked[:, :10] = -torch.inf  # the first chunk of every pixel has nothing
    check(kernels, masked, target.clamp(min=10))
    target[0, 1, 1], target[0, 2, 2] = 17, 99
    assert check(kernels, logits, target, weights(kernels, 19))[0].value.isnan().any()
    for bad in (torch.nan, torch.inf, -torch.inf):
        logits[0, :, 1, 2], target[0, 1, 2] = bad, -100
        logits[0, :, 1, 3], target[0, 1, 3] = bad, 3
        check(kernels, logits, target)
    check(kernels, logits, target.clamp(min=0).byte(), ignore_index=0)


def test_any_layout_and_any_integers(kernels):
    logits, target = scene((2, 3, 6, 7))
    target = target.clamp(min=0)
    kernel = kernels[0]
    plain = kernel(logits, target, None, -100, 0.0)
    for other in (torch.nn.functional.pad(logits, (1, 2, 3, 0))[..., 3:, 1:8], logits.mT.contiguous().mT):
        inputs = other.detach().requires_grad_()
        maps = kernel(inputs, target, None, -100, 0.0)
        assert torch.equal(maps.value, plain.value)
        inputs.grad = torch.autograd.grad(maps.value.sum(), inputs)[0]  # torch refuses one of another shape
    for labels in (target.byte(), target.short(), target.mT.contiguous().mT):
        assert torch.equal(kernel(logits, labels, None, -100, 0.0).value, plain.value)
    two = target.clamp(max=1)
    assert torch.equal(kernel(logits, two.bool(), None, 255, 0.0).value, kernel(logits, two, None, 255, 0.0).value)
    nothing = kernel(logits[:0].requires_grad_(), target[:0], None, -100, 0.0)
    assert nothing.value.shape == (0, 6, 7)
    nothing.value.sum().backward()


FAR = (1 << 30) + 16  # twice that are more numbers than 32 bits can count


@pytest.mark.parametrize("strides", [(FAR, 3, 1), (9, FAR, 1), (9, 1, FAR)])
def test_images_classes_and_pixels_may_be_far_apart(kernels, strides):
    plain, target = scene((3, 3, 1, 3), torch.bfloat16)
    memory = torch.empty(2 * FAR + 32, dtype=torch.bfloat16)  # the system gives as much of it as is touched
    logits = memory.as_strided(plain.shape, (*strides[:2], 3, strides[2])).copy_(plain)
    value, count, hardness, log_total = torch.empty(4, *target.shape)
    valid, peak = torch.empty_like(target, dtype=torch.bool), torch.empty_like(target, dtype=logits.dtype)
    options = {"SIGMOID": kernels is KERNELS["sigmoid"], "WEIGHTED": False, "SMOOTHED": False}
    options |= {"BLOCK": 4, "CHUNK": 4, "VECTOR": 1, "LANES": 1, "ALIGNED": 1, "LAST": 0}
    numbers = (3, 3, 3, *strides, -100, 0.0)
    maps = (value, count, hardness, valid, peak, log_total)
    forward_kernel[3,](
        logits, target, target, target, *maps, *numbers, 3, 1, 3, 0.0, 0.0, 0.0, UPSAMPLED=False, **options
    )
    inputs = plain.clone().requires_grad_()
    wanted = kernels[1](inputs, target, None, -100, 0.0).value
    torch.testing.assert_close(value, wanted)
    slope = torch.ones_like(value)
    backward_kernel[3,](logits, target, target, target, slope, peak, log_total, logits, *numbers, **options)  # in place
    torch.testing.assert_close(logits, torch.autograd.grad(wanted.sum(), inputs)[0])


def test_a_scaled_loss_has_a_scaled_gradient_under_autocast_too(kernels):
    logits, target = scene((1, 3, 4, 5), torch.float16)
    logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = kernels[0](logits, target, weights(kernels, 3), -100, 0.1).value.mean()
    assert value.dtype == torch.float32
    scaled, plain = (torch.autograd.grad(value * scale, logits, retain_graph=True)[0] for scale in (2.0**10, 1.0))
    torch.testing.assert_close(scaled.float() / 2**10, plain.float(), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("upsampled", [False, True])
def test_a_second_derivative_is_that_of_the_cpu(kernels, upsampled):
    logits = scene((1, 3, 4, 5))[0]
    target = scene((1, 3, 8, 9))[1] if upsampled else scene((1, 3, 4, 5))[1]
    results = []
    for kernel in kernels:
        inputs = logits.clone().requires_grad_()
        given = Upsampled(inputs, (8, 10), (8, 9), True) if upsampled else inputs
        value = kernel(given, target, weights(kernels, 3), -100, 0.1).value
        (gradient,) = torch.autograd.grad(value.square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), inputs)[0])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert results[0].any()


def test_many_gradients_at_once(kernels):
    logits, target = scene((1, 3, 4, 5))
    value = kernels[0](logits.requires_grad_(), target, None, -100, 0.0).value
    slopes = torch.rand(2, *value.shape)
    (both,) = torch.autograd.grad(value, logits, slopes, retain_graph=True, is_grads_batched=True)
    for slope, gradient in zip(slopes, both, strict=True):
        torch.testing.assert_close(gradient, torch.autograd.grad(value, logits, slope, retain_graph=True)[0])


def test_the_operators_are_registered_as_torch_wants_them(kernels):
    logits, target = scene((1, 5, 3, 4))
    logits.requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for grid in ((0, 0), (6, 8)):
        labels = target if grid == (0, 0) else scene((1, 5, *grid))[1]
        options = (None, -100, 0.0, kernels is KERNELS["sigmoid"], *grid, True)
        torch.library.opcheck(_forward, (logits, labels, *options), test_utils=tests)


def test_a_step_on_a_gpu_asks_nothing_of_the_host():
    # fake tensors of a GPU have no values: whoever wants to see one fails, and no GPU is needed
    task = Task("segmentation", tuple(map(str, range(19))), ((0, 0, 0),) * 19)
    for top_p in (0.2, 1.0):
        criterion = bootstrapped_ce(task, top_p=top_p, label_smoothing=0.1)
        with FakeTensorMode(), torch.device("cuda"):
            logits = torch.empty(2, 19, 64, 64, dtype=torch.bfloat16, requires_grad=True)
            loss = criterion(logits, torch.empty(2, 64, 64, dtype=torch.uint8), 0)
            assert loss.value.grad_fn is not None
