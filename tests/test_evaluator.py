import numpy as np
import pytest
import torch

from segtrain.task import predict


def counted(built, model):
    """The confusion matrix, the slow and obvious way."""
    k = built.task.num_classes
    confusion = np.zeros((k, k), np.int64)
    model.eval()
    for index in range(len(built.val)):
        sample = built.val[index]
        with torch.no_grad():
            logits = model(torch.from_numpy(sample.image).permute(2, 0, 1)[None])
        for label, predicted in zip(sample.target.ravel(), predict(logits).numpy().ravel(), strict=True):
            if label != built.task.ignore_index:
                confusion[label, predicted] += 1
    return confusion


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_every_pixel_of_every_image_is_counted_once_whatever_the_batch(tiny, batch_size):
    built = tiny(f"data.val_batch_size={batch_size}")
    report = built.evaluator(built.learner.model, 0)
    assert np.array_equal(report.confusion, counted(built, built.learner.model))


def test_an_evaluation_leaves_no_trace(tiny):
    built = tiny()
    model = built.learner.model
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    built.evaluator(model, 3)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_the_loss_is_the_plain_mean_over_valid_pixels_however_the_training_mines(tiny):
    mined, plain = tiny(), tiny("criterion={name: cross_entropy}")
    a = mined.evaluator(mined.learner.model, 100).scalars["val/loss"]
    b = plain.evaluator(plain.learner.model, 100).scalars["val/loss"]
    assert a == pytest.approx(b, rel=1e-6)


def test_probes_are_the_same_images_every_time_and_show_what_is_mined(tiny):
    built = tiny()
    first, second = (built.evaluator(built.learner.model, step).probes for step in (8, 9))
    assert [probe.id for probe in first] == [probe.id for probe in second]
    for probe in first:
        assert probe.image.shape == (24, 32, 3)
        assert probe.target.shape == probe.prediction.shape == probe.mined.shape == (24, 32)
    valid = sum((probe.target != 255).sum() for probe in first)
    assert sum(probe.mined.sum() for probe in first) == max(1, int(0.25 * valid + 1e-6))


def test_a_criterion_that_does_not_mine_has_no_overlay(tiny):
    built = tiny("criterion={name: cross_entropy}")
    assert built.evaluator(built.learner.model, 0).probes[0].mined is None


def test_segmentation_can_be_validated_at_another_size_of_image_and_label(tiny):
    built = tiny("data.val_prepare=[{name: Resize, height: 12, width: 16}]")
    report = built.evaluator(built.learner.model, 0)
    assert report.confusion.sum() <= 5 * 12 * 16
    assert report.probes[0].image.shape == (12, 16, 3)
    assert report.probes[0].target.shape == (12, 16)
