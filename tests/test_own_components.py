"""What a user's own component gets wrong is said in its terms, not from deep inside of the package."""

import re

import pytest

from segtrain.cli.train import main


def train(*overrides):
    arguments = [
        "--import",
        "tiny_components",
        "--import",
        "own_components",
        "--config",
        "bootstrap",
        "--device",
        "cpu",
    ]
    small = [
        "data.batch_size=2",
        "data.workers=0",
        "train.steps=2",
        "train.ema=null",
        "validate.weights=raw",
        "log.pictures=0",
    ]
    small += ["model={name: own}", "criterion={name: own}", "data.train={name: own}", "data.val={name: own}"]
    return main([*arguments, "--run-dir", "run", *small, "data.augment=[]", *overrides])


def test_components_that_are_right_train(in_tmp):
    assert train() == 0


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("list", "labels of data.train (Own) is a list, not a LabelSpec"),
        ("nameless", "data.train is a Own without path"),
        ("tuple", "own/0: is a tuple; expected a Sample(image, target, id)"),
        ("float_image", "own/0: the image is float32 [16, 16, 3]; expected RGB, uint8 [height, width, 3]"),
        ("channels_first", "own/0: the image is uint8 [3, 16, 16]; expected RGB, uint8 [height, width, 3]"),
        ("float_labels", "own/0: the target is float32 [16, 16]; expected the class of each pixel, uint8 [16, 16]"),
        ("other_size", "own/0: the target is uint8 [15, 16]; expected the class of each pixel, uint8 [16, 16]"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_told_before_the_first_step(in_tmp, capsys, how, told):
    assert train(f"data.train={{name: own, how: {how}}}") == 2
    assert told in capsys.readouterr().err
    assert not (in_tmp / "run").exists()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("half", "the model gave (2, 2, 8, 8) for images (2, 3, 16, 16); expected logits of (2, 2, 16, 16)"),
        ("more", "the model gave (2, 3, 16, 16) for images"),
        ("tuple", "the model gave a tuple for images"),
    ],
)
def test_a_model_with_other_channels_or_sizes_does_not_train(in_tmp, how, told):
    for flags in [[], ["--dry-run"]]:
        with pytest.raises(ValueError, match=re.escape(told)):
            train(f"model={{name: own, how: {how}}}", *flags, "--run-dir", f"run{len(flags)}")


@pytest.mark.parametrize(
    "criterion", ["{{name: own, how: {0}}}", "{{name: mined, top_p: 0.5, loss: {{name: own, how: {0}}}}}"]
)
def test_a_loss_that_gives_no_map_or_another_shape_is_named(in_tmp, capsys, criterion):
    with pytest.raises(ValueError, match=r"OwnLoss gave a Tensor; expected a LossMap"):
        train("criterion=" + criterion.format("mean"), "--run-dir", "mean")
    with pytest.raises(ValueError, match=r"OwnLoss gave value, .* \(2, 15, 16\), .*; expected \(2, 16, 16\) of each"):
        train("criterion=" + criterion.format("shorter"), "--run-dir", "shorter")
    assert train("criterion=" + criterion.format("torch"), "--run-dir", "torch") == 2
    assert "criterion: function is no pixel loss; expected link" in capsys.readouterr().err
