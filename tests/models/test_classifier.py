import hashlib
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from segtrain.models.classifier import TORCHVISION, _downloaded, timm_classifier, torchvision_classifier
from segtrain.registry import MODELS, parameters

FACTORIES = {"torchvision": torchvision_classifier, "timm": timm_classifier}


def images(size: int = 40, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


def head_names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if not model.in_encoder(name)]


@pytest.mark.parametrize("library", FACTORIES)
def test_a_classifier_takes_bytes_and_gives_logits_of_its_new_head(library):
    assert MODELS[library] is FACTORIES[library]
    assert list(parameters(MODELS[library]))[:2] == ["arch", "weights"]
    model = FACTORIES[library](7, arch="resnet18", weights=None)
    assert model(images()).shape == (2, 7)
    assert head_names(model) == ["net.fc.weight", "net.fc.bias"]


@pytest.mark.parametrize("library", FACTORIES)
def test_images_are_normalised_inside(library):
    model = FACTORIES[library](7, weights=None).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(model(images()), model.net((images() / 255 - mean) / std), rtol=1e-4, atol=1e-5)


def test_googlenet_is_normalised_as_its_published_weights_expect(tmp_path):
    theirs = torchvision.models.googlenet(num_classes=7, aux_logits=False, init_weights=False, transform_input=True)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = torchvision_classifier(7, arch="googlenet", weights=str(tmp_path / "weights.pth"))
    ours.net.fc.load_state_dict(theirs.fc.state_dict())
    again = torchvision_classifier(7, arch="googlenet", weights=None)
    again.load_state_dict(ours.state_dict())
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = theirs.eval()((images() / 255 - mean) / std)
        for model in (ours, again):
            torch.testing.assert_close(model.eval()(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["squeezenet1_1", "vgg11", "densenet121", "mobilenet_v3_small", "swin_t", "googlenet"])
def test_only_the_last_layer_of_a_classifier_is_its_head(arch):
    with torch.device("meta"):
        model = torchvision_classifier(7, arch=arch, weights=None)
    assert [dict(model.named_parameters())[name].shape[0] for name in head_names(model)] == [7, 7]


@pytest.mark.slow
@pytest.mark.parametrize("arch", TORCHVISION)
def test_every_classifier_of_torchvision_has_a_head_of_its_own(arch):
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):  # regnets compute their widths with tensors
        model = torchvision_classifier(7, arch=arch, weights=None).train()
        size = 64 if arch.startswith("regnet") else 299 if arch == "inception_v3" else 224
        assert model(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, 7)
    assert {dict(model.named_parameters())[name].shape[0] for name in head_names(model)} == {7}


@pytest.mark.parametrize("library", FACTORIES)
def test_weights_come_from_a_file_but_never_the_head(library, tmp_path):
    whole = FACTORIES["torchvision"](1000, weights=None).net
    save_file(whole.state_dict(), tmp_path / "x.safetensors")
    model = FACTORIES[library](7, weights=str(tmp_path / "x.safetensors"))
    assert torch.equal(model.net.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    assert model.net.fc.weight.shape == (7, 512)
    with pytest.raises(ValueError, match=r"weights .*x\.safetensors do not fit: .* is not in it"):
        FACTORIES[library](7, arch="resnet34", weights=str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("library", FACTORIES)
def test_without_a_network_the_remedy_comes_at_once(library, no_network):
    with pytest.raises(ValueError, match=r"cannot be reached.*weights: null.*weights: PATH"):
        FACTORIES[library](7)


def test_cached_weights_of_torchvision_need_no_network(no_network, monkeypatch):
    published = torchvision.models.ResNet18_Weights.DEFAULT
    whole = torchvision.models.resnet18(weights=None)
    path = Path(no_network / "torch" / "hub" / "checkpoints" / published.url.rsplit("/", 1)[1])
    path.parent.mkdir(parents=True)
    torch.save(whole.state_dict(), path)
    model = torchvision_classifier(7, arch="resnet18", weights="imagenet")
    assert torch.equal(model.net.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)


def test_a_download_is_checked_against_the_hash_in_its_name(no_network, monkeypatch, tmp_path):
    source = tmp_path / "weights"
    source.write_bytes(b"content")
    good = hashlib.sha256(b"content").hexdigest()[:8]
    (tmp_path / f"x-{good}.pth").write_bytes(b"content")
    (tmp_path / "x-00000000.pth").write_bytes(b"content")
    assert _downloaded(f"file://{tmp_path}/x-{good}.pth").read_bytes() == b"content"
    with pytest.raises(RuntimeError, match="invalid hash"):
        _downloaded(f"file://{tmp_path}/x-00000000.pth")


def test_statistics_are_those_of_the_weights():
    model = timm_classifier(7, arch="mobilevitv2_050", weights=None)
    assert timm.get_pretrained_cfg("mobilevitv2_050").mean == (0.0, 0.0, 0.0)
    assert model.mean.flatten().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("library", "options", "message"),
    [
        ("torchvision", {"arch": "resnet81"}, r"unknown arch 'resnet81'; did you mean 'resnet18'\?"),
        ("timm", {"arch": "resnet81"}, r"unknown arch 'resnet81'; did you mean 'resnet18'\?"),
        ("timm", {"options": {"widht": 3}}, "timm cannot build 'resnet18': .*'widht'"),
        ("torchvision", {"weights": "none.pth"}, r"weights none\.pth: cannot be read"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(library, options, message):
    with pytest.raises(ValueError, match=message):
        FACTORIES[library](7, **{"weights": None, **options})
