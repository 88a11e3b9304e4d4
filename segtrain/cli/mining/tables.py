"""What `segtrain mining` says about p and the suspects: tables on the terminal, CSV files and curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segtrain import svg
from segtrain.cli.mining.models import Ranking
from segtrain.cli.tables import csv_bytes, percent, table
from segtrain.metrics.spectrum import Mined, Overlap, Spectrum
from segtrain.metrics.suspects import Suspect
from segtrain.trained import Trained

OURS = re.compile(r"(top_p|classes|curve|suspects)\.(csv|svg)|(hardest(-mined)?|suspects-\d+)\.jpg")
_LISTED = 10  # suspects on the terminal
_FROM, _POINTS = 0.001, 61  # of the curves, on a logarithmic scale up to 1
_MARKS = ((0.001, "0.1 %"), (0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %"))
_LINES = 8  # classes in one chart


@dataclass(frozen=True)
class Report:
    """One look at a split: what was looked at, and what was seen."""

    checkpoint: Path
    split: str
    trained: Trained
    rank: Ranking
    images: int
    spectrum: Spectrum
    overlaps: Mapping[int, Overlap]  # with the checkpoint of another step
    suspects: Sequence[Suspect]  # the most suspicious first

    @cached_property
    def mined(self) -> list[Mined]:
        """For each p."""
        return [self.spectrum.mined(index) for index in range(len(self.spectrum.ps))]

    @cached_property
    def same_as(self) -> list[dict[int, float]]:
        """For each p, the overlap of what is mined with what each other checkpoint would mine."""
        return [{step: one.jaccard(p) for step, one in self.overlaps.items()} for p in self.spectrum.ps]

    @property
    def shown(self) -> Mined:
        """The p of the pictures: that of the run, or the one in the middle."""
        own = [one for one in self.mined if one.p == self.rank.top_p]
        return own[0] if own else self.mined[len(self.mined) // 2]

    @property
    def unit(self) -> str:
        return "pixels" if self.trained.task.kind == "segmentation" else "images"


def told(report: Report) -> list[str]:
    """The tables as lines of text."""
    valid, ignored, unit = report.spectrum.valid, report.spectrum.ignored, report.unit
    natural = report.spectrum.natural()
    lines = [
        f"model   {report.checkpoint} · step {report.trained.step} · hard is a large {report.rank.name}",
        f"split   {report.split}: {report.images:,} images, {percent(valid, valid + ignored)} of {valid + ignored:,} "
        f"{unit} labelled",
        f"        99 % of the loss lies in the hardest {_percent(natural)} of the {unit} (natural p)",
        "",
        *_about_p(report),
        "",
        "Share of each class in what is mined, and lift: that share by its share of all",
        *_about_classes(report),
    ]
    if report.overlaps:
        lines += ["", *_about_overlap(report)]
    if report.suspects:
        lines += ["", *_about_suspects(report)]
    return lines


def _about_p(report: Report) -> list[str]:
    pixels = report.unit == "pixels"
    head = ["p", "threshold", "of the loss", "loss < 0.01", "surely wrong"]
    head += ["near boundary", "lift", "as per image"] if pixels else []
    rows = [["", *head]]
    for one in report.mined:
        row = [
            _percent(one.p),
            f"{one.threshold:.3g}",
            _percent(one.loss_share),
            _percent(one.easy_share),
            _percent(one.confident_wrong),
        ]
        if pixels:
            row += [_percent(one.boundary_share), f"{one.boundary_lift:.2f}", _percent(one.same_per_image)]
        rows.append(["run ->" if one.p == report.rank.top_p else "", *row])
    return table(rows, "<" + ">" * len(head))


def _about_classes(report: Report) -> list[str]:
    rows = [["class", "of all", *(f"p {_percent(one.p)}" for one in report.mined)]]
    present = report.spectrum.present
    for index, name in enumerate(report.trained.task.classes):
        if present[index]:
            cells = [f"{_percent(one.class_share[index])} ×{one.class_lift[index]:.2f}" for one in report.mined]
            rows.append([name, _percent(present[index]), *cells])
    return table(rows, "<" + ">" * (len(rows[0]) - 1))


def _about_overlap(report: Report) -> list[str]:
    steps = list(report.overlaps)
    rows = [["p", *(f"step {step}" for step in steps)]]
    for one, same in zip(report.mined, report.same_as, strict=True):
        rows.append([_percent(one.p), *(_percent(same[step]) for step in steps)])
    title = "Overlap (Jaccard index) of what is mined with what other checkpoints of the run would mine"
    return [title, *table(rows, ">" * len(rows[0]))]


def _about_suspects(report: Report) -> list[str]:
    rows = [["", "image", "label", "should be?", "sure", "agree", "pixels", "score"]]
    for number, one in enumerate(_suspect_rows(report)[:_LISTED], start=1):
        sure, agree = (_percent(one[key]) for key in ("confidence", "agreement"))
        row = [str(number), one["image"], one["label"], one["prediction"], sure, agree, f"{one['area']:,}"]
        rows.append([*row, f"{one['score']:.3g}"])
    shown = min(_LISTED, len(report.suspects))
    title = f"Labels that are probably wrong, the first {shown} of {len(report.suspects)} listed in suspects.csv"
    return [title, *table(rows, "><<<>>>>")]


def as_json(report: Report) -> dict[str, Any]:
    """The same numbers."""
    return {
        "checkpoint": str(report.checkpoint),
        "step": report.trained.step,
        "split": report.split,
        "images": report.images,
        "valid": report.spectrum.valid,
        "natural_p": _number(report.spectrum.natural()),
        "top_p": [
            {key: _number(value) for key, value in row.items()}
            | {"classes": {name: {"share": share, "lift": lift} for name, share, lift in _classes(report, one)}}
            for row, one in zip(_rows(report), report.mined, strict=True)
        ],
        "suspects": _suspect_rows(report),
    }


def files(report: Report) -> dict[str, bytes]:
    """Tables and curves by the names of their files."""
    ps = np.geomspace(_FROM, 1, _POINTS).tolist()
    curve = report.spectrum.curve(ps)
    present = dict(zip(report.trained.task.classes, report.spectrum.present, strict=True))
    by_class = [
        {"p": one.p, "class": name, "of_all": present[name], "share": share, "lift": lift}
        for one in report.mined
        for name, share, lift in _classes(report, one)
    ]
    points = [
        {"p": one.p, "threshold": one.threshold, "loss_share": one.loss_share, "boundary_lift": one.boundary_lift}
        for one in curve
    ]
    suspects = {"suspects.csv": _csv(_suspect_rows(report))} if report.suspects else {}
    return {
        "top_p.csv": _csv(_rows(report)),
        "classes.csv": _csv(by_class),
        "curve.csv": _csv(points),
        "curve.svg": _loss_curve(report, curve).encode(),
        "classes.svg": _class_curves(report, curve).encode(),
        **suspects,
    }


def is_ours(name: str) -> bool:
    """Whether a file of this name is one that is written here."""
    return OURS.fullmatch(name) is not None


def _rows(report: Report) -> list[dict[str, float]]:
    rows = []
    for one, same in zip(report.mined, report.same_as, strict=True):
        numbers = {key: value for key, value in one._asdict().items() if not key.startswith("class_")}
        rows.append(numbers | {f"same_as_step_{step}": value for step, value in same.items()})
    return rows


def _suspect_rows(report: Report) -> list[dict[str, Any]]:
    names, rows = report.trained.task.classes, []
    for one in report.suspects:
        left, top, right, bottom = one.box
        rows.append(
            {
                "image": one.image,
                "left": left,
                "top": top,
                "right": right,
                "bottom": bottom,
                "area": one.area,
                "label": names[one.label],
                "prediction": names[one.prediction],
                "confidence": one.confidence,
                "label_probability": one.label_probability,
                "agreement": one.agreement,
                "score": one.score,
            }
        )
    return rows


def _classes(report: Report, one: Mined) -> list[tuple[str, float, float]]:
    """Name, share and lift of each class that occurs."""
    named = zip(report.trained.task.classes, one.class_share.tolist(), one.class_lift.tolist(), strict=True)
    return [(name, share, lift) for name, share, lift in named if not math.isnan(lift)]


def _loss_curve(report: Report, curve: Sequence[Mined]) -> str:
    series = {
        "of the loss": [(math.log10(one.p), one.loss_share) for one in curve],
        "of the pixels near boundaries": [(math.log10(one.p), min(1.0, one.p * one.boundary_lift)) for one in curve],
        f"of all {report.unit}": [(math.log10(one.p), one.p) for one in curve],
    }
    if report.unit == "images":
        del series["of the pixels near boundaries"]
    natural = report.spectrum.natural()
    if natural >= _FROM:
        series[f"natural p {_percent(natural)}"] = [(math.log10(natural), 0.0), (math.log10(natural), 1.0)]
    return _chart(f"What the hardest share p of the {report.unit} holds", series)


def _class_curves(report: Report, curve: Sequence[Mined]) -> str:
    """The classes that are mined most, by their lift in the middle of the curve, and the one that is mined least."""
    lift = curve[2 * len(curve) // 3].class_lift
    known = [index for index in np.argsort(-lift, kind="stable").tolist() if not math.isnan(lift[index])]
    if len(known) > _LINES:
        known = [*known[: _LINES - 1], known[-1]]
    names = report.trained.task.classes
    series = {
        names[index]: [(math.log10(one.p), min(1.0, one.p * one.class_lift[index])) for one in curve] for index in known
    }
    return _chart(f"How much of each class is among the hardest share p of the {report.unit}", series)


def _chart(title: str, series: Mapping[str, svg.Points]) -> str:
    marks = [(math.log10(p), text) for p, text in _MARKS]
    return svg.lines(title, series, width=680, height=300, x_name="p (logarithmic)", x_marks=marks)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return csv_bytes([list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)])


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _number(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.3g} %"
