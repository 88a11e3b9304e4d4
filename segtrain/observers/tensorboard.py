"""Event files for TensorBoard. Nothing is started here and nothing listens."""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE, DATA_CLASS_SCALAR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    NULL_TENSOR,
    SESSION_START_INFO_TAG,
    create_summary_metadata,
)
from tensorboard.summary.writer.record_writer import RecordWriter

from segtrain.metrics.evaluation import Evaluation
from segtrain.observers import pictures
from segtrain.observers.disk import Forgiving
from segtrain.observers.meanings import LAYOUT, meaning
from segtrain.observers.observer import SampleLoss
from segtrain.task import Task
from segtrain.writing import append

Hparam = float | str


class TensorBoard:
    """Scalars, pictures and texts as events in `folder`, readable as soon as a call returns, even after kill -9.

    A run that goes on from `start_step` finished steps says so in its first event, and TensorBoard drops what an
    earlier process wrote after that step. `texts`: Markdown by tag ("config"). `hparams` and the tags of `metrics` are
    a row of the page where runs are compared.
    """

    # tensorboard's EventFileWriter writes from a thread that dies at the first OSError with a traceback of its own, and
    # leaves up to flush_secs of events in memory; its RecordWriter alone does what we need.

    def __init__(
        self,
        folder: Path,
        task: Task,
        *,
        start_step: int = 0,
        texts: Mapping[str, str] | None = None,
        hparams: Mapping[str, Hparam] | None = None,
        metrics: Sequence[str] = (),
    ) -> None:
        seconds, rest = divmod(time.time_ns(), 10**9)
        # readers find event files by "tfevents" and go through them in the order of their names
        name = f"events.out.tfevents.{seconds:010d}.{platform.node()}.{os.getpid()}.{rest:09d}"
        self._path = folder / name
        self._forgiving = Forgiving(self._path)
        self._known = set[str]()
        with self._forgiving():
            folder.mkdir(parents=True, exist_ok=True)
        self._write(Event(file_version="brain.Event:2"))
        first_new = start_step + 1 if start_step > 0 else 0
        self._write(Event(step=first_new, session_log=SessionLog(status=SessionLog.START)))
        values = [_text(tag, text) for tag, text in {"classes": _classes(task), **(texts or {})}.items()]
        if hparams:
            values += _hparams(hparams, metrics, seconds)
        self._add(start_step, _layout(task), *values)

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        self._add(step, *(self._described(Summary.Value(tag=tag, simple_value=scalars[tag])) for tag in scalars))

    def on_samples(self, step: int, samples: Sequence[SampleLoss]) -> None:
        """Single samples are for files."""

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        self.on_step(step, report.scalars)
        for tag, picture in pictures.jpegs_of_evaluation(report).items():
            self._jpeg(step, tag, picture)

    def picture(self, step: int, tag: str, picture: npt.NDArray[np.uint8]) -> None:
        """Show an RGB picture, uint8 [H, W, 3], under `tag`."""
        self._jpeg(step, tag, pictures.Jpeg(pictures.jpeg(picture), *picture.shape[:2]))

    def _jpeg(self, step: int, tag: str, picture: pictures.Jpeg) -> None:
        data, height, width = picture
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._add(step, self._described(Summary.Value(tag=tag, image=image)))

    def close(self) -> None:
        """Nothing is open."""

    def _described(self, value: Any) -> Any:
        """`value`, with what its tag means when it is the first one: readers keep the metadata of the first."""
        if value.tag not in self._known:
            self._known.add(value.tag)
            value.metadata.summary_description = meaning(value.tag)
            # without a plugin and a class TensorBoard's fast reader throws the description away
            scalar = value.HasField("simple_value")
            value.metadata.plugin_data.plugin_name = "scalars" if scalar else "images"
            value.metadata.data_class = DATA_CLASS_SCALAR if scalar else DATA_CLASS_BLOB_SEQUENCE
        return value

    def _add(self, step: int, *values: Any) -> None:
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        with self._forgiving():
            append(self._path, record.getvalue())


def _text(tag: str, text: str) -> Any:
    return _string_value(f"{tag}/text_summary", "text", text.encode(), shape=TensorShapeProto(dim=[{"size": 1}]))


def _layout(task: Task) -> Any:
    categories = [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                for title, tags in charts.items()
            ],
        )
        for category, charts in LAYOUT[task.kind].items()
    ]
    layout = layout_pb2.Layout(category=categories).SerializeToString()
    return _string_value("custom_scalars__config__", "custom_scalars", layout, shape=TensorShapeProto())


def _hparams(hparams: Mapping[str, Hparam], metrics: Sequence[str], began: int) -> list[Any]:
    """What TensorBoard's own helpers write, which need TensorFlow."""
    experiment = api_pb2.Experiment(time_created_secs=began)
    session = plugin_data_pb2.SessionStartInfo(start_time_secs=began)
    for name, value in hparams.items():
        number = isinstance(value, (int, float))
        kind = api_pb2.DATA_TYPE_FLOAT64 if number else api_pb2.DATA_TYPE_STRING
        experiment.hparam_infos.add(name=name, type=kind)
        if number:
            session.hparams[name].number_value = value
        else:
            session.hparams[name].string_value = value
    for tag in metrics:
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
    return [
        _hparams_value(EXPERIMENT_TAG, experiment=experiment),
        _hparams_value(SESSION_START_INFO_TAG, session_start_info=session),
    ]


def _hparams_value(tag: str, **content: Any) -> Any:
    metadata = create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    return Summary.Value(tag=tag, metadata=metadata, tensor=NULL_TENSOR)


def _string_value(tag: str, plugin: str, content: bytes, *, shape: Any) -> Any:
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin))
    tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _classes(task: Task) -> str:
    rows = [
        f"| {index} | {_cell(name)} | #{red:02x}{green:02x}{blue:02x} |"
        for index, (name, (red, green, blue)) in enumerate(zip(task.classes, task.palette, strict=True))
    ]
    return "\n".join(["| id | class | colour |", "|---|---|---|", *rows, "", f"ignored: {task.ignore_index}"])
