"""The examples of the documents run, their configurations load, and what they show of a command is what it prints."""

import ast
import re

import numpy as np
import pytest
import torch
import yaml
from documents import DOCUMENTS, ROOT, RUN, SMALL, blocks, furnish
from torch import nn
from torch.distributed.run import get_args_parser as of_torchrun

from segtrain.build import register_components
from segtrain.cli.completion import places
from segtrain.cli.config import main as config
from segtrain.cli.sweep.sweeping import Sweep, planned
from segtrain.cli.train import main as train
from segtrain.config import load
from segtrain.config.reference import look_up

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
PYTHON = [block for block in BLOCKS if block.language == "python" and "..." not in block.text]
SKETCHES = [block for block in BLOCKS if block.language == "python" and "..." in block.text]
YAML = [block for block in BLOCKS if block.language == "yaml"]
SHOWN = {  # output that depends on nothing but the code → whether all of it is shown
    "config show bootstrap criterion.top_p=0.1": False,
    "config diff ce bootstrap": True,
}
FILES = r"(?:py|txt|yaml|pt|pt2|onnx|safetensors)\b"


def name(block):
    return f"{block.document}:{block.line}"


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The folder of a reader who has trained on CamVid."""
    register_components(["tiny_components"])
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGTRAIN_DATA", raising=False)
    limits = ["--limit-train", "2", "--limit-val", "1", "--run-dir", f"runs/camvid/{RUN}", "--quiet"]
    assert train(["--config", "configs/camvid.yaml", *limits, *SMALL]) == 0


@pytest.mark.parametrize("block", PYTHON, ids=name)
def test_an_example_in_python_runs(block, reader):
    torch.manual_seed(0)
    image, target = torch.rand(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8))
    given = {"model": nn.Conv2d(3, 4, 1), "loader": [(image, target)] * 2, "target": target}
    given["logits"] = given["model"](image)
    exec(compile(block.text, name(block), "exec"), given)
    if "loss" in given:
        assert given["loss"].isfinite()
    else:
        assert (given["road"].dtype, given["road"].shape) == (np.bool_, (24, 32))


@pytest.mark.parametrize("block", SKETCHES, ids=name)
def test_a_sketch_has_the_signatures_of_the_example_that_it_is_of(block):
    def signatures(tree):
        return {node.name: ast.unparse(node.args) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    examples = [ast.parse(path.read_text()) for path in (ROOT / "docs/examples").glob("*.py")]
    assert any(signatures(ast.parse(block.text)).items() <= signatures(example).items() for example in examples)


@pytest.mark.parametrize("block", YAML, ids=name)
def test_a_configuration_in_yaml_is_free_of_mistakes(block, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    by_file = [str(ROOT / "docs/examples" / name) for name in ("npz_data.py", "own_tracker.py")]  # as test_extend does
    register_components(["docs.examples.poly_loss", *by_file])
    written = yaml.safe_load(block.text)
    file = tmp_path / "shown.yaml"
    if "variants" in written:
        file.write_text(block.text)
        sweep, _ = load(file, schema=Sweep)
        assert planned(sweep, ROOT / "configs" / sweep.config, tmp_path)
        return
    base = "stanford_cars_scratch" if "val_prepare" in written else "camvid"
    whole = written if set(written) <= {"data", "model", "criterion", "log"} else {"data": written}
    file.write_text(yaml.safe_dump({"_base_": str(ROOT / f"configs/{base}.yaml"), **whole}, sort_keys=False))
    load(file, ["train.steps=2000", "train.epochs=null"])


@pytest.mark.parametrize("command", SHOWN)
def test_what_a_document_shows_of_a_command_is_what_it_prints(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/tools.md").read_text()
    shown = text.partition(f"`tools/{command.replace('config', 'config.py', 1)}`")[2].split("```")[1]
    assert config(command.split()[1:]) == 0
    printed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    lines = [" ".join(line.split()) for line in shown.strip("\n").splitlines() if line.strip() != "…"]
    if SHOWN[command]:
        assert lines == printed
    rest = iter(printed)
    assert not [line for line in lines if line not in rest]  # in this order


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_keys_and_flags_that_a_document_names_exist(document):
    register_components()
    text = document.read_text(encoding="utf-8")
    sections = "data|model|criterion|optimizer|schedule|train|validate|checkpoint|log"
    for key in sorted(set(re.findall(rf"`((?:{sections})\.(?!{FILES})[a-z_]+)(?:[=:][^`]*)?`", text))):
        look_up(key)
    known = {flag for place in places() for flag in place.flags} | set(of_torchrun()._option_string_actions)
    for benchmark in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'add_argument\("(--[a-z-]+)"', benchmark.read_text(encoding="utf-8")))
    assert not set(re.findall(r"`(--[a-z-]+)", text)) - known
