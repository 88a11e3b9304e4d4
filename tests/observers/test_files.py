import csv
import dataclasses
import json

import cv2
import pytest
from reports import make_probe, make_report, make_task

from segtrain.observers.files import Files


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_have_one_row_per_evaluation_and_columns_from_the_task(tmp_path, task, report):
    files = Files(tmp_path, task)
    header = (tmp_path / "metrics.csv").read_text()
    files.on_evaluation(100, report)
    files.on_evaluation(200, report)
    files.close()
    rows = rows_of(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().startswith(header)
    assert header.startswith("step,val/miou,val/macc,val/aacc,val/fwiou,val/boundary_iou_3px,val/loss,val/iou/ground,")
    assert [row["step"] for row in rows] == ["100", "200"]
    assert float(rows[0]["val/miou"]) == report.scalars["val/miou"]


def test_an_absent_class_leaves_its_cell_empty(tmp_path, task):
    report = make_report((make_probe(0),))
    del report.scalars["val/iou/pole"]
    Files(tmp_path, task).on_evaluation(1, report)
    assert rows_of(tmp_path / "metrics.csv")[0]["val/iou/pole"] == ""


def test_a_number_outside_the_header_gets_a_column_at_the_end(tmp_path, task, report):
    files = Files(tmp_path, task)
    files.on_evaluation(1, report)
    report.scalars["val_ema/miou"] = 0.5
    files.on_evaluation(2, report)
    rows = rows_of(tmp_path / "metrics.csv")
    assert list(rows[0])[-1] == "val_ema/miou"
    assert [row["val_ema/miou"] for row in rows] == ["", "0.5"]


def test_classification_has_its_own_columns(tmp_path):
    Files(tmp_path, dataclasses.replace(make_task(), kind="classification"))
    assert (tmp_path / "metrics.csv").read_text() == "step,val/top1,val/top5,val/macc,val/nll,val/ece,val/loss\n"


@pytest.mark.parametrize("unfinished", [b'{"step": 80, "train/lo', b'{"step": 80}', b'{"step": 40}', b"40\n", b"{}\n"])
def test_a_resumed_run_drops_what_came_after_its_step_and_goes_on(tmp_path, task, report, unfinished):
    first = Files(tmp_path, task)
    for step in (20, 40):
        first.on_step(step, {"train/loss": step / 100})
        first.on_evaluation(step, report)
    if b"80" in unfinished:
        first.on_step(60, {"train/loss": 0.6})
    first.on_evaluation(60, report)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    with open(tmp_path / "steps.jsonl", "ab") as file:
        file.write(unfinished)

    resumed = Files(tmp_path, task, start_step=40)
    assert [line["step"] for line in lines_of(tmp_path / "steps.jsonl")] == [20, 40]
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["20", "40"]
    resumed.on_step(60, {"train/loss": 7.0})
    resumed.on_evaluation(60, report)
    assert lines_of(tmp_path / "steps.jsonl")[-1] == {"step": 60, "train/loss": 7.0}
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == header
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["20", "40", "60"]


def test_metrics_that_a_spreadsheet_changed_are_put_aside_and_training_goes_on(tmp_path, task, report, told):
    first = Files(tmp_path, task)
    first.on_evaluation(20, report)
    changed = (tmp_path / "metrics.csv").read_text().replace(",", ";")
    (tmp_path / "metrics.csv").write_text(changed)
    Files(tmp_path, task, start_step=20).on_evaluation(40, report)
    assert len(told) == 1
    assert (tmp_path / "metrics.unreadable.csv").read_text() == changed
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["40"]


def test_a_run_from_the_beginning_keeps_nothing(tmp_path, task, report):
    first = Files(tmp_path, task)
    first.on_step(0, {"train/loss": 1.0})
    first.on_evaluation(0, report)
    Files(tmp_path, task)
    assert (tmp_path / "steps.jsonl").read_text() == ""
    assert rows_of(tmp_path / "metrics.csv") == []


def test_every_line_of_the_steps_is_strict_json_also_for_a_loss_that_is_not_finite(tmp_path, task):
    files = Files(tmp_path, task)
    files.on_step(1, {"train/loss": float("nan"), "train/grad_norm": float("inf"), "optim/lr/all": 0.1})
    assert lines_of(tmp_path / "steps.jsonl") == [
        {"step": 1, "train/loss": None, "train/grad_norm": None, "optim/lr/all": 0.1}
    ]


def test_the_pictures_of_the_latest_evaluation_can_be_read(tmp_path, task, report):
    files = Files(tmp_path, task)
    files.on_evaluation(1, report)
    files.on_evaluation(2, report)
    names = sorted(path.name for path in (tmp_path / "val").iterdir())
    assert {"probe-panel.jpg", "mining-overlay.jpg"} <= set(names)
    for name in names:
        assert cv2.imread(str(tmp_path / "val" / name)) is not None


def test_a_full_disk_is_told_once_per_file_and_leaves_whole_lines(tmp_path, task, report, told, full_disk):
    files = Files(tmp_path, task)
    files.on_step(1, {"train/loss": 0.5})
    with full_disk(tmp_path / "steps.jsonl"):
        for step in (2, 3):
            files.on_step(step, {"train/loss": 0.5})
            files.on_evaluation(step, report)
    assert sorted(str(one.message).split(" cannot")[0] for one in told) == sorted(
        str(tmp_path / name) for name in ("metrics.csv", "steps.jsonl", "val")
    )
    files.on_step(4, {"train/loss": 0.25})
    files.on_evaluation(4, report)
    assert [line["step"] for line in lines_of(tmp_path / "steps.jsonl")] == [1, 4]
    assert [row["step"] for row in rows_of(tmp_path / "metrics.csv")] == ["2", "3", "4"]
    assert not list(tmp_path.rglob("*.tmp"))
