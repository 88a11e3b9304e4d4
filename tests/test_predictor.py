"""segtrain.load: a run or a checkpoint becomes something that can be asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segtrain
from segtrain.cli.train import main as train
from segtrain.errors import CheckpointError, DataError
from segtrain.task import predict

HERE = Path(__file__).parent
OURS = ["--import", "tiny_components"]


def trained(name, *changes, config="tiny.yaml"):
    small = ["train.steps=2", "validate.every=2", "checkpoint.every=2", "log.pictures=0"]
    assert train([*OURS, "--config", str(HERE / config), "--run-dir", name, "--quiet", *small, *changes]) == 0
    return segtrain.load(name, device="cpu", modules=["tiny_components"])


@pytest.fixture
def scenes(in_tmp):
    """A model of scenes, and a picture of one in scene.png."""
    model = trained("run")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save("scene.png")
    return model


def test_a_path_an_image_and_an_array_give_one_label_map_at_their_size(scenes):
    array = np.array(Image.open("scene.png"))
    with torch.no_grad():
        logits = scenes.trained.model(torch.from_numpy(array).permute(2, 0, 1)[None])
    expected = predict(logits)[0].numpy()
    for image in ("scene.png", Path("scene.png"), Image.open("scene.png"), array):
        labels = scenes.predict(image)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected)
    np.testing.assert_allclose(scenes.probabilities("scene.png"), logits.softmax(1)[0].numpy(), atol=1e-6)
    assert scenes.classes[:2] == ("ground", "sky")


def test_grey_images_and_images_of_one_pixel_are_images(scenes):
    assert scenes.predict(np.full((1, 1), 7, np.uint8)).shape == (1, 1)
    assert scenes.predict(Image.new("L", (5, 3))).shape == (3, 5)
    same = scenes.predict(np.full((6, 7, 3), 9, np.uint8)), scenes.predict(np.full((6, 7), 9, np.uint8))
    assert np.array_equal(*same)


def test_a_file_is_turned_by_its_exif_and_an_image_object_is_taken_as_it_stands(scenes):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open("scene.png").save("turned.png", exif=turned)
    assert scenes.predict("turned.png").shape == (32, 24)
    assert scenes.predict(Image.open("turned.png")).shape == (24, 32)


def test_windows_flips_and_scales_are_options(scenes):
    whole = scenes.probabilities("scene.png")
    assert np.array_equal(scenes.probabilities("scene.png", window=(24, 32)), whole)
    other = scenes.probabilities("scene.png", window=(16, 16), flip=True, scales=(0.5, 1.0))
    assert other.shape == whole.shape
    assert not np.array_equal(other, whole)
    with pytest.raises(ValueError, match="left out"):
        scenes.predict("scene.png", window=(8, 8), stride=(9, 9))


def test_the_checkpoint_alone_is_enough_and_ema_and_raw_weights_can_be_chosen(scenes, in_tmp):
    Path("alone").mkdir()
    Path("run/checkpoints/last.pt").rename("alone/model.pt")
    state = torch.load("alone/model.pt", weights_only=True)
    for weights, key in (("raw", "model"), ("ema", "ema"), ("auto", "ema")):
        model = segtrain.load("alone/model.pt", weights=weights, modules=["tiny_components"]).trained.model
        assert all(torch.equal(value, state[key][name]) for name, value in model.state_dict().items())


def test_labels_are_brought_back_to_the_size_of_the_image_where_validation_resizes(in_tmp):
    model = trained("run", "data.val_prepare=[{name: Resize, height: 12, width: 16}]")
    seen = []
    model.trained.model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    assert model.predict(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)
    assert seen == [(1, 3, 12, 16)]


def test_a_model_that_was_validated_on_parts_of_images_makes_no_label_maps(in_tmp):
    model = trained("run", "data.val_prepare=[{name: CenterCrop, height: 8, width: 8}]")
    with pytest.raises(DataError, match=r"CenterCrop changes which part of an image is seen.*only resizes"):
        model.predict(np.zeros((24, 32, 3), np.uint8))


def test_a_binary_model_with_one_channel_has_two_classes(in_tmp):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, depth in (("images", (3,)), ("masks", ())):
            Path("pairs", kind, split).mkdir(parents=True)
            for index in range(2):
                shape = (16, 16, *depth)
                values = rng.integers(0, 256 if depth else 2, shape, dtype=np.uint8)
                Image.fromarray(values).save(Path("pairs", kind, split, f"{index}.png"))
    data = "{{name: folder_pairs, root: pairs, images: images/{0}, masks: masks/{0}, names: [a, b]}}"
    changes = [f"data.{split}={data.format(split)}" for split in ("train", "val")]
    model = trained("run", *changes, "criterion={name: bce_with_logits}", "data.augment=[]")
    image = np.array(Image.open("pairs/images/val/0.png"))
    shares = model.probabilities(image)
    assert shares.shape == (2, 16, 16)
    np.testing.assert_allclose(shares.sum(0), 1, rtol=1e-6)
    assert np.array_equal(model.predict(image), (shares[1] > shares[0]).astype(np.uint8))


def test_a_classifier_gives_names_with_probabilities(colors):
    steps = ["train.steps=24", "validate.every=12"]
    model = trained("run", *steps, config="tiny_classifier.yaml")
    (first, share), (_, rest) = model.predict("colors/val/red/0.png", topk=2)
    assert first == "red"
    assert share > rest > 0
    assert len(model.predict("colors/val/red/0.png", topk=99)) == 3
    shares = model.probabilities("colors/val/red/0.png")
    assert shares.shape == (3,)
    assert shares[model.classes.index("red")] == pytest.approx(share, abs=1e-6)


def test_a_mapped_array_is_not_read_as_a_whole(scenes):
    array = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    np.save("large.npy", array)
    from segtrain.predictor import read_pixels

    assert isinstance(read_pixels(Path("large.npy")), np.memmap)
    assert np.array_equal(scenes.predict("large.npy", window=(16, 16)), scenes.predict(array, window=(16, 16)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]; expected RGB or grey, uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"expected RGB or grey"),
        (np.zeros((0, 4), np.uint8), "without a pixel"),
        ("gone.png", "gone.png does not exist"),
        ("words.npy", "cannot be read as an array"),
        ("flat.npy", r"holds float64 \[3\]; expected RGB"),
    ],
)
def test_what_is_no_image_is_told(scenes, image, message):
    Path("words.npy").write_text("words")
    np.save("flat.npy", np.zeros(3))
    with pytest.raises(DataError, match=message):
        scenes.predict(image)


def test_what_is_no_run_is_told(in_tmp):
    with pytest.raises(CheckpointError, match="nowhere"):
        segtrain.load("nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        segtrain.load(in_tmp)
