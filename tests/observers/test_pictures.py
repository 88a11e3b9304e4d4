import dataclasses

import cv2
import numpy as np
import pytest
from reports import CLASSES, PALETTE, make_probe, make_report, make_task

from segtrain.observers import canvas, charts, pictures
from segtrain.observers.canvas import BLUE, ORANGE, hatched

SIZES = [(1, 1), (24, 24), (96, 128), (500, 60), (60, 500), (360, 480), (700, 1400)]


def share_of(color, picture):
    return (picture == np.array(color)).all(2).mean()


def is_picture(array):
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_probes_of_every_size_are_drawn(height, width, task):
    report = make_report((make_probe(0, height, width), make_probe(1)))
    drawn = pictures.of_evaluation(report)
    assert sorted(drawn) == [
        "mining/classes",
        "mining/curve",
        "mining/histogram",
        "mining/loss_map",
        "mining/overlay",
        "probe/panel",
        "val/confusion",
    ]
    assert all(is_picture(picture) for picture in drawn.values())
    assert all(max(picture.shape) <= 2200 for picture in drawn.values())


def test_ignored_pixels_have_diagonals_whatever_the_size():
    for height, width in SIZES:
        diagonal = np.add.outer(np.arange(height), np.arange(width)) // 3 % 2
        np.testing.assert_array_equal(hatched(height, width), np.where(diagonal[..., None], 175, 235).repeat(3, 2))


def test_an_evaluation_without_probes_mining_or_loss_draws_what_it_can():
    assert list(pictures.of_evaluation(make_report(()))) == ["val/confusion"]
    plain = dataclasses.replace(make_probe(0), mined=None, loss=None)
    assert list(pictures.of_evaluation(make_report((plain,)))) == ["probe/panel", "val/confusion"]


def test_probes_without_a_valid_pixel_and_with_a_loss_of_nan_are_drawn():
    ignored = dataclasses.replace(make_probe(0), target=np.full((96, 128), 255, np.uint8))
    broken = dataclasses.replace(make_probe(0), loss=np.full((96, 128), np.nan, np.float32))
    for probe in (ignored, broken):
        assert all(is_picture(picture) for picture in pictures.of_evaluation(make_report((probe,))).values())


def test_the_pictures_of_a_report_are_drawn_once_and_those_of_another_anew():
    report, other = (make_report((make_probe(seed),)) for seed in (0, 1))
    first = pictures.jpegs_of_evaluation(report)
    assert pictures.jpegs_of_evaluation(report) is first
    assert pictures.jpegs_of_evaluation(other)["probe/panel"] != first["probe/panel"]
    height, width, _ = cv2.imdecode(np.frombuffer(first["probe/panel"].data, np.uint8), cv2.IMREAD_COLOR).shape
    assert (height, width) == first["probe/panel"][1:]


def test_small_images_are_enlarged_by_whole_pixels(task):
    probe = make_probe(0, 96, 128)
    panel = pictures.panel(probe, task)
    colors = np.array(PALETTE, np.uint8)[np.where(probe.target == 255, 0, probe.target)]
    enlarged = cv2.resize(colors, (256, 192), interpolation=cv2.INTER_NEAREST)
    top = panel.shape[0] - 192 - 2 * (6 + 20) - 8  # two legends and the margin are below
    label = panel[top : top + 192, 8 + 256 + 6 : 8 + 256 + 6 + 256]
    inside = np.s_[1:170, 1:-1]  # within the frame and above the ignored rows
    assert (label[inside] == enlarged[inside]).all()


def test_right_is_blue_wrong_is_orange_and_ignored_is_hatched(task):
    probe = make_probe(0)
    right = dataclasses.replace(probe, prediction=np.where(probe.target == 255, 0, probe.target).astype(np.uint8))
    wrong = dataclasses.replace(probe, prediction=np.full_like(probe.target, 6))
    assert share_of(BLUE, pictures.panel(right, task)) > 0.1
    legend = 0.001
    assert share_of(ORANGE, pictures.panel(right, task)) < legend
    assert share_of(ORANGE, pictures.panel(wrong, task)) > 0.1
    ignored = dataclasses.replace(probe, target=np.full_like(probe.target, 255))
    assert share_of(BLUE, pictures.panel(ignored, task)) == share_of(ORANGE, pictures.panel(ignored, task)) < legend


def test_ids_are_shown_in_the_palette_and_ids_without_a_class_are_hatched(task):
    ids = np.arange(256, dtype=np.uint8)[None].repeat(12, 0)
    shown = pictures.colored(ids, task)
    assert [tuple(color) for color in shown[0, : len(PALETTE)]] == list(PALETTE)
    assert (shown[:, len(PALETTE) :] == hatched(12, 256)[:, len(PALETTE) :]).all()


def test_mined_pixels_are_magenta_as_far_as_they_count(task):
    target = np.zeros((96, 128), np.uint8)
    gray = np.full((96, 128, 3), 128, np.uint8)

    def toward_magenta(share):
        mined = np.full((96, 128), share, np.float32)
        tile = pictures.overlay(dataclasses.replace(make_probe(0), image=gray, target=target, mined=mined), task)
        return int(tile[100, 100, 0]) - int(tile[100, 100, 1])

    assert toward_magenta(0.0) == 0
    assert 0 < toward_magenta(0.5) < toward_magenta(1.0)


def test_the_boundaries_of_the_label_are_white(task):
    target = np.zeros((96, 128), np.uint8)
    target[:, 64:] = 1
    probe = make_probe(0)
    black = dataclasses.replace(
        probe, image=np.zeros_like(probe.image), target=target, mined=np.zeros((96, 128), np.float32)
    )
    overlay = pictures.overlay(black, task)
    rows = slice(90, 190)  # of the image, however tall the title is that OpenCV writes
    assert (overlay[rows, 8 + 128] == 255).all()
    assert (overlay[rows, 8 + 127] == 0).all()


def test_the_texts_tell_shares_of_the_whole_image_not_of_what_is_shown(task, monkeypatch):
    said = []
    monkeypatch.setattr(canvas, "line", lambda text, width: said.append(text) or np.zeros((20, width, 3), np.uint8))
    target = np.zeros((1000, 1000), np.uint8)
    prediction = target.copy()
    prediction[0, 0] = 1
    pictures.panel(dataclasses.replace(make_probe(0, 1000, 1000), target=target, prediction=prediction), task)
    assert "errors: 0.0001 % wrong" in said


def test_a_contact_sheet_holds_every_picture_once_and_none_overlaps():
    tiles = [np.full((20 + index, 30 - index, 3), index, np.uint8) for index in range(7)]
    for columns in (None, 1, 3, 7):
        sheet = pictures.contact_sheet(tiles, columns=columns)
        counts = np.bincount(sheet[..., 0].ravel(), minlength=256)
        assert [counts[index] for index in range(7)] == [tile[..., 0].size for tile in tiles]


def test_a_batch_is_shown_with_its_labels(task):
    probes = [make_probe(seed, 96, 96) for seed in range(20)]
    images, targets = np.stack([one.image for one in probes]), np.stack([one.target for one in probes])
    assert is_picture(pictures.batch(images, targets, [one.id for one in probes], task))
    cars = dataclasses.replace(task, kind="classification", ignore_index=-100)
    assert is_picture(pictures.batch(images, np.array([0, 6, -100] + [1] * 17), [one.id for one in probes], cars))


def test_a_picture_survives_jpeg_with_its_colours():
    thin = np.full((64, 64, 3), 255, np.uint8)
    thin[:, 32] = ORANGE
    back = cv2.imdecode(np.frombuffer(pictures.jpeg(thin), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back[:, 32].astype(int) - ORANGE).max() < 40


def test_long_names_do_not_leave_the_picture():
    names = tuple(f"{name}, {'very ' * 40}long" for name in CLASSES)
    panel = pictures.panel(make_probe(0), make_task(names))
    assert panel.shape[1] == 4 * 256 + 3 * 6 + 2 * 8
    assert (panel[:, -8:] == 255).all()
    confusion = charts.confusion(make_report((make_probe(0),), make_task(names)))
    assert (confusion[:, -8:] == 255).all()
