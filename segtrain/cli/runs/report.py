"""`segtrain runs report`: one HTML page about a run, complete in itself. Everything that a user named is escaped."""

from __future__ import annotations

import argparse
import base64
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from segtrain import svg
from segtrain.cli.runs.tables import configuration, existing, summary
from segtrain.history import deciding, evaluations, steps
from segtrain.observers.meanings import LAYOUT, meaning
from segtrain.run import RunDirectory
from segtrain.task import Kind
from segtrain.writing import replace

_MOST_LINES = 12
_TRAINING = {
    "learning rate": [r"optim/lr/"],
    "norm of the gradients": [r"train/grad_norm$"],
    "images per second": [r"perf/img_per_s$"],
}
_STYLE = """
:root { color-scheme: light; }
body {
  font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; max-width: 1180px;
  padding: 0 16px 48px;
}
h1 { font-size: 1.5rem; overflow-wrap: anywhere; margin-bottom: 0; }
h2 { margin: 2.2rem 0 .6rem; border-bottom: 2px solid #0072b2; }
nav { position: sticky; top: 0; background: #fff; padding: 8px 0; border-bottom: 1px solid #ddd; }
nav a { margin-right: 14px; color: #005a8e; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 14px 0; }
.facts div { min-width: 90px; }
.facts b { display: block; font-size: 1.15rem; overflow-wrap: anywhere; }
.note { margin: .2rem 0; }
.facts span, .note { color: #555; font-size: .9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px; }
svg, img { max-width: 100%; height: auto; display: block; }
figure { margin: 0 0 22px; overflow-x: auto; }
figure img { max-width: max(100%, 1600px); }
figcaption { font-size: .9rem; color: #555; position: sticky; left: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; }
.left td { text-align: left; vertical-align: top; }
.bars { text-align: left; }
.bar { display: inline-block; height: 10px; background: #0072b2; }
.worst td { font-weight: 600; }
pre { background: #f6f6f6; padding: 12px; overflow-x: auto; font-size: .85rem; }
"""


def report(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    run = existing(args.runs[0])
    out = args.out or run / "report.html"
    replace(out, page(run).encode())
    print(out)
    return 0


def page(run: Path) -> str:
    """The whole page."""
    facts, config = summary(run), configuration(run)
    kind: Kind = "classification" if config.get("task") == "classification" else "segmentation"
    rows, log = evaluations(run), steps(run)
    weights = str((config.get("validate") or {}).get("weights", "raw"))
    charts = LAYOUT[kind]
    sections = {
        "validation": _charts(charts.get("validation", {}), rows, log)
        + _classes(rows, kind, weights)
        + _pictures(run, ""),
        "mining": _charts(charts.get("mining", {}), rows, log) + _pictures(run, "mining-"),
        "training": _charts(_TRAINING, rows, log),
        "configuration": f"<pre>{escape(_text(run / 'config.yaml'))}</pre>",
        "environment": _environment(run),
    }
    sections = {name: content for name, content in sections.items() if content}
    links = "".join(f'<a href="#{name}">{name}</a>' for name in sections)
    body = "".join(f'<section id="{name}"><h2>{name}</h2>{content}</section>' for name, content in sections.items())
    name = escape(f"{run.resolve().parent.name}/{run.resolve().name}")
    words = "".join(
        f"<div><span>{key}</span><b>{escape(str(facts[key]))}</b></div>"
        for key in ("status", "best", "step", "trained", "time", "error")
        if facts[key]
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><h1>{name}</h1><div class="facts">{words}</div><nav>{links}</nav>{body}</body></html>\n'
    )


def _charts(charts: Mapping[str, Sequence[str]], *sources: Sequence[Mapping[str, float]]) -> str:
    """A chart for each title whose tags (patterns of their beginning) were written."""
    drawn = []
    for title, patterns in charts.items():
        series: dict[str, list[tuple[float, float]]] = {}
        for rows in sources:
            for row in rows:
                for tag, value in row.items():
                    if any(re.match(pattern, tag) for pattern in patterns):
                        series.setdefault(tag, []).append((row.get("step", math.nan), value))
        if len(series) > _MOST_LINES:  # of scores the lowest say most, of everything else the highest
            scores = next(iter(series)).startswith("val/")
            order = sorted(series, key=lambda tag: series[tag][-1][1], reverse=not scores)[:_MOST_LINES]
            title = f"{title}: the {_MOST_LINES} {'lowest' if scores else 'highest'}"
            series = {tag: points for tag, points in series.items() if tag in order}
        if series:
            named = {tag if len(patterns) > 1 else tag.split("/")[-1]: points for tag, points in series.items()}
            words = {meaning(tag): tag for tag in reversed(series) if meaning(tag)}
            note = "".join(
                f'<p class="note">{f"<b>{escape(tag)}</b> " if len(words) > 1 else ""}{escape(text)}</p>'
                for text, tag in reversed(words.items())
            )
            drawn.append(f"<div>{svg.lines(title, named)}{note}</div>")
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _classes(rows: Sequence[Mapping[str, float]], kind: Kind, weights: str) -> str:
    """The scores of the last evaluation: the means, then IoU and accuracy of every class."""
    if not rows:
        return '<p class="note">There was no evaluation yet.</p>'
    last = deciding(rows[-1], weights)
    means = "".join(
        f"<div><span>{escape(tag.removeprefix('val/'))}</span><b>{value:.4f}</b></div>"
        for tag, value in last.items()
        if tag.count("/") == 1
    )
    of = "averaged weights (ema)" if weights == "ema" else "weights"
    text = f'<h3>At step {rows[-1].get("step", 0):.0f}, of the {of}</h3><div class="facts">{means}</div>'
    names = [tag.removeprefix("val/iou/") for tag in last if tag.startswith("val/iou/")]
    if kind == "classification" or not names:
        return text
    worst = min(names, key=lambda name: last[f"val/iou/{name}"])
    lines = []
    for name in names:
        iou, accuracy = last[f"val/iou/{name}"], last.get(f"val/acc/{name}")
        found = "–" if accuracy is None else f"{accuracy:.3f}"
        mark = ' class="worst"' if name == worst else ""
        bar = f'<span class="bar" style="width:{max(0, min(160, 160 * iou)):.0f}px"></span>'
        cells = "".join(f"<td>{cell}</td>" for cell in (escape(name), f"{iou:.3f}", found))
        lines.append(f'<tr{mark}>{cells}<td class="bars">{bar}</td></tr>')
    head = "<tr><th>class</th><th>IoU</th><th>found</th><th></th></tr>"
    return f'{text}<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


def _pictures(run: Path, prefix: str) -> str:
    """The pictures of the latest evaluation whose names begin so; without a prefix those that no section takes."""
    drawn = []
    for file in sorted((run / "val").glob("*.jpg")):
        if file.name.startswith(prefix or "mining-") != bool(prefix):
            continue
        try:
            data = base64.b64encode(file.read_bytes()).decode()
        except OSError:
            continue
        tag = file.stem.replace("-", "/", 1)
        words = meaning(tag) or meaning(f"val/{file.stem}")
        caption = f"<figcaption>{escape(words)}</figcaption>"
        alt = escape(f"{file.stem}: {words}")
        drawn.append(f'<figure>{caption}<img alt="{alt}" src="data:image/jpeg;base64,{data}"></figure>')
    return "".join(drawn)


def _environment(run: Path) -> str:
    lines = []
    for key, value in RunDirectory(run).read_environment().items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        lines.append(f"<tr><td>{escape(key)}</td><td>{escape(shown)}</td></tr>")
    return f'<div class="scroll"><table class="left">{"".join(lines)}</table></div>' if lines else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
