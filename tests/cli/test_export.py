"""export as a user meets it: files that run elsewhere and say the same, or nothing at all."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_components import tiny

import segtrain
from segtrain.cli.export import exporting, main
from segtrain.cli.export import programs as export_formats
from segtrain.cli.train import main as train
from segtrain.deployed import Deployed

HERE = Path(__file__).parents[1]
OURS = ["--import", "tiny_components"]
SMALL = ["train.steps=4", "validate.every=4", "checkpoint.every=4", "log.pictures=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train([*OURS, "--config", str(HERE / "tiny.yaml"), "--run-dir", str(run), "--quiet", *SMALL]) == 0
    return run


def ask(checkpoint, *arguments):
    return main([*OURS, "--checkpoint", str(checkpoint), "--out", "out", *map(str, arguments)])


def images(count=3, size=(17, 29)):
    return np.random.default_rng(0).integers(0, 256, (count, 3, *size), dtype=np.uint8)


def test_all_formats_take_any_batch_and_size_and_say_what_the_model_says(trained, in_tmp, capsys):
    assert ask(trained, "--format", "onnx,pt2,safetensors", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["file"] for one in told["exports"]] == ["model.onnx", "model.pt2", "model.safetensors"]
    for one in told["exports"]:
        assert one["difference"] < 1e-4
        assert one["agreement"] == 1
        assert len(one["sizes"]) > 3
    model = segtrain.load(trained, device="cpu", modules=["tiny_components"])
    session = onnxruntime.InferenceSession("out/model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape) == ("image", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert session.get_outputs()[0].shape == ["batch", 7, "height", "width"]
    module = torch.export.load("out/model.pt2").module()
    for size in ((17, 29), (64, 64), (1, 40)):
        batch = images(size=size)
        with torch.no_grad():
            expected = model.trained.model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(session.run(None, {"image": batch})[0], expected, atol=1e-4)
        np.testing.assert_allclose(module(torch.from_numpy(batch)).numpy(), expected, atol=1e-6)
    with safe_open("out/model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(model.classes)
        weights = model.trained.model.state_dict()
        assert all(torch.equal(file.get_tensor(name), value) for name, value in weights.items())


@pytest.mark.parametrize(("flag", "dtype", "shape"), [("--softmax", "float32", (7,)), ("--argmax", "uint8", ())])
def test_softmax_or_argmax_can_be_inside(trained, in_tmp, flag, dtype, shape):
    assert ask(trained, "--format", "pt2", flag) == 0
    answer = torch.export.load("out/model.pt2").module()(torch.from_numpy(images(2))).numpy()
    assert (answer.dtype, answer.shape) == (np.dtype(dtype), (2, *shape, 17, 29))
    if shape:
        np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)


def test_a_fixed_size_is_fixed(trained, in_tmp):
    assert ask(trained, "--dynamic", "none", "--size", "16x24", "--argmax") == 0
    (entry,) = onnxruntime.InferenceSession("out/model.onnx").get_inputs()
    assert entry.shape == [1, 3, 16, 24]


def test_images_can_be_given_and_where_they_are_from_is_told(trained, in_tmp, capsys):
    Image.fromarray(images(1)[0].transpose(1, 2, 0)).save("photo.png")
    assert ask(trained, "--format", "safetensors", "--images", "photo.png") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("model.safetensors ")
    assert "100 % of the decisions agree" in told[0]
    assert told[1:] == ["compared on the images given", "written to out"]


def test_the_model_card_says_what_one_has_to_know(trained, in_tmp):
    assert ask(trained, "--format", "safetensors", "--softmax") == 0
    text = Path("out/README.md").read_text()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "README.md",
        "classes.json",
        "config.yaml",
        "model.safetensors",
    ]
    for words in (
        "# Segmentation of 7 classes",
        "averaged (ema) weights",
        "uint8 [batch, 3, height, width], RGB",
        "`softmax`, float32 [batch, 7, height, width]: probabilities",
        "| 6 | person |",
        "| val/miou | 0.",
        "* train: `{'name': 'scenes'",
        f"segtrain {segtrain.__version__}, torch {torch.__version__}",
        "criterion:",
    ):
        assert words in text
    assert json.loads(Path("out/classes.json").read_text())[0]["name"] == "ground"
    best = json.loads((trained / "status.json").read_text())["best"]
    assert f"| val/miou | {best['val/miou']:.4f} |" in text, "of the averaged weights, as exported"


def test_a_checkpoint_alone_is_enough_for_the_card(trained, in_tmp):
    Path("alone.pt").write_bytes((trained / "checkpoints/best.pt").read_bytes())
    assert ask("alone.pt", "--format", "safetensors") == 0
    assert "The best val/miou of the run was 0." in Path("out/README.md").read_text()


def test_an_export_that_differs_is_refused_loudly_and_leaves_nothing(trained, in_tmp, capsys, monkeypatch):
    write, opened = export_formats.FORMATS["safetensors"]

    def off(plan, path):
        runner = opened(plan, path)
        return lambda batch: runner(batch) + np.linspace(0, 5, 7, dtype=np.float32)[:, None, None]

    monkeypatch.setitem(exporting.FORMATS, "safetensors", (write, off))
    assert ask(trained, "--format", "safetensors") == 1
    told = capsys.readouterr().err
    assert "error: model.safetensors differs from the model: by up to 5" in told
    assert "nothing is kept" in told
    assert list(in_tmp.iterdir()) == []


def test_an_export_is_compared_with_the_model_as_it_was_trained(tmp_path):
    class Halved(Deployed):
        def _logits(self, image):
            return super()._logits(image) / 2

    halved = Halved(tiny(3).eval(), "logits")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(exporting.ExportError, match="differs from the model"), torch.no_grad():
        exporting.compared(
            halved, lambda image: halved(torch.from_numpy(image)).numpy(), tmp_path / "model.onnx", [images()], 1e-3
        )


def test_an_exporter_that_fails_is_one_message_and_leaves_nothing(trained, in_tmp, capsys, monkeypatch):
    def write(plan, path):
        path.write_text("half")
        raise RuntimeError("no such operator\nand pages more")

    monkeypatch.setitem(exporting.FORMATS, "onnx", (write, export_formats.run_onnx))
    assert ask(trained) == 1
    told = capsys.readouterr().err
    assert "model.onnx: the exporter failed with batch and hw varying: RuntimeError: no such operator; try" in told
    assert "pages more" not in told
    assert list(in_tmp.iterdir()) == []


def test_a_mistake_is_one_clear_message(trained, in_tmp, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("")
    for arguments, message in (
        (["--checkpoint", "nowhere"], "nowhere: cannot be read"),
        (["--checkpoint", trained, "--out", "full"], "full exists and is not empty"),
        (["--checkpoint", trained, "--out", "full/mine/x"], "full/mine/x cannot be written: File exists: full/mine"),
        (["--checkpoint", trained, "--images", "gone.png"], "gone.png does not exist"),
        (["--checkpoint", trained, "--tolerance", "-1"], "--tolerance -1"),
    ):
        assert main([*OURS, "--format", "safetensors", "--out", "out", *map(str, arguments)]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("error:") == 1
    for flag, value in (("--format", "tflite"), ("--dynamic", "depth"), ("--size", "12by3")):
        with pytest.raises(SystemExit) as end:
            main(["--checkpoint", "x", flag, value])
        assert end.value.code == 2
    assert not Path("out").exists()


def test_a_classifier_is_exported_with_its_size(colors, capsys):
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", "--quiet"]) == 0
    assert ask("run", "--softmax") == 0
    session = onnxruntime.InferenceSession("out/model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 16, 16]
    image = np.array(Image.open("colors/val/red/0.png").resize((16, 16)))
    (shares,) = session.run(None, {"image": image.transpose(2, 0, 1)[None]})
    classes = [one["name"] for one in json.loads(Path("out/classes.json").read_text())]
    assert classes[shares[0].argmax()] == "red"


def test_without_its_data_a_model_is_compared_on_made_up_scenes(colors, capsys):
    assert train([*OURS, "--config", str(HERE / "tiny_classifier.yaml"), "--run-dir", "run", "--quiet"]) == 0
    colors.rename("elsewhere")
    assert ask("run", "--format", "safetensors") == 0
    assert "compared on 3 made-up scenes, because data.val is not here" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_of_the_library_is_exported_for_any_size(in_tmp):
    changes = ["model={name: smp, arch: fpn, encoder: resnet18, encoder_weights: null}", "train.steps=2"]
    config = str(HERE / "tiny.yaml")
    assert train([*OURS, "--config", config, "--run-dir", "run", "--quiet", *SMALL[1:], *changes]) == 0
    assert ask("run", "--format", "onnx,pt2") == 0
    model = segtrain.load("run", device="cpu")
    session = onnxruntime.InferenceSession("out/model.onnx")
    for size in ((64, 96), (33, 200), (75, 75)):
        batch = images(2, size)
        with torch.no_grad():
            expected = model.trained.model(torch.from_numpy(batch)).numpy()
        np.testing.assert_allclose(session.run(None, {"image": batch})[0], expected, atol=1e-3)


def test_an_opset_that_the_exporter_does_not_give_is_refused(trained, in_tmp, capsys):
    assert ask(trained, "--opset", "5") == 2
    assert "--opset 5: torch" in capsys.readouterr().err
    assert not Path("out").exists()
