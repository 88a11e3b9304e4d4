"""Models that end in a bilinear upsampling leave it to the losses, and nobody sees a difference."""

import copy
from itertools import islice

import pytest
import torch
from segmentation_models_pytorch.base import SegmentationHead

from segtrain import upsampling
from segtrain.losses import kernels
from segtrain.losses.kernels import blocks
from segtrain.models.common import upsampling_deferred
from segtrain.models.smp import ARCHITECTURES, encoder_decoder
from segtrain.task import Batch
from segtrain.upsampling import Upsampled

ENDS_IN_ONE = {"fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer"}


def a_model(arch, **options):
    torch.manual_seed(0)
    encoder = "tu-test_vit" if arch == "dpt" else "resnet18"
    return encoder_decoder(5, arch=arch, encoder=encoder, encoder_weights=None, **options).eval()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_the_logits_left_at_low_resolution_stand_for_those_of_the_library(arch):
    image = torch.randint(0, 256, (2, 3, 60, 77), dtype=torch.uint8)
    deferring, whole = a_model(arch), a_model(arch, fuse_upsampling=False)
    deferring.load_state_dict(whole.state_dict())
    expected = whole(image)
    assert torch.equal(deferring(image), expected)
    with upsampling_deferred(deferring):
        given = deferring(image)
    assert isinstance(given, Upsampled) == (arch in ENDS_IN_ONE)
    if arch in ENDS_IN_ONE:
        assert torch.equal(given.full(), expected)
        assert given.shape == expected.shape
    with upsampling_deferred(whole):
        assert torch.equal(whole(image), expected)
    assert torch.equal(deferring(image), expected)


def test_a_head_without_upsampling_is_left_alone():
    assert isinstance(a_model("unet").net.segmentation_head, SegmentationHead)
    assert a_model("unet").upsampling is None


@pytest.fixture
def _everything_by_bands(monkeypatch):
    monkeypatch.setattr(kernels, "pays", lambda shape: shape[1] > 1)
    monkeypatch.setattr(blocks, "_BLOCK", 1 << 10)
    monkeypatch.setattr(upsampling, "_BAND", 1 << 10)


CRITERIA = [
    "{name: bootstrapped_ce, top_p: 0.3, class_weights: [1, 2, 3, 1, 5, 9, 9], label_smoothing: 0.1}",
    "{name: bootstrapped_ce, top_p: 0.3, scope: image}",
    "{name: focal}",
    "{name: bootstrapped_bce_with_logits, top_p: 0.3}",
    "{name: weighted_sum, terms: {a: {criterion: {name: cross_entropy}}, b: {criterion: {name: dice}}}}",
]


@pytest.mark.usefixtures("_everything_by_bands")
@pytest.mark.parametrize("align_corners", ["true", "false"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_training_and_evaluation_are_those_at_full_resolution(tiny, criterion, align_corners):
    results = []
    for deferred in ("true", "false"):
        model = f"model={{name: tiny_upsampled, align_corners: {align_corners}, deferred: {deferred}}}"
        built = tiny(model, f"criterion={criterion}", "train.accumulate=2", "optimizer.lr=1e-2")
        learner = built.learner
        source = built.loader.start(0)
        for _ in range(3):
            batches = [odd(batch) for batch in islice(source, 2)]
            logits = learner.update(batches)
        seen = learner.criterion.inspect(logits, batches[-1].target, 3)
        scalars = learner.read_logs() | ({} if seen is None else {tag: float(x) for tag, x in seen.scalars.items()})
        report = built.evaluator(learner.model, 3)
        assert isinstance(logits, Upsampled) == (deferred == "true")
        results.append((list(learner.model.parameters()), {**scalars, **report.scalars}, report.confusion.tolist()))
    (ours, scalars, confusion), (theirs, expected, counts) = results
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert scalars == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert confusion == counts


def odd(batch):
    """Of a size that has to be padded."""
    return Batch(batch.image[..., :23, :21], batch.target[..., :23, :21], batch.ids)


def test_bf16_reads_the_same_logits_and_rounds_them_less(tiny):
    built = tiny("model={name: smp, arch: fpn, encoder: resnet18, encoder_weights: null}", "train.amp=bf16")
    batches = list(islice(built.loader.start(0), 1))
    logits = built.learner.update(batches)
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(torch.stack([p.sum() for p in built.learner.model.parameters()])).all()
    assert built.learner.read_logs()["train/loss"] > 0


def test_a_traced_network_hands_them_over_as_well():
    model = a_model("fpn")
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad(), upsampling_deferred(model), upsampling_deferred(compiled._orig_mod):
        torch.testing.assert_close(compiled(image).full(), model(image).full())
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), model(image))
