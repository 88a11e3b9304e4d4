import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from segtrain import checkpoint
from segtrain.models.smp import ARCHITECTURES, ImageHead, _statistics, encoder_decoder, encoder_names
from segtrain.registry import MODELS, parameters
from segtrain.task import Output

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def a_model(arch: str = "fpn", channels: int = 5, **options):
    torch.manual_seed(0)
    encoder = "tu-test_vit" if arch == "dpt" else "resnet18"
    return encoder_decoder(channels, arch=arch, **{"encoder": encoder, "encoder_weights": None, **options})


def test_the_keys_of_a_config_are_those_of_the_factory():
    assert MODELS["smp"] is encoder_decoder
    keys = ["arch", "encoder", "encoder_weights", "decoder", "encoder_options", "aux_params", "fuse_upsampling"]
    assert list(parameters(encoder_decoder)) == keys


# ---- sizes


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_gives_logits_at_the_size_of_any_image(arch):
    model = a_model(arch).eval()
    with torch.no_grad():
        for height, width in [(1, 1), (33, 70)]:
            assert model(images(height, width)).shape == (1, 5, height, width)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_trains(arch):
    model = a_model(arch).train()
    logits = model(images(40, 50, batch=2))
    assert logits.shape == (2, 5, 40, 50)
    logits.square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # the last block of a transformer's encoder ends in parts that segmentation does not use
    assert all("encoder" in name for name in without), without


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [name for name in encoder_names() if not name.startswith("tu-")])
@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
def test_every_encoder_of_the_library_builds(encoder):
    with torch.device("cpu" if encoder.startswith("mit_") else "meta"):  # their depths are computed with tensors
        model = encoder_decoder(2, arch="fpn", encoder=encoder, encoder_weights=None).eval()
        assert model(torch.zeros(1, 3, 70, 65, dtype=torch.uint8)).shape == (1, 2, 70, 65)


@pytest.mark.parametrize("encoder", ["tu-convnext_atto", "tu-swin_tiny_patch4_window7_224", "tu-pvt_v2_b0"])
def test_encoders_of_timm_take_images_of_any_size(encoder):
    with torch.device("meta"):
        model = encoder_decoder(2, arch="fpn", encoder=encoder, encoder_weights=None).eval()
        assert model(torch.zeros(1, 3, 70, 65, dtype=torch.uint8)).shape == (1, 2, 70, 65)


def test_an_option_of_the_encoder_reaches_timm():
    model = a_model("dpt", encoder_options={"img_size": 320})
    assert model.net.encoder.model.patch_embed.img_size == (320, 320)


def test_padding_is_the_mean_colour_and_lies_right_and_below():
    model = a_model(fuse_upsampling=False).eval()
    image = images(40, 50)
    with torch.no_grad():
        padded = (image - 255 * torch.tensor(IMAGENET[0]).view(1, 3, 1, 1)) / (
            255 * torch.tensor(IMAGENET[1]).view(1, 3, 1, 1)
        )
        padded = torch.nn.functional.pad(padded, (0, 14, 0, 24))
        torch.testing.assert_close(model(image), model.net(padded)[..., :40, :50])


# ---- the image head


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_an_image_head_scores_the_classes_of_an_image_in_training_only(pooling):
    model = a_model("unet", aux_params=ImageHead(pooling=pooling, dropout=0.0))
    image = images(40, 50, batch=2)
    output = model.train()(image)
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 5, 40, 50)
    assert output.image.shape == (2, 5)
    assert model.eval()(image).shape == (2, 5, 40, 50)


def test_an_image_head_that_drops_everything_is_refused():
    with pytest.raises(ValueError, match=r"aux_params: dropout 1\.0; expected .* in \[0, 1\)"):
        a_model(aux_params=ImageHead(dropout=1.0))


# ---- normalisation


def test_images_are_normalised_inside_and_the_statistics_travel_in_the_state():
    model = a_model()
    state = model.state_dict()
    torch.testing.assert_close(state["mean"].flatten(), 255 * torch.tensor(IMAGENET[0]))
    torch.testing.assert_close(state["std"].flatten(), 255 * torch.tensor(IMAGENET[1]))


@pytest.mark.parametrize(
    ("encoder", "weights", "mean"),
    [("xception", "x.pth", 0.5), ("xception", None, 0.485), ("resnet18", "x.pth", 0.485)],
)
def test_weights_in_a_file_keep_the_statistics_of_their_encoder(encoder, weights, mean):
    assert _statistics(encoder, weights, None)[0][0] == mean


def test_encoders_of_timm_bring_their_own_statistics():
    model = a_model(encoder="tu-mobilevitv2_050")
    assert model.mean.flatten().tolist() == [0.0, 0.0, 0.0]
    assert model.std.flatten().tolist() == [255.0, 255.0, 255.0]


# ---- memory formats, precision, compilation


def test_channels_last_double_and_autocast_change_rounding_only():
    model = a_model().eval()
    image = images(33, 40)
    with torch.no_grad():
        expected = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(image).float() - expected).abs().max() < 0.1 * expected.abs().max()
        last = model.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
        double = model.double()(image)
        assert double.dtype == torch.float64
        torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_model_is_traced_whole_by_the_compiler():
    model = a_model().eval()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images(33, 40)), model(images(33, 40)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_one_exported_graph_serves_every_size_that_needs_no_padding():
    model = a_model(encoder="tu-test_resnet").eval()
    height, width = (model.multiple * torch.export.Dim(name, min=2, max=64) for name in ("height", "width"))
    graph = torch.export.export(model, (images(96, 128),), dynamic_shapes=({2: height, 3: width},)).module()
    with torch.no_grad():
        torch.testing.assert_close(graph(images(64, 160)), model(images(64, 160)))


def test_the_encoder_is_told_from_the_head():
    model = a_model("unet")
    names = [name for name, _ in model.named_parameters()]
    encoder = {name for name in names if model.in_encoder(name)}
    assert encoder == {f"net.encoder.{name}" for name, _ in model.net.encoder.named_parameters()}
    assert {name.split(".")[1] for name in set(names) - encoder} == {"decoder", "segmentation_head"}


# ---- weights


def encoder_state(name: str = "resnet18") -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(smp.Unet(name, encoder_weights=None).encoder.state_dict())


def loaded(path: Path, **options) -> dict[str, Tensor]:
    return dict(a_model(encoder_weights=str(path), **options).net.encoder.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_weights_come_from_a_file_of_any_kind(tmp_path):
    state = encoder_state()
    save_file(state, tmp_path / "encoder.safetensors")
    torch.save(state, tmp_path / "encoder.pth")
    torch.save({"state_dict": {f"module.encoder.{key}": value for key, value in state.items()}}, tmp_path / "whole.pt")
    for name in ("encoder.safetensors", "encoder.pth", "whole.pt"):
        assert same(loaded(tmp_path / name), state), name


def test_weights_come_from_a_classifier_of_torchvision_or_timm(tmp_path):
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    assert torch.equal(loaded(tmp_path / "resnet18.pth")["layer4.1.conv2.weight"], classifier.layer4[1].conv2.weight)

    classifier = timm.create_model("test_convnext", pretrained=False)
    save_file(classifier.state_dict(), tmp_path / "convnext.safetensors")
    state = loaded(tmp_path / "convnext.safetensors", encoder="tu-test_convnext")
    assert torch.equal(state["model.stages_1.blocks.0.norm.weight"], classifier.stages[1].blocks[0].norm.weight)


def test_weights_come_from_a_checkpoint_of_another_run(tmp_path):
    torch.manual_seed(2)
    other = encoder_decoder(9, arch="unet", encoder="resnet18", encoder_weights=None)
    checkpoint.save(tmp_path / "best.pt", {"step": 3, "model": other.state_dict()})
    assert same(loaded(tmp_path / "best.pt"), dict(other.net.encoder.state_dict()))


def test_weights_of_another_network_are_refused_by_name_and_shape(tmp_path):
    save_file(encoder_state("resnet34"), tmp_path / "resnet34.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match=r"x\.safetensors do not fit: conv1\.weight is not in it; .* \(100 of 120 tensors\)"
    ):
        loaded(tmp_path / "x.safetensors")
    state = encoder_state()
    state["conv1.weight"] = torch.ones(64, 4, 7, 7)
    save_file(state, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match=r"conv1\.weight is \(64, 4, 7, 7\), not \(64, 3, 7, 7\)"):
        loaded(tmp_path / "y.safetensors")


def test_a_missing_file_of_weights_names_the_key():
    with pytest.raises(ValueError, match=r"encoder_weights none\.pth: cannot be read: No such file"):
        a_model(encoder_weights="none.pth")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_without_a_network_the_remedy_comes_at_once(encoder, no_network):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"huggingface\.co cannot be reached") as caught:
        a_model(encoder=encoder, encoder_weights="imagenet")
    assert time.monotonic() - start < 15  # the hub's own patience is half a minute or more
    for remedy in ("encoder_weights: null", "encoder_weights: PATH", "~/.cache/huggingface"):
        assert remedy in str(caught.value)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def in_cache(hub: Path, repository: str, revision: str, files: dict[str, bytes]) -> None:
    """What huggingface_hub leaves after a download."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    for name, content in files.items():
        (folder / "snapshots" / revision / name).write_bytes(content)


def test_cached_weights_need_no_network_and_bring_their_statistics(no_network, tmp_path):
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    save_file(encoder_state(), tmp_path / "x.safetensors")
    description = b'{"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_range": [0, 1], "input_space": "RGB"}'
    files = {"model.safetensors": (tmp_path / "x.safetensors").read_bytes(), "config.json": description}
    in_cache(no_network / "hub", settings["repo_id"], settings["revision"], files)
    model = a_model(encoder_weights="imagenet")
    assert same(dict(model.net.encoder.state_dict()), encoder_state())
    torch.testing.assert_close(model.mean.flatten(), 255 * torch.tensor([0.1, 0.2, 0.3]))


def test_cached_weights_of_timm_need_no_network(no_network, tmp_path):
    classifier = timm.create_model("resnet18", pretrained=False)
    save_file(classifier.state_dict(), tmp_path / "x.safetensors")
    files = {"model.safetensors": (tmp_path / "x.safetensors").read_bytes()}
    in_cache(no_network / "hub", "timm/resnet18.a1_in1k", "0" * 40, files)
    model = a_model(encoder="tu-resnet18", encoder_weights="imagenet")
    assert torch.equal(model.net.encoder.model.conv1.weight, classifier.conv1.weight)


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "unnet"}, r"unknown arch 'unnet'; did you mean 'unet'\?"),
        ({"arch": "x"}, r"unknown arch 'x'; allowed: deeplabv3, .*upernet"),
        ({"encoder": "resnet81"}, r"unknown encoder 'resnet81'; did you mean 'resnet18'\?"),
        ({"encoder": "tu-resnet81"}, r"unknown encoder 'tu-resnet81'; did you mean 'tu-resnet18'\?"),
        ({"arch": "dpt", "encoder": "resnet18"}, "encoder 'resnet18' does not go with arch 'dpt'"),
        (
            {"arch": "dpt", "encoder": "tu-vit_small_patch14_dinov2"},
            "has patches of 14 pixels, which arch 'dpt' cannot",
        ),
        ({"arch": "linknet", "encoder": "mit_b0"}, "Linknet cannot be built with encoder 'mit_b0': "),
        (
            {"encoder_weights": "imagnet"},
            "unknown encoder_weights 'imagnet' for encoder 'resnet18'; allowed: imagenet, ssl",
        ),
        ({"encoder": "tu-test_vit3.none"}, "cannot be built with encoder 'tu-test_vit3.none': Invalid pretrained tag"),
        ({"decoder": {"decoder_chanels": 3}}, r"arch 'fpn' has no option 'decoder_chanels'"),
        ({"decoder": {"upsampling": 1}}, "has no option 'upsampling'"),
        ({"encoder": "tu-resnet18", "encoder_options": {"widht": 3}}, "got an unexpected keyword argument 'widht'"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        a_model(**options)


def test_options_of_the_architecture_reach_it():
    model = a_model(decoder={"decoder_segmentation_channels": 32, "encoder_depth": 4})
    assert model.net.segmentation_head[0].in_channels == 32
    assert model.eval()(images(20, 20)).shape == (1, 5, 20, 20)
