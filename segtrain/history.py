"""Reading what a run has written: its evaluations and its steps."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path

from segtrain.metrics.tags import AVERAGED, RAW, scores_of


def evaluations(run: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, oldest first, "step" among the tags; what a row does not have is left out."""
    try:
        with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
            return [{tag: float(text) for tag, text in row.items() if tag and text} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []


def deciding(row: Mapping[str, float], weights: str) -> dict[str, float]:
    """The scores of the weights that decide (validate.weights: raw or ema) as "val/miou" and so on."""
    return (weights == "ema" and scores_of(row, AVERAGED)) or scores_of(row, RAW)


def steps(run: Path) -> list[dict[str, float]]:
    """The lines of steps.jsonl; a number that was not finite is NaN, a line that is not whole is left out."""
    found = list[dict[str, float]]()
    try:
        lines = (run / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append({tag: math.nan if value is None else float(value) for tag, value in json.loads(line).items()})
        except (ValueError, TypeError, AttributeError):
            continue
    return found


def trained_seconds(path: Path) -> float:
    """Seconds spent in steps, whatever was between them: evaluations, and the time that a run lay still."""
    seconds, before = 0.0, 0.0
    for line in steps(path):
        seconds += line.get("perf/step_s", 0.0) * (line["step"] - before)
        before = line["step"]
    return seconds
