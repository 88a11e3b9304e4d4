"""Measuring a tiny run, and what measurements mean."""

import json
from pathlib import Path

import pytest

from segtrain.cli.bench import main
from segtrain.cli.bench.verdict import Measured, verdict

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
FLAGS = ["--import", "tiny_components", "--config", TINY, "--device", "cpu", "--steps", "3"]


def test_every_part_is_measured_and_nothing_is_written(in_tmp, capsys):
    assert main([*FLAGS, "--json", "train.accumulate=2"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["batch"] == 4
    for part in ("loader", "reading", "transforms", "forward", "backward", "step", "together", "memory"):
        assert seen[part] > 0, part
    assert 0 < seen["waiting"] < 1
    assert len(seen["heaviest"]) == 5
    assert seen["verdict"][0].startswith(("loader-bound", "step-bound", "loading and stepping take turns"))
    assert not list(in_tmp.iterdir())


def test_the_table_has_the_parts_that_were_asked_for(in_tmp, capsys):
    assert main([*FLAGS, "--part", "step,loader", "data.workers=1"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if line[:6] in ("loader", "step  ", "model ", "togeth")] == [
        "loader",
        "step",
    ]
    assert "1 workers; one process takes" in told
    assert "verdict  " in told
    assert main([*FLAGS, "--part", "loader"]) == 0
    assert "measure loader, step and together" in capsys.readouterr().out


def test_a_model_with_an_image_head_is_measured(in_tmp, capsys):
    terms = "{a: {criterion: {name: cross_entropy}}, b: {criterion: {name: image_presence}}}"
    heads = ["model.image_head=true", f"criterion={{name: weighted_sum, terms: {terms}}}"]
    assert main([*FLAGS, "--part", "model", "--json", *heads]) == 0
    assert json.loads(capsys.readouterr().out)["backward"] > 0


def test_mistakes_are_told(in_tmp, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*FLAGS, "--part", "laoder"])
    assert main(["--config", "absent.yaml"]) == 2
    assert "'absent.yaml' does not exist" in capsys.readouterr().err
    assert main([*FLAGS, "data.batch_size=0"]) == 2


GPU = Measured("cuda", 16, 16, workers=2, amp="bf16", compiled=True, batch=8, loader=41, step=8 / 96, together=40)
CPU = Measured("cpu", 8, 8, workers=2, amp="off", compiled=False, batch=8, loader=400, step=8 / 20, together=19)


def changed(seen, **values):
    return verdict(Measured(**{**vars(seen), **values}))


def test_a_loader_that_is_too_slow_gets_as_many_processes_as_the_step_needs():
    judgement, *remedies = changed(GPU, waiting=0.57, reading=0.03, transforms=0.018)
    assert judgement == (
        "loader-bound: the loader gives 41 img/s, the step eats 96; 57% of the time is spent waiting for data"
    )
    assert remedies == ["raise data.workers from 2 to 6: one process makes 21 img/s"]


def test_a_loader_without_processes_is_told_to_take_one_where_a_processor_is_free():
    judgement, remedy = changed(CPU, workers=0, threads=7, together=15, waiting=0.24, reading=0.02, transforms=0.01)
    assert judgement.startswith("loading and stepping take turns (data.workers: 0): the loader gives 400 img/s")
    assert remedy == "raise data.workers from 0 to 1: one process makes 33 img/s"
    busy = changed(CPU, workers=0, together=15, waiting=0.24, reading=0.02, transforms=0.01)
    assert "all 8 processors are busy" in busy[1]


def test_where_processors_run_out_the_dearer_half_of_the_loading_is_named():
    _, first, second = changed(GPU, waiting=0.57, reading=0.3, transforms=0.1)
    assert first.startswith("raise data.workers from 2 to 15")
    assert "43 would be needed" in first
    assert second.startswith("reading is 75% of the work: keep decoded samples")
    _, first, second = changed(GPU, waiting=0.57, reading=0.1, transforms=0.3, workers=15)
    assert "all 16 processors are busy" in first
    assert second.startswith("the transforms are 75% of the work: crop first")


def test_a_step_that_is_too_slow_gets_what_makes_its_device_faster():
    judgement, *remedies = changed(GPU, loader=400, amp="off", compiled=False, memory=9.0, memory_total=79.0)
    assert judgement.startswith("step-bound: the loader gives 400 img/s, the step eats 96")
    assert [text.split()[0] for text in remedies] == ["train.amp=bf16", "train.compile=true", "9.0"]
    assert "tools/tune.py batch" in remedies[2]
    assert "OMP_NUM_THREADS=6" in changed(CPU, threads=1)[1]
    assert "a GPU" in changed(CPU)[1]
    assert any("not the model" in text for text in changed(CPU, forward=0.1, backward=0.1)[1:])
    assert changed(GPU, loader=400, workers=12, reading=0.02, transforms=0.01)[-1] == "data.workers: 4 would be enough"
