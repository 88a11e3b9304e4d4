"""`tools/config.py` as a user meets it."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from segtrain.cli.config import main
from segtrain.cli.train.training import config_path
from segtrain.config import load
from segtrain.config.shipped import names

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests/tiny.yaml")
OURS = ["--import", "tiny_components"]


def told(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_ls_names_every_file_with_its_purpose(capsys):
    listed = json.loads(told(capsys, "ls", "--json"))
    assert {one["name"] for one in listed} == set(names())
    assert {Path(one["file"]).name for one in listed} == {path.name for path in (ROOT / "configs").rglob("*.yaml")}
    assert all(len(one["purpose"]) > 15 for one in listed)


def test_cp_makes_a_copy_and_replaces_nothing_without_being_told(in_tmp, capsys):
    assert "segtrain train --config my.yaml --dry-run" in told(capsys, "cp", "bootstrap", "my.yaml")
    assert Path("my.yaml").read_text() == (ROOT / "configs/bootstrap.yaml").read_text()
    Path("my.yaml").write_text("mine")
    assert "my.yaml exists" in refused(capsys, "cp", "bootstrap", "my.yaml")
    assert Path("my.yaml").read_text() == "mine"
    told(capsys, "cp", "bootstrap", "my.yaml", "--overwrite")
    assert Path("my.yaml").read_text() != "mine"
    assert "did you mean 'bootstrap'?" in refused(capsys, "cp", "bootstrp")
    Path("closed").write_text("a file")
    assert "closed/x.yaml cannot be written" in refused(capsys, "cp", "bootstrap", "closed/x.yaml")
    assert sorted(path.name for path in in_tmp.iterdir()) == ["closed", "my.yaml"]


def test_a_copied_sweep_is_whole(in_tmp, capsys):
    assert "segtrain sweep --config mining_scenes.yaml" in told(capsys, "cp", "sweeps/mining_scenes")
    assert "config: bootstrap.yaml" in Path("mining_scenes.yaml").read_text()
    assert "a sweep of 18 runs" in told(capsys, "check", "mining_scenes.yaml")


def test_show_is_the_same_configuration_with_the_origin_of_every_value(in_tmp, capsys):
    Path("my.yaml").write_text(f"_base_: {TINY}\noptimizer: {{lr: 0.5}}\n")
    shown = told(capsys, "show", "my.yaml", "train.steps=9", "data.train.length=20", *OURS)
    lines = {line.partition("#")[0].strip(): line.partition("#")[2].strip() for line in shown.splitlines()}
    assert lines["lr: 0.5"] == "my.yaml:2"
    assert lines["steps: 9"] == "override 'train.steps=9'"
    assert lines["eps: 1.0e-08"] == lines["timeout: 600.0"] == "default"
    assert lines["- name: RandomScaleCrop"] == f"{TINY}:10"
    assert all(origin for text, origin in lines.items() if text and not text.endswith(":"))
    Path("shown.yaml").write_text(shown)
    assert load("shown.yaml")[0] == load("my.yaml", ["train.steps=9", "data.train.length=20"])[0]
    values = json.loads(told(capsys, "show", "my.yaml", "--json", *OURS))
    assert values["optimizer.lr"] == {"value": 0.5, "origin": "my.yaml:2:17"}


def test_a_name_or_the_directory_of_a_run_stand_for_their_file(in_tmp, capsys):
    Path("run").mkdir()
    Path("run/config.yaml").write_text((ROOT / "configs/bootstrap.yaml").read_text())
    assert told(capsys, "diff", "run", "bootstrap").strip() == "they say the same"
    differing = json.loads(told(capsys, "diff", "ce", "bootstrap", "--json"))
    assert differing["criterion.name"] == ["cross_entropy", "bootstrapped_ce"]
    assert "optimizer.lr" not in differing
    assert "criterion.top_p" in told(capsys, "diff", "ce", "bootstrap")
    assert "folder without a config.yaml" in refused(capsys, "show", ".")
    named = [config_path(Namespace(config=Path(text))) for text in ("run", "camvid", "sweeps/mining_scenes", "my.yaml")]
    assert [path.name for path in named] == ["config.yaml", "camvid.yaml", "mining_scenes.yaml", "my.yaml"]
    assert all(path.exists() for path in named[:3])


def test_check_tells_all_mistakes_of_all_files_and_goes_on_after_one(in_tmp, capsys):
    Path("bad.yaml").write_text(f"_base_: {TINY}\noptimizer: {{learning_rate: 1}}\nseed: -1\n")
    assert main(["check", "bad.yaml", TINY, "absent.yaml", *OURS]) == 2
    result = capsys.readouterr()
    assert result.out == f"ok  {TINY}\n"
    assert "bad.yaml:2:13: unknown key 'optimizer.learning_rate'; did you mean 'lr'?" in result.err
    assert "bad.yaml:3:7" in result.err
    assert "'absent.yaml' does not exist" in result.err
    assert "2 of 3 files" in result.err
    assert main(["check", TINY, "train.steps=0", *OURS]) == 2
    assert "override 'train.steps=0'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_that_comes_along_is_free_of_mistakes(path, capsys):
    assert main(["check", str(path)]) == 0, capsys.readouterr().err


def test_keys_lead_from_the_sections_to_every_component(capsys):
    top = {entry["key"] for entry in json.loads(told(capsys, "keys", "--json"))["entries"]}
    assert {"data", "model", "train", "seed"} <= top
    assert "bootstrapped_ce" in told(capsys, "keys", "criterion")
    mined = json.loads(told(capsys, "keys", "criterion.bootstrapped_ce", "--json"))
    assert {"key": "top_p", "allowed": "a number", "default": "required", "purpose": ""} in mined["entries"]
    assert "'median_frequency'" in told(capsys, "keys", "criterion.cross_entropy.class_weights")
    assert "≥ 1" in told(capsys, "keys", "data.batch_size")
    assert "clip_norm" in told(capsys, "keys", "optimizer")
    assert "amsgrad" in told(capsys, "keys", "optimizer.adamw")
    assert "decay" in told(capsys, "keys", "train.ema")
    assert "criterion" in told(capsys, "keys", "criterion.weighted_sum.terms")
    assert {"resnet18", "tu-resnet18"} <= set(json.loads(told(capsys, "keys", "model.smp.encoder", "--json"))["names"])
    assert "resnet50" in told(capsys, "keys", "model.torchvision.arch")
    assert "did you mean 'train'?" in refused(capsys, "keys", "trian")
    assert "'criterion.mined' holds no key 'topp'; did you mean 'top_p'?" in refused(
        capsys, "keys", "criterion.mined.topp"
    )


def test_a_name_that_no_configuration_has_is_answered_with_those_there_are(capsys):
    assert main(["show", "bootstap"]) == 2
    assert "no configuration called 'bootstap' comes along; did you mean 'bootstrap'?" in capsys.readouterr().err


def test_sweeps_can_be_compared(capsys):
    assert main(["diff", "sweeps/mining_camvid", "sweeps/mining_scenes"]) == 0
    assert "../bootstrap.yaml" in capsys.readouterr().out


def test_a_copy_with_a_space_in_its_name_can_be_pasted(tmp_path, capsys):
    assert main(["cp", "camvid", str(tmp_path / "my own.yaml")]) == 0
    assert f"--config '{tmp_path / 'my own.yaml'}'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("data.batch_size.x", "'data.batch_size' is a value and holds no keys"),
        ("optimizer.weight_decay", "'optimizer' holds no key 'weight_decay'; it is a key of optimizer."),
    ],
)
def test_a_place_that_holds_no_such_key_is_told(place, told, capsys):
    assert main(["keys", place]) == 2
    assert told in capsys.readouterr().err
