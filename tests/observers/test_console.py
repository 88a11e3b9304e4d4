import contextlib
import io
import math
import os
import pty
from dataclasses import replace

import pytest
from reports import make_probe, make_report, make_task

from segtrain.metrics.evaluation import of_both
from segtrain.observers.console import Console


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self):
        return self.now


STEP = {
    "train/loss": 0.412,
    "train/loss_all": 0.151,
    "mining/top_p_effective": 0.93,
    "mining/threshold": 0.021,
    "optim/lr/all": 1.82e-3,
    "perf/step_s": 0.3,
    "perf/data_share": 0.02,
    "perf/img_per_s": 26.4,
}


def test_a_pipe_gets_one_plain_line_per_log_interval(tmp_path):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, steps_per_epoch=80, stream=stream)
    console.on_step(120, STEP)
    assert stream.getvalue() == (
        "step  120/400  ep 2  loss 0.412  (all 0.151)  top_p 0.930  thr 0.021  lr 1.82e-03  3.3 it/s  (data 2%)"
        "  26.4 img/s  ETA 1m24s\n"
    )
    assert (tmp_path / "log.txt").read_text() == stream.getvalue()


def test_the_remaining_time_is_of_the_last_intervals_with_their_evaluations_and_not_of_the_start(tmp_path):
    stream, clock = io.StringIO(), Clock()
    console = Console(tmp_path / "log.txt", steps=10_000, stream=stream, clock=clock)
    clock.now = 500.0  # compiling, checking data
    console.on_step(10, {"train/loss": 1.0})
    for step in range(20, 1020, 10):
        clock.now += 20 if step <= 500 else 30
        console.on_step(step, {"train/loss": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step     10/10000  loss 1.000"
    assert lines[1] == "step     20/10000  loss 1.000  2.00 s/it  ETA 5h32m"
    assert lines[-1] == "step   1010/10000  loss 1.000  3.00 s/it  ETA 7h29m"


def test_a_validation_names_scores_the_best_and_the_worst_class(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream)
    report.scalars.update({"val/miou": 0.745, "val/iou/pole": 0.01})
    console.on_evaluation(400, report)
    first, *classes = stream.getvalue().splitlines()
    assert first.startswith("val   step 400  mIoU 0.745  mAcc 0.810  aAcc 0.9")
    assert first.endswith("  best ↑ 0.745")
    assert "pole 0.010 ◂ worst" in "\n".join(classes)
    assert all(line.startswith("      ") and len(line) <= 100 for line in classes)


def test_a_validation_of_two_sets_of_weights_tells_the_deciding_one_and_the_other_in_brackets(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream)
    other = replace(report, scalars={tag: value / 2 for tag, value in report.scalars.items()})
    mious = [f"{one.scalars['val/miou']:.3f}" for one in (report, other)]
    for averaged_decides in (False, True):
        console.on_evaluation(400, of_both(report, other, averaged_decides=averaged_decides))
    raw, averaged = (line for line in stream.getvalue().splitlines() if "mIoU" in line)
    assert f"mIoU {mious[0]}" in raw
    assert f"(ema {mious[1]})  best ↑ {mious[0]}" in raw
    assert f"mIoU {mious[1]}" in averaged
    assert f"(raw {mious[0]})" in averaged


def test_the_best_is_kept_over_evaluations_resume_and_nan(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream, best=(0.7, 100))
    for step, value in ((200, math.nan), (300, 0.6), (400, 0.8)):
        report.scalars["val/miou"] = value
        console.on_evaluation(step, report)
    verdicts = [line.split("best")[1] for line in stream.getvalue().splitlines() if "best" in line]
    assert verdicts == [" 0.700 at step 100", " 0.700 at step 100", " ↑ 0.800"]


def test_nan_is_never_the_best(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream)
    for value in (math.nan, 0.1):
        report.scalars["val/miou"] = value
        console.on_evaluation(100, report)
    assert [line.split("best")[1] for line in stream.getvalue().splitlines() if "best" in line] == [" ↑ 0.100"]


def test_many_classes_are_cut_to_the_worst_and_absent_ones_are_said_to_be(tmp_path):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=1, stream=stream)
    names = tuple(f"a class with a long name {index}" for index in range(150))
    many = make_report(
        (), make_task(names, [(0, 0, 0)] * 150), **{f"val/iou/{n}": i / 200 for i, n in enumerate(names)}
    )
    console.on_evaluation(1, many)
    assert (
        "worst of 150: a class with a long name 0 0.000 ◂ worst  a class with a long name 1 0.005" in stream.getvalue()
    )
    assert len(stream.getvalue().splitlines()) < 8
    few = make_report((make_probe(0),))
    del few.scalars["val/iou/pole"]
    console.on_evaluation(1, few)
    assert "pole absent" in stream.getvalue()


def test_quiet_logs_and_shows_nothing(tmp_path, capsys):
    console = Console(tmp_path / "log.txt", steps=400, quiet=True)
    console.banner({"data": "train 640"})
    console.on_step(1, STEP)
    console.close()
    assert capsys.readouterr().out == ""
    assert (tmp_path / "log.txt").read_text().startswith("data  train 640\nstep    1/400")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_unicode_gets_what_it_can_show(tmp_path, report, encoding):
    raw = io.BytesIO()
    console = Console(tmp_path / "log.txt", steps=1, stream=io.TextIOWrapper(raw, encoding=encoding))
    console.line("segtrain · top_p 1.00→0.25 – 人")
    console.on_evaluation(1, report)
    shown = raw.getvalue().decode(encoding)
    assert "top_p 1.00->0.25" in shown
    assert "best ^ " in shown
    assert "top_p 1.00→0.25 – 人" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def shown_by(master):
    """Everything that was written to a pseudo-terminal whose other end is closed."""
    shown = b""
    with contextlib.suppress(OSError):  # the end of what there is
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    return shown.decode()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_bar_fits_the_terminal_and_never_reaches_the_log(tmp_path, report, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)  # the terminal does not know its size: it says 0 x 0
        console = Console(tmp_path / "log.txt", steps=400, steps_per_epoch=80)
        console.on_step(20, STEP)
        terminal.write("\rnow the window gets its width\r")
        monkeypatch.setenv("COLUMNS", str(columns))
        console.on_step(40, STEP)
        console.on_evaluation(40, report)
        console.close()
    shown = shown_by(master)
    later = shown.split("now the window")[1].replace("\n", "\r").split("\r")
    bars = [part for part in later if part.startswith("step ")]
    assert bars
    assert all(len(bar.rstrip()) < columns for bar in bars)  # the spaces after it wipe out the wider one
    assert "loss 0.412" in bars[-1] or columns < 40
    assert "26.4 img/s" in bars[-1] or columns < 200
    assert "val   step 40" in shown
    log = (tmp_path / "log.txt").read_text()
    assert "\r" not in log
    assert [line[:13] for line in log.splitlines()[:2]] == ["step   20/400", "step   40/400"]


def test_a_terminal_that_went_away_is_told_once(tmp_path, report, told, monkeypatch):
    class LostTerminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setenv("TERM", "xterm")
    console = Console(tmp_path / "log.txt", steps=400, stream=LostTerminal())
    for step in (1, 2):
        console.on_step(step, STEP)
        console.on_evaluation(step, report)
    console.close()
    assert ["training goes on" in str(one.message) for one in told] == [True]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 8


def test_a_closed_pipe_and_a_lost_log_are_told_once_each(tmp_path, told):
    class ClosedPipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    console = Console(tmp_path / "gone" / "log.txt", steps=400, stream=ClosedPipe())
    for step in (1, 2, 3):
        console.on_step(step, STEP)
    assert len(told) == 2
