import subprocess
import sys
import textwrap
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data, parse_session_start_info_plugin_data

from segtrain.observers.tensorboard import TensorBoard


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


def test_scalars_come_back_under_their_tags(tmp_path, task, report):
    board = TensorBoard(tmp_path, task)
    for step in (20, 40):
        board.on_step(step, {"train/loss": step / 10, "mining/threshold": 0.5})
    board.on_evaluation(40, report)
    board.close()
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(20, 2.0), (40, 4.0)]
    assert events.Scalars("val/iou/pole")[0].value == pytest.approx(report.scalars["val/iou/pole"], rel=1e-6)


def test_pictures_come_back_as_jpeg_of_the_stated_size(tmp_path, task, report):
    board = TensorBoard(tmp_path, task)
    worst = replace(report.probes[0], iou=0.25)
    board.on_evaluation(40, replace(report, train_probes=report.probes[:1], wrong=(worst,)))
    events = read(tmp_path)
    expected = {"probe/panel", "probe/train", "mining/overlay", "mining/curve", "val/worst", "val/confusion"}
    assert expected <= set(events.Tags()["images"])
    for tag in events.Tags()["images"]:
        (image,) = events.Images(tag)
        assert image.encoded_image_string.startswith(b"\xff\xd8")
        shape = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR).shape
        assert shape == (image.height, image.width, 3)


def test_texts_and_the_layout_come_back(tmp_path, task):
    TensorBoard(tmp_path, task, texts={"config": "seed: 0"})
    events = read(tmp_path)
    assert events.Tensors("config/text_summary")[0].tensor_proto.string_val == [b"seed: 0"]
    assert b"| 5 | pole | #dcdc00 |" in events.Tensors("classes/text_summary")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["mining", "validation"]


def test_tags_are_explained(tmp_path, task, report):
    board = TensorBoard(tmp_path, task)
    board.on_step(20, {"mining/threshold": 0.5, "mining/class_lift/pole": 2.0, "unheard/of": 1.0})
    metadata = read(tmp_path).summary_metadata
    assert metadata["mining/threshold"].summary_description == "Smallest loss that is kept."
    assert metadata["mining/threshold"].data_class == DATA_CLASS_SCALAR  # else the fast reader drops the description
    assert "pixel of the class" in metadata["mining/class_lift/pole"].summary_description
    assert metadata["unheard/of"].summary_description == ""


def test_hyperparameters_are_a_row_of_the_page_that_compares_runs(tmp_path, task):
    TensorBoard(tmp_path, task, hparams={"lr": 0.1, "encoder": "resnet18"}, metrics=["val/miou"])
    found = {}
    for tag, metadata in read(tmp_path).summary_metadata.items():
        if metadata.plugin_data.plugin_name == "hparams":
            found[tag] = parse_hparams(metadata.plugin_data.content, tag)
    session = found["_hparams_/session_start_info"].hparams
    assert session["lr"].number_value == 0.1
    assert session["encoder"].string_value == "resnet18"
    experiment = found["_hparams_/experiment"]
    assert [info.name for info in experiment.hparam_infos] == ["lr", "encoder"]
    assert [info.name.tag for info in experiment.metric_infos] == ["val/miou"]


def parse_hparams(content, tag):
    return (parse_session_start_info_plugin_data if "session" in tag else parse_experiment_plugin_data)(content)


def test_a_resumed_run_shows_every_step_once(tmp_path, task, report):
    first = TensorBoard(tmp_path, task)
    for step in (20, 40, 60):
        first.on_step(step, {"train/loss": 1.0})
        first.on_evaluation(step, report)
    resumed = TensorBoard(tmp_path, task, start_step=40)  # as after a kill: the first was never closed
    resumed.on_step(60, {"train/loss": 2.0})
    resumed.on_evaluation(60, report)
    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(20, 1.0), (40, 1.0), (60, 2.0)]
    assert [event.step for event in events.Images("probe/panel")] == [20, 40, 60]


def test_everything_told_before_kill_9_can_be_read(tmp_path):
    script = f"""
        import os, pathlib, signal
        from segtrain.observers.tensorboard import TensorBoard
        from segtrain.task import Task
        task = Task("segmentation", ("a", "b"), ((0, 0, 0), (255, 255, 255)))
        board = TensorBoard(pathlib.Path({str(tmp_path)!r}), task)
        for step in range(1, 6):
            board.on_step(step, {{"train/loss": 0.5}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert [event.step for event in read(tmp_path).Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_a_full_disk_is_told_once_and_the_events_stay_readable(tmp_path, task, report, told, full_disk):
    board = TensorBoard(tmp_path, task)
    board.on_step(1, {"train/loss": 1.0})
    (path,) = tmp_path.iterdir()
    with full_disk(path):
        board.on_step(2, {"train/loss": 2.0})
        board.on_evaluation(2, report)
    assert ["training goes on" in str(one.message) for one in told] == [True]
    board.on_step(3, {"train/loss": 3.0})
    assert [event.step for event in read(tmp_path).Scalars("train/loss")] == [1, 3]


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, task, told):
    (tmp_path / "tb").write_text("a file")
    TensorBoard(tmp_path / "tb", task).on_step(1, {"train/loss": 1.0})
    assert len(told) == 1
