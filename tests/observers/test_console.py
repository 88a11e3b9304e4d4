import io
import os
import pty

import pytest
from reports import make_probe, make_report, make_task

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
    stream, clock = io.StringIO(), Clock()
    console = Console(tmp_path / "log.txt", steps=400, steps_per_epoch=80, stream=stream, clock=clock)
    clock.now = 36.0
    console.on_step(120, STEP)
    assert stream.getvalue() == (
        "step  120/400  ep 2  loss 0.412  (all 0.151)  top_p 0.930  thr 0.021  lr 1.82e-03  3.3 it/s  (data 2%)"
        "  26.4 img/s  ETA 1m24s\n"
    )
    assert (tmp_path / "log.txt").read_text() == stream.getvalue()


def test_a_validation_names_scores_the_best_and_the_worst_class(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream)
    report.scalars.update({"val/miou": 0.745, "val_ema/miou": 0.751, "val/iou/pole": 0.01})
    console.on_evaluation(400, report)
    first, *classes = stream.getvalue().splitlines()
    assert first.startswith("val   step 400  mIoU 0.745  mAcc 0.810  aAcc 0.9")
    assert first.endswith("  (ema 0.751)  best ↑ 0.745")
    assert "pole 0.010 ◂ worst" in "\n".join(classes)
    assert all(line.startswith("      ") and len(line) <= 100 for line in classes)


def test_the_best_is_kept_over_evaluations_resume_and_nan(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=400, stream=stream, best=(0.7, 100))
    for step, value in ((200, float("nan")), (300, 0.6), (400, 0.8)):
        report.scalars["val/miou"] = value
        console.on_evaluation(step, report)
    verdicts = [line.split("best")[1] for line in stream.getvalue().splitlines() if "best" in line]
    assert verdicts == [" 0.700 at step 100", " 0.700 at step 100", " ↑ 0.800"]


def test_a_lower_loss_can_be_the_better_one(tmp_path, report):
    stream = io.StringIO()
    console = Console(tmp_path / "log.txt", steps=9, monitor="val/loss", lower_is_better=True, stream=stream)
    for value in (0.5, 0.4, 0.6):
        report.scalars["val/loss"] = value
        console.on_evaluation(1, report)
    assert stream.getvalue().count("best ↑") == 2


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


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_bar_fits_the_terminal_and_never_reaches_the_log(tmp_path, report, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        console = Console(tmp_path / "log.txt", steps=400, steps_per_epoch=80, stream=terminal)
        for step in (20, 40):
            console.on_step(step, STEP)
        console.on_evaluation(40, report)
        console.close()
        shown = os.read(master, 100_000).decode()
    os.close(master)
    bars = [part for part in shown.replace("\n", "\r").split("\r") if part.startswith("step ")]
    assert bars
    assert all(len(bar) < columns for bar in bars)
    assert "loss 0.412" in bars[-1] or columns < 40
    assert "val   step 40" in shown
    log = (tmp_path / "log.txt").read_text()
    assert "\r" not in log
    assert [line[:13] for line in log.splitlines()[:2]] == ["step   20/400", "step   40/400"]


def test_a_closed_pipe_and_a_lost_log_are_told_once_each(tmp_path, told):
    class ClosedPipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    console = Console(tmp_path / "gone" / "log.txt", steps=400, stream=ClosedPipe())
    for step in (1, 2, 3):
        console.on_step(step, STEP)
    assert len(told) == 2
