"""What a person sees while a run goes on, on the terminal and in log.txt."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from segtrain.metrics.evaluation import Evaluation
from segtrain.metrics.tags import RAW, of_averaged
from segtrain.observers.disk import Forgiving
from segtrain.observers.observer import SampleLoss
from segtrain.writing import append

_WIDTH = 100  # of lines that are wrapped, where there is no terminal to ask
_FEW_CLASSES = 32  # with more, only the worst are listed
_WORST = 10
_CONFUSED = 3
_RECENT = 20  # log intervals that the remaining time is guessed from
_SCORES = {
    "val/miou": "mIoU",
    "val/macc": "mAcc",
    "val/aacc": "aAcc",
    "val/top1": "top-1",
    "val/top5": "top-5",
    "val/ece": "ECE",
    "val/loss": "loss",
}
# for terminals that cannot show them
_PLAIN = str.maketrans({"·": "-", "→": "->", "–": "-", "…": "...", "×": "x", "↑": "^", "◂": "<", "█": "#"})


class _Bar(tqdm):  # type: ignore[type-arg]  # not subscriptable at run time in tqdm 4.66
    monitor_interval = 0  # no thread: the bar is moved by hand


class Console:
    """A bar on a terminal, one line per log interval elsewhere; every line, but never the bar, also goes into `log`.

    `steps`: length of the run. `best`: (value, step) of the best evaluation before a resume. `quiet`: log only.
    """

    def __init__(
        self,
        log: Path,
        *,
        steps: int,
        start_step: int = 0,
        steps_per_epoch: float | None = None,
        monitor: str = "val/miou",
        best: tuple[float, int] | None = None,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._steps, self._per_epoch = log, steps, steps_per_epoch
        self._monitor, self._best = monitor, best
        self._stream = None if quiet else (stream or sys.stdout)
        self._clock = clock
        self._marks = deque[tuple[float, int]](maxlen=_RECENT + 1)
        self._forgiving_log, self._forgiving_stream = Forgiving(log), Forgiving(Path("<stdout>"))
        self._start_step = start_step
        self._bar: _Bar | None = None

    def line(self, text: str) -> None:
        """Show a line and log it."""
        self._to_log(text)
        self._show(text)

    def banner(self, lines: Mapping[str, str]) -> None:
        """Lines that begin with a word each: `data   train 640 …`."""
        for label, text in lines.items():
            self.line(_labelled(label, text))

    def on_step(self, step: int, scalars: Mapping[str, float]) -> None:
        self._marks.append((self._clock(), step))
        parts = self._step_parts(step, scalars)
        counted = f"{step:>{len(str(self._steps))}}/{self._steps}"
        text = "  ".join([f"step  {counted}", *(part for part, _ in parts)])
        self._to_log(text)
        if not self._on_terminal():
            self._show(text)
            return
        columns = shutil.get_terminal_size().columns - 1
        with self._forgiving_stream():
            if self._bar is None:
                self._bar = self._new_bar(columns)
            self._bar.ncols, self._bar.n = columns, step
            self._bar.set_description_str(self._encodable(_squeezed(parts, columns - 18 - len(counted))))

    def on_samples(self, step: int, samples: Sequence[SampleLoss]) -> None:
        """Single samples are for files."""

    def on_evaluation(self, step: int, report: Evaluation) -> None:
        known = report.scores()
        scores = [f"{name} {_short(known[tag])}" for tag, name in _SCORES.items() if tag in known]
        if self._monitor not in _SCORES and self._monitor in known:
            scores.append(f"{self._monitor} {_short(known[self._monitor])}")
        other, name = (of_averaged(self._monitor), "ema") if report.decides == RAW else (self._monitor, "raw")
        if (value := report.scalars.get(other)) is not None:
            scores.append(f"({name} {_short(value)})")
        self.line(_labelled("val", "  ".join([f"step {step}", *scores, *self._verdict(step, report)])))
        for text in _class_lines(report, shutil.get_terminal_size().columns if self._on_terminal() else _WIDTH):
            self.line(text)

    def close(self) -> None:
        if self._bar is not None:
            with self._forgiving_stream():
                self._bar.close()
            self._bar = None

    def _step_parts(self, step: int, scalars: Mapping[str, float]) -> list[tuple[str, int]]:
        """What is said of a step, each with its rank: the highest goes first where the terminal is narrow."""
        parts = list[tuple[str, int]]()
        if self._per_epoch:
            parts.append((f"ep {int((step - 1) / self._per_epoch) + 1}", 5))
        if "train/loss" in scalars:
            parts.append((f"loss {_short(scalars['train/loss'])}", 0))
        for tag, form, rank in (
            ("train/loss_all", "(all {})", 4),
            ("mining/top_p_effective", "top_p {}", 2),
            ("mining/threshold", "thr {}", 6),
        ):
            if tag in scalars:
                parts.append((form.format(_short(scalars[tag])), rank))
        rates = [value for tag, value in scalars.items() if tag.startswith("optim/lr")]
        if rates:
            parts.append((f"lr {max(rates):.2e}", 7))
        recent = self._seconds_per_step()
        if seconds := scalars.get("perf/step_s", recent):
            parts.append((f"{seconds:.2f} s/it" if seconds >= 1 else f"{1 / seconds:.1f} it/s", 3))
        if "perf/data_share" in scalars:
            parts.append((f"(data {100 * scalars['perf/data_share']:.0f}%)", 8))
        if "perf/img_per_s" in scalars:
            parts.append((f"{scalars['perf/img_per_s']:.1f} img/s", 9))
        if (pace := recent or seconds) is not None:
            parts.append((f"ETA {_duration((self._steps - step) * pace)}", 1))
        return parts

    def _seconds_per_step(self) -> float | None:
        """Of the last log intervals, with the evaluations between them: that is what the rest will take too."""
        (begin, first), (end, last) = self._marks[0], self._marks[-1]
        return (end - begin) / (last - first) if last > first else None

    def _verdict(self, step: int, report: Evaluation) -> Iterable[str]:
        value = report.scores().get(self._monitor)
        if value is None:
            return
        if value == value and (self._best is None or value > self._best[0]):
            self._best = value, step
            yield f"best ↑ {_short(value)}"
        elif self._best is not None:
            yield f"best {_short(self._best[0])} at step {self._best[1]}"

    def _new_bar(self, columns: int) -> _Bar:
        return _Bar(
            total=self._steps,
            initial=self._start_step,
            file=self._stream,
            leave=False,
            ncols=columns,
            nrows=24,  # a terminal that does not know its size would get no bar
            ascii=not self._unicode(),
            bar_format="step {n_fmt}/{total_fmt} {bar:8} {desc}",
        )

    def _on_terminal(self) -> bool:
        return self._stream is not None and self._stream.isatty() and os.environ.get("TERM") != "dumb"

    def _to_log(self, text: str) -> None:
        with self._forgiving_log():
            append(self._log, (text + "\n").encode())

    def _show(self, text: str) -> None:
        if self._stream is None:
            return
        with self._forgiving_stream():
            if self._bar is not None:
                self._bar.write(self._encodable(text), file=self._stream)
            else:
                print(self._encodable(text), file=self._stream, flush=True)

    def _unicode(self) -> bool:
        return "utf" in self._encoding().lower()

    def _encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"  # streams in memory have none

    def _encodable(self, text: str) -> str:
        if self._unicode():
            return text
        return text.translate(_PLAIN).encode(self._encoding(), "replace").decode(self._encoding())


def _labelled(label: str, text: str) -> str:
    return f"{label:<5} {text}"


def _squeezed(parts: list[tuple[str, int]], width: int) -> str:
    """The parts that fit into `width`, in their order; the highest ranks are dropped first."""
    for most in range(max(rank for _, rank in parts), -1, -1):
        text = "  ".join(part for part, rank in parts if rank <= most)
        if len(text) <= width:
            return text
    return text[: max(0, width)]


def _class_lines(report: Evaluation, width: int) -> Iterable[str]:
    known = _scores_of_classes(report)
    if not known:
        return []
    worst = min(known, key=lambda name: known[name])
    if len(report.classes) > _FEW_CLASSES:
        names = sorted(known, key=lambda name: known[name])[:_WORST]
        begin = f"worst of {len(known)}: "
    else:
        names, begin = list(report.classes), ""
    # a zero keeps a class and its score on one line until the text is wrapped
    entries = [
        f"{name} {_short(known[name]) if name in known else 'absent'}{' ◂ worst' if name == worst else ''}"
        for name in names
    ]
    texts = [begin + "  ".join(entry.replace(" ", "\0") for entry in entries)]
    if report.task.kind == "classification" and (pairs := report.confused(_CONFUSED)):
        texts.append("most confused: " + "; ".join(str(pair).replace(" ", "\0") for pair in pairs))
    wrapped = [
        one
        for text in texts
        for one in textwrap.wrap(text, max(40, width - 6), break_long_words=False, break_on_hyphens=False)
    ]
    return [_labelled("", one.replace("\0", " ")) for one in wrapped]


def _scores_of_classes(report: Evaluation) -> dict[str, float]:
    """IoU by class, or accuracy in classification; of the classes that have one."""
    if report.task.kind == "classification":
        right, labelled = report.confusion.diagonal(), report.confusion.sum(1)
        return {name: right[i] / labelled[i] for i, name in enumerate(report.classes) if labelled[i]}
    scores, tags = report.scores(), {name: f"val/iou/{name}" for name in report.classes}
    return {name: scores[tag] for name, tag in tags.items() if tag in scores}


def _short(value: float) -> str:
    size = abs(value)
    return f"{value:.3f}" if size == 0 or 5e-4 <= size < 1e3 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
