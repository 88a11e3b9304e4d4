"""Tables: for terminals and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Rows of cells as lines of text; `align` has < or > for each column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(align))]
    return [
        "  ".join(f"{cell:{way}{width}}" for cell, way, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The same as one text, all to the left; a row may end early."""
    columns = max(map(len, rows), default=0)
    return "\n".join(table([[*row, *[""] * (columns - len(row))] for row in rows], "<" * columns))


def percent(part: float, whole: float) -> str:
    """A share in per cent with three digits, "-" of nothing."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if 0 < share < 0.005:
        return "<0.01 %"
    return f"{share:.2f} %" if share < 10 else f"{share:.1f} %"


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows of cells as a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
