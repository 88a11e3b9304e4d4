"""What the documents show is true: their examples run, their files exist."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segtrain.cli.train import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_configurations_exist(document):
    named = set(re.findall(r"configs/[\w.]+\.yaml", document.read_text()))
    assert not {name for name in named if not (ROOT / name).exists()}


def test_the_own_loss_of_the_documents_trains_and_is_mined(in_tmp, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    small = [
        "data.train.size=[32,32]",
        "data.val.size=[32,32]",
        "data.train.length=4",
        "data.val.length=2",
        "data.augment=[]",
        "data.batch_size=2",
        "data.workers=0",
        "train.steps=4",
        "schedule.warmup=1",
        "log.every=4",
    ]
    config = str(ROOT / "docs/examples/poly_loss.yaml")
    code = main(["--import", "docs.examples.poly_loss", "--config", config, "--run-dir", "run", *small])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "top_p 0." in told.out
    assert main(["--import", "docs.examples.poly_loss", "--config", config, "criterion.loss.epsillon=1"]) == 2
    assert "did you mean 'epsilon'?" in capsys.readouterr().err


def test_the_own_mining_rule_trains_and_shows_what_it_keeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    arguments = [
        "--import",
        "docs.examples.above_median",
        "--config",
        str(ROOT / "tests/tiny.yaml"),
        "--run-dir",
        "run",
    ]
    code = main([*arguments, "--import", "tiny_components", "criterion={name: above_median}", "train.steps=4"])
    told = capsys.readouterr()
    assert code == 0, told.err
    logged = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert 0.4 < logged[-1]["mining/top_p_effective"] < 0.7


def test_the_own_loss_is_what_it_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from docs.examples.poly_loss import Poly1CrossEntropy
    from segtrain.task import Task

    task = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)
    logits, target = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randint(3, (2, 5, 5))
    target[0, 0] = 255
    loss = Poly1CrossEntropy(task, epsilon=2.0)(logits, target)
    valid = target != 255
    p = logits.softmax(1).gather(1, torch.where(valid, target, 0)[:, None])[:, 0]
    expected = F.cross_entropy(logits, target, ignore_index=255) + 2 * (1 - p)[valid].mean()
    torch.testing.assert_close(loss.value.sum() / loss.weight.sum(), expected)


def test_every_promise_names_the_tests_that_hold_it():
    promises, missing = [], []
    for row in re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE):
        promises.append(int(row[0]))
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[1])
        assert tests, f"promise {row[0]} names no test"
        for file, name in tests:
            held = (ROOT / file).exists() and f"\ndef {name}(" in (ROOT / file).read_text()
            missing += [] if held else [f"{file}::{name}"]
    assert promises == list(range(1, 41))
    assert not missing
