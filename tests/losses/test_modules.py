"""The modules and functions in other people's code: shapes, states, transforms, mistakes."""

import copy
import io
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import segtrain.losses as L
from segtrain.losses import kernels
from segtrain.schedule import between, linear

MODULES = [
    L.CrossEntropyLoss,
    L.LabelSmoothingCrossEntropy,
    L.NLLLoss,
    L.FocalLoss,
    L.BCEWithLogitsLoss,
    L.BCELoss,
    L.KLDivLoss,
    L.L1Loss,
    L.MSELoss,
    L.DiceLoss,
    L.JaccardLoss,
    L.TverskyLoss,
    L.LovaszLoss,
    lambda **options: L.BootstrappedCrossEntropy(0.3, **options),
    lambda **options: L.BootstrappedBCEWithLogits(0.3, **options),
    lambda **options: L.Mined(L.FocalLoss(**options), 0.3),
]


def scene(shape=(2, 3, 5, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(shape, generator=generator).requires_grad_()
    return inputs, torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)


def warmed(p, iteration):
    return between(1.0, p, linear(start=1, end=3))(iteration)


@pytest.fixture(params=MODULES, ids=lambda module: getattr(module, "__name__", "mined").strip("<>"))
def module(request):
    return request.param


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 5, 4), (1, 3, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_every_module_takes_every_shape_and_integer_type(module, shape, dtype):
    inputs, target = scene(shape)
    loss = module()(inputs, target.to(dtype))
    assert loss.shape == ()
    loss.backward()
    assert inputs.grad.isfinite().all()
    torch.testing.assert_close(module()(inputs, target), loss)


def test_every_module_keeps_its_weight_in_its_state_and_its_results_through_copies(module):
    weight = torch.tensor([1.0, 2.0, 3.0])
    one, other = module(weight=weight), module(weight=torch.ones(3))
    inputs, target = scene()
    value = one(inputs, target).item()
    other.load_state_dict(one.state_dict())
    for twin in (other, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert twin(inputs, target).item() == value
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))


def test_the_count_of_iterations_is_saved_and_restored():
    inputs, target = scene()
    module = L.BootstrappedCrossEntropy(0.2, warmed)
    fractions = []
    for _ in range(4):
        module(inputs, target)
        fractions.append(module.last.p.item())
    assert fractions == pytest.approx([1.0, 1.0, 0.6, 0.2])
    fresh = L.BootstrappedCrossEntropy(0.2, warmed)
    fresh.load_state_dict(module.state_dict())
    assert fresh.iteration == 4
    assert pickle.loads(pickle.dumps(module)).iteration == 4


def test_the_function_and_the_module_agree():
    inputs, target = scene()
    for step in range(4):
        module = L.BootstrappedCrossEntropy(0.2, warmed, torch.ones(3), label_smoothing=0.1)(inputs, target, step)
        function = L.bootstrapped_cross_entropy(inputs, target, step, 0.2, warmed, torch.ones(3), label_smoothing=0.1)
        assert module.item() == function.item()
        module = L.BootstrappedBCEWithLogits(0.2, warmed)(inputs, target, step)
        assert (
            module.item() == L.bootstrapped_binary_cross_entropy_with_logits(inputs, target, step, 0.2, warmed).item()
        )


def test_the_last_call_leaves_its_statistics():
    inputs, target = scene((2, 3, 10, 10))
    target[0] = -100
    module = L.BootstrappedCrossEntropy(0.25)
    assert module.last is None
    module(inputs, target)
    hardness = F.cross_entropy(inputs, target, reduction="none")[1].flatten()
    top = hardness.topk(25).values
    last = {name: value.item() for name, value in module.last._asdict().items()}
    assert last == pytest.approx(
        {
            "p": 0.25,
            "kept": 25,
            "valid": 100,
            "fraction": 0.25,
            "threshold": top[-1].item(),
            "loss_share": (top.sum() / hardness.sum()).item(),
            "max_image_share": 1.0,
        },
        rel=1e-6,
    )
    assert not any(value.requires_grad for value in module.last)


def test_on_a_device_nothing_is_asked_of_the_host(module):
    if module is L.BCELoss:
        pytest.skip("torch.autocast does not know the meta device")
    inputs, target = (x.to("meta") for x in scene())
    assert module(weight=torch.ones(3)).to("meta")(inputs, target).device.type == "meta"


def test_mined_takes_any_pixel_loss():
    inputs, target = scene()
    target[0, 0] = 255
    torchs = torch.nn.CrossEntropyLoss(reduction="none", ignore_index=255)
    ours = L.Mined(L.CrossEntropyLoss(ignore_index=255), 0.3)
    expected = ours(inputs, target)
    torch.testing.assert_close(L.Mined(torchs, 0.3, ignore_index=255)(inputs, target), expected)
    torch.testing.assert_close(L.BootstrappedCrossEntropy(0.3, ignore_index=255)(inputs, target), expected)
    with pytest.raises(ValueError, match=r"a loss of shape \(\) .* cannot be mined; .* reduction='none'"):
        L.Mined(torch.nn.CrossEntropyLoss(ignore_index=255), 0.3)(inputs, target)
    by_image = L.Mined(L.CrossEntropyLoss(ignore_index=255), 0.3, scope="image", skip_hardest=0.1, min_per_class=1)
    assert by_image(inputs, target).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, t: L.cross_entropy(x, t + 7), r"out of range: 7 \(\d+ times\), 8 .*expected 0 to 2 for 3 classes"),
        (lambda x, t: L.bootstrapped_cross_entropy(x, t - 5, 0, 0.5), r"-5 \(\d+ times\)"),
        (lambda x, t: L.dice_loss(x, t + 7), "7 .*0 to 2 for 3 classes, or ignore_index -100"),
        (lambda x, t: L.binary_cross_entropy_with_logits(x, t + 1), r"3 \(\d+ times\); expected 0 to 2"),
        (lambda x, t: L.binary_cross_entropy_with_logits(x, x + 1), "targets hold .* numbers outside"),
        (lambda x, t: L.binary_cross_entropy(x + 3, t), r"inputs hold 120 numbers outside \[0, 1\]"),
        (lambda x, t: L.cross_entropy(x, t.float()), r"float target of shape \(2, 5, 4\).*target.long\(\)"),
        (lambda x, t: L.mse_loss(x, t.float()), r"float target of shape|target of type"),
        (lambda x, t: L.nll_loss(x, x), r"target of shape \(2, 3, 5, 4\) does not fit"),
        (lambda x, t: L.cross_entropy(x, t[:, 1:]), r"target of shape \(2, 4, 4\) does not fit logits of shape"),
        (lambda x, t: L.focal_loss(x, t, gamma=-1), "gamma -1"),
        (lambda x, t: L.cross_entropy(x, t, torch.ones(4)), "weight has 4 entries; .* 3 classes"),
        (lambda x, t: L.cross_entropy(x, t, torch.tensor([1.0, math.nan, 1.0])), "class weights hold 1: nan"),
        (lambda x, t: L.CrossEntropyLoss([1.0, -1.0, 1.0]), "class weights hold 1: -1.0"),
        (lambda x, t: L.binary_cross_entropy_with_logits(x, t, pos_weight=torch.ones(2)), "2 entries"),
        (lambda x, t: L.LabelSmoothingCrossEntropy(1.5), "label_smoothing 1.5"),
        (lambda x, t: L.cross_entropy(x, t, spread="some", label_smoothing=0.1), "spread 'some'"),
        (
            lambda x, t: L.cross_entropy(x[:, :1], 0 * t, spread="others", label_smoothing=0.1),
            "spread 'others' with 1 class",
        ),
        (lambda x, t: L.cross_entropy(x, t, reduction="average"), "reduction 'average'; expected mean, sum, none"),
        (lambda x, t: L.bootstrapped_cross_entropy(x, t, 0, 25), "p 25; expected a share of the valid pixels"),
        (lambda x, t: L.Mined(L.CrossEntropyLoss(), 0.5, lambda p, i: 2.0)(x, t), "the share of mined pixels 2.0"),
    ],
)
def test_a_mistake_is_named(call, message):
    inputs, target = scene()
    with pytest.raises(ValueError, match=message):
        call(inputs.detach(), target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        L.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), 255, label_smoothing=0.1),
        L.BootstrappedCrossEntropy(0.3, ignore_index=255),
        L.BootstrappedBCEWithLogits(0.3, ignore_index=255),
        L.Mined(L.FocalLoss(ignore_index=255), 0.3, scope="image", skip_hardest=0.1, min_per_class=2),
        L.DiceLoss(ignore_index=255),
        L.LovaszLoss(ignore_index=255),
    ],
    ids=["cross_entropy", "bootstrapped_ce", "bootstrapped_bce", "mined", "dice", "lovasz"],
)
def test_compiles_as_one_graph(loss):
    inputs, target = scene((2, 3, 8, 8))
    target[:, :2] = 255
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True)
    ours, theirs = compiled(inputs, target), loss(inputs, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))


def test_one_graph_without_code_generation():
    inputs, target = scene((2, 3, 8, 8))
    for loss in (L.CrossEntropyLoss(), L.BootstrappedCrossEntropy(0.3), L.BootstrappedBCEWithLogits(0.3), L.DiceLoss()):
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(inputs, target), loss(inputs, target))


def test_gradients_per_sample_are_those_of_torch():
    inputs, target = scene((6, 3))
    for ours, theirs in (
        (L.cross_entropy, F.cross_entropy),
        (
            lambda x, t: L.cross_entropy(x, t, label_smoothing=0.1),
            lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
        ),
        (lambda x, t: L.mse_loss(x, t * x.detach()), lambda x, t: F.mse_loss(x, t * x.detach())),
    ):
        per_sample = [torch.func.vmap(torch.func.grad(loss))(inputs.detach(), target) for loss in (ours, theirs)]
        torch.testing.assert_close(*per_sample)
    mined = torch.func.grad(lambda x: L.bootstrapped_cross_entropy(x, target, 0, 0.5))(inputs.detach())
    (expected,) = torch.autograd.grad(L.bootstrapped_cross_entropy(inputs, target, 0, 0.5), inputs)
    torch.testing.assert_close(mined, expected)


def test_importing_the_losses_needs_nothing_but_torch():
    code = "import sys, segtrain.losses; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = ("segmentation_models_pytorch", "albumentations", "pydantic", "cv2", "timm", "torchvision", "scipy", "PIL")
    assert not [name for name in heavy if f"'{name}'" in loaded]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's own forward mode
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("smallest", [0, 1 << 60])
def test_a_mined_loss_has_gradients_per_sample_tangents_and_a_hessian(monkeypatch, smallest):
    monkeypatch.setattr(kernels, "_LARGE", smallest)
    inputs = torch.randn(3, 4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(30).view(3, 5, 2) % 4
    target[0, 0] = -100

    def loss(x, t):
        return L.bootstrapped_cross_entropy(x, t, 0, 0.5)

    def one(x, t):
        return loss(x[None], t[None])

    per_sample = torch.func.vmap(torch.func.grad(one))(inputs, target)
    for row, x, t in zip(per_sample, inputs, target, strict=True):
        torch.testing.assert_close(row, torch.func.grad(one)(x, t))
    slope = torch.func.grad(loss)(inputs, target)
    _, along = torch.func.jvp(lambda x: loss(x, target), (inputs,), (inputs,))
    torch.testing.assert_close(along, (slope * inputs).sum())
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(inputs, inputs)
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual, target)).tangent, along)
    hessian = torch.func.hessian(one)(inputs[0], target[0])
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda x: one(x, target[0]), inputs[0]))
