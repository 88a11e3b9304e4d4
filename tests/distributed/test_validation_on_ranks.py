"""val under torchrun gives what one process gives."""

import json
from pathlib import Path

import pytest
from ranks import on_ranks

from segtrain.cli.train import main as train
from segtrain.cli.val import main

pytestmark = [pytest.mark.distributed, pytest.mark.usefixtures("in_tmp")]
TINY = ["--import", "tiny_components", "--config", str(Path(__file__).parents[1] / "tiny.yaml"), "--run-dir", "run"]


def test_two_ranks_find_what_one_process_finds_and_write_it_once():
    assert train([*TINY, "--quiet", "train.steps=4", "log.pictures=0"]) == 0
    ask = ["--import", "tiny_components", "--checkpoint", "run", "--json", "--worst", "3"]
    assert main([*ask, "--out", "one"]) == 0
    assert on_ranks(2, main, [*ask, "--out", "two", "--device", "cpu"], joined=False) == [0, 0]
    one, two = (json.loads(Path(name, "scores.json").read_text()) for name in ("one", "two"))
    for told in (one, two):
        del told["environment"]
        told["scores"]["loss"] = round(told["scores"]["loss"], 4)  # summed in another order
    assert one == two
    for name in ("classes.csv", "images.csv", "confusion.csv", "worst.jpg"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
