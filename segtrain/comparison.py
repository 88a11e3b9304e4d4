"""Runs of several variants, compared by seed: means, differences with confidence intervals, tables."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy.special import stdtrit  # scipy.stats, which calls it, takes half a second of every start

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]  # variant → seed → metric → value

_NAMES = {"val/miou": "**mIoU**", "val/boundary_iou_3px": "**boundary IoU, 3 px**", "val/top1": "**top-1**"}
_TEX = {
    **{letter: rf"\{letter}" for letter in "%&#_${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "|": r"\textbar{}",
    "<": "$<$",
    ">": "$>$",
}


class Table(NamedTuple):
    """In the marks of Markdown."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Row(NamedTuple):
    """One metric of one variant, and its difference from the first variant over the seeds that both have.

    NaN where it is not known: a deviation of one value, a difference without a partner, an interval of one pair.
    """

    metric: str
    variant: str
    runs: int
    mean: float
    sd: float  # of a sample: divided by n - 1
    differences: tuple[float, ...]  # by seed
    difference: float
    low: float  # 95 % t-interval of the mean difference
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def compare(scores: Scores) -> list[Row]:
    """A row for each metric and variant, in the order in which they are first seen; the first variant is the base."""
    metrics = dict.fromkeys(tag for seeds in scores.values() for values in seeds.values() for tag in values)
    base = next(iter(scores.values()), {})
    return [_row(metric, variant, seeds, base) for metric in metrics for variant, seeds in scores.items()]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % t-interval of the mean of independent values; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
    return mean - reach, mean + reach


def markdown(rows: Sequence[Row]) -> str:
    """Two tables: mean ± deviation of every variant, then the differences from the first with their intervals."""
    return "\n".join(_table(*table) for table in _tables(rows))


def latex(rows: Sequence[Row]) -> str:
    """The same tables for a paper; they need the package booktabs."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_tabular(*table) for table in _tables(rows))


def to_csv(rows: Iterable[Row]) -> str:
    """One line for each row; an unknown number is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["metric", "variant", "runs", "mean", "sd", "pairs", "difference", "low", "high"])
    for row in rows:
        numbers = [row.mean, row.sd], [row.difference, row.low, row.high]
        first, second = ([repr(x) if math.isfinite(x) else "" for x in part] for part in numbers)
        table.writerow([row.metric, row.variant, row.runs, *first, len(row.differences), *second])
    return text.getvalue()


def metric_name(tag: str) -> str:
    """A metric as a table names it: a class by its name."""
    return _NAMES.get(tag) or _cell(tag.removeprefix("val/").removeprefix("iou/"))


def _tables(rows: Sequence[Row]) -> list[Table]:
    variants = list(dict.fromkeys(row.variant for row in rows))
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    runs = [max(row.runs for row in rows if row.variant == variant) for variant in variants]
    heads = [f"{_cell(variant)} (n={n})" for variant, n in zip(variants, runs, strict=True)]
    means = [[metric_name(metric), *map(_mean, of)] for metric, of in by_metric.items()]
    changed = [f"{_cell(variant)} − {_cell(variants[0])}" for variant in variants[1:]]
    changes = [[metric_name(metric), *map(_change, of[1:])] for metric, of in by_metric.items()]
    return [Table(["", *heads], means), *([Table(["", *changed], changes)] if changed else [])]


def _row(
    metric: str, variant: str, seeds: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]]
) -> Row:
    values = [found for one in seeds.values() if math.isfinite(found := one.get(metric, math.nan))]
    pairs = [
        (one.get(metric, math.nan), base[seed].get(metric, math.nan)) for seed, one in seeds.items() if seed in base
    ]
    differences = tuple(a - b for a, b in pairs if math.isfinite(a - b))
    mean = statistics.fmean(values) if values else math.nan
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    difference = statistics.fmean(differences) if differences else math.nan
    return Row(metric, variant, len(values), mean, sd, differences, difference, *interval(differences))


def _mean(row: Row) -> str:
    if not math.isfinite(row.mean):
        return "–"
    return f"{row.mean:.3f}" + (f" ± {row.sd:.3f}" if math.isfinite(row.sd) else "")


def _change(row: Row) -> str:
    if not math.isfinite(row.difference):
        return "–"
    text = f"{row.difference:+.3f}"
    if math.isfinite(row.low):
        text += f" [{row.low:+.3f}, {row.high:+.3f}]"
    return (f"**{text}**" if row.apart else text).replace("-", "−")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * max(3, width) for width in widths], *rows]
    padded = ([cell.ljust(max(3, width)) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in padded)


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (" & ".join(map(_tex, cells)) + r" \\" for cells in (head, *rows))
    inside = "\n".join([r"\toprule", first, r"\midrule", *others, r"\bottomrule"])
    return f"\\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}\n{inside}\n\\end{{tabular}}\n"


def _tex(cell: str) -> str:
    text = "".join(_TEX.get(letter, letter) for letter in cell.strip("*").replace("\\|", "|"))
    return rf"\textbf{{{text}}}" if cell.startswith("**") else text
