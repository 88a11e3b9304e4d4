"""Whole configs: reading, overriding, refusing, writing and reading again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import Component, Config, Share, load
from segtrain.config.nodes import Mark, Node, parse
from segtrain.config.schema import Ema, Train
from segtrain.config.writer import to_yaml
from segtrain.errors import ConfigError
from segtrain.registry import CRITERIA, OPTIMIZERS, SCHEDULES
from tests.config.toys import REFERENCE, Workplace


def test_the_main_job_is_read_in_full(workplace: Workplace) -> None:
    config = workplace.load()
    assert config.task == "segmentation"
    assert config.data.train.params == {"split": "train", "length": 640, "size": (96, 128), "values": None}
    assert [transform.name for transform in config.data.augment] == ["ToyCrop", "ToyFlip"]
    assert (config.data.batch_size, config.data.val_batch_size, config.data.workers) == (8, None, "auto")
    assert config.criterion == Component(
        CRITERIA,
        "toy_mined",
        {
            "top_p": 0.25,
            "warmup": Component(SCHEDULES, "linear", {"start": 100, "end": 300}, "criterion.warmup"),
            "scope": "batch",
            "class_weights": None,
        },
        "criterion",
    )
    assert config.train == Train(steps=400, channels_last=True, ema=Ema(decay=0.999))
    assert config.monitor == "val/miou"
    assert config.log.root == Path("runs")


def test_a_sections_own_keys_stand_flat_beside_those_of_its_component(workplace: Workplace) -> None:
    config = workplace.load()
    assert config.optimizer.clip_norm == 1.0
    params = {"lr": 0.002, "weight_decay": 0.01, "betas": (0.9, 0.999)}
    assert config.optimizer.component == Component(OPTIMIZERS, "toy_adam", params, "optimizer")
    assert config.schedule is not None
    assert (config.schedule.warmup, config.schedule.final) == (40, 0.0)
    assert config.schedule.component.params == {"power": 0.9, "start": 0, "end": None}


def test_what_has_a_default_may_be_left_out(workplace: Workplace) -> None:
    kept = ("task", "seed", "schedule", "validate", "checkpoint", "log")
    config = workplace.load("\n".join(line for line in REFERENCE.splitlines() if not line.startswith(kept)))
    assert (config.seed, config.schedule, config.init) == (0, None, None)
    assert config.validate.every == Share(0.1)


def test_words_for_off_mean_what_the_key_says(workplace: Workplace) -> None:
    config = workplace.load(REFERENCE, "train.amp=off", "schedule=null", "validate.weights=raw", "train.ema=null")
    assert (config.train.amp, config.schedule, config.train.ema) == ("off", None, None)
    assert workplace.error(REFERENCE, "train.compile=off") == (
        "override 'train.compile=off': train.compile: expected true or false, 'regional' or 'graphs', got 'off'; "
        "write false (torch.compile: the whole model, its repeated blocks, or as CUDA graphs (GPUs))"
    )


def test_the_monitored_scalar_follows_the_task(workplace: Workplace) -> None:
    assert workplace.load(REFERENCE, "task=classification", "validate.monitor=null").monitor == "val/top1"


def test_all_problems_are_told_at_once_with_their_places(workplace: Workplace) -> None:
    text = """\
data:
  train: {name: toy_scenes, split: trian}
  val: {name: toy_scene, split: val}
  batch_size: 0
  augment: [{name: ToyFlip, p: half}]
  worker: 2
model: {name: toy_net, arch: fpn, encoder: 18}
criterion:
  name: toy_mined
  top_pp: 0.25
  warmup: {name: linear, strat: 1}
optimizer: {name: toy_adam, lr: on, clip: 1}
epochs: 5
train: {steps: 1e3, epochs: 5}
"""
    assert workplace.errors(text, "criterion.top_p=25", "seed") == [
        "override 'seed': not of the form key.sub=value; write for instance optimizer.lr=1e-3",
        "job.yaml:2:36: data.train.split: expected 'train' or 'val', got 'trian'; did you mean 'train'?",
        "job.yaml:3:15: data.val: unknown dataset 'toy_scene'; did you mean 'toy_scenes'?",
        "job.yaml:4:15: data.batch_size: must be at least 1, got 0 (samples per process and forward pass)",
        "job.yaml:5:32: data.augment.0.p: expected a number, got 'half'",
        "job.yaml:6:3: unknown key 'data.worker'; did you mean 'workers'?",
        "job.yaml:7:44: model.encoder: expected text, got 18; write '18', in quotes, if the text is meant",
        "job.yaml:10:3: unknown key 'criterion.top_pp'; did you mean 'top_p'?",
        "job.yaml:11:26: unknown key 'criterion.warmup.strat'; did you mean 'start'?",
        "override 'criterion.top_p=25': criterion.top_p: must be at most 1, got 25"
        " (a share of the valid pixels: 0.25 = the hardest quarter)",
        "job.yaml:12:33: optimizer.lr: expected a number, got 'on'",
        "job.yaml:12:37: unknown key 'optimizer.clip'; did you mean 'clip_norm'?",
        "job.yaml:13:1: unknown key 'epochs'; did you mean 'train.epochs'?",
        "job.yaml:14:16: train.steps: expected a whole number or null, got 1000.0; write 1000"
        " (length of the run in optimizer steps)",
    ]


A_MODEL = "model: expected a model such as {name: toy_net, …}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=5", "train.epochs: 5, but steps is 400 as well; set one of them to null"),
        ("model=null", f"{A_MODEL}, got null"),
        ("model=toy_net", f"{A_MODEL}, got 'toy_net'; write {{name: toy_net}}"),
        ("model.name=os.system", "model: unknown model 'os.system'; allowed: toy_net"),
        ("model.name=__class__", "model: unknown model '__class__'; allowed: toy_net"),
        ("optimizer={name: toy_adam}", "missing key 'optimizer.lr': a number"),
        ("optimizer={lr: 1}", "missing key 'optimizer.name': an optimizer; allowed: toy_adam"),
        ("optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate'; did you mean 'lr'?"),
        ("optimizer.momentum=1", "unknown key 'optimizer.momentum'; allowed: betas, clip_norm, encoder_lr,"
         " freeze_encoder, lr, no_decay, weight_decay"),
        ("learning_rate=1", "unknown key 'learning_rate'; did you mean 'optimizer.lr'?"),
        ("keep_last=1", "unknown key 'keep_last'; did you mean 'checkpoint.keep_last'?"),
        ("batch=1", "unknown key 'batch'; did you mean 'data.batch_size'?"),
        ("log.zzz=1", "unknown key 'log.zzz'; allowed: every, mining_every, observers, pictures, root"),
        ("log.every=101%", "log.every: '101%' is more than the whole run; expected at most 100%"),
        ("criterion.top_p=010", "criterion.top_p: expected a number, got '010'; write 10 without quotes"
         " or leading zeros"
         " (a share of the valid pixels: 0.25 = the hardest quarter)"),
        ("optimizer.lr=1:30", "optimizer.lr: expected a number, got '1:30'"),
        ("data.train.length=true", "data.train.length: expected a whole number, got true"),
        ("optimizer.no_decay=[norms]", "optimizer.no_decay.0: expected 'norm' or 'bias', got 'norms'"
         " (parameters that weight decay leaves alone)"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_sentence(override: str, message: str, workplace: Workplace) -> None:
    assert workplace.error(REFERENCE, override) == f"override {override!r}: {message}"


def test_the_name_of_a_sections_field_for_its_component_is_no_key(workplace: Workplace) -> None:
    assert "optimizer.component" not in workplace.error(REFERENCE, "component=1")
    assert "unknown key 'optimizer.component'" in workplace.error(REFERENCE, "optimizer.component=1")


def test_what_does_not_go_together_is_told_at_the_value_to_change(workplace: Workplace) -> None:
    assert workplace.error(REFERENCE, "train.steps=null") == "job.yaml:19:8: train: how long? Give steps or epochs"
    assert workplace.error(REFERENCE, "train.ema=null") == (
        "job.yaml:20:52: validate.weights: 'ema', but train.ema is null; set train.ema={decay: 0.999} or weights: raw"
    )


def keys_of(node: Node, path: str = "") -> Iterator[tuple[str, Mark]]:
    children: Any = ()
    if isinstance(node.value, dict):
        children = node.value.items()
    elif isinstance(node.value, list):
        children = enumerate(node.value)
    for key, child in children:
        if isinstance(key, str) and child.key:
            yield key, child.key
        yield from keys_of(child)


def test_every_key_with_a_letter_missing_is_refused_and_the_right_key_named(one_workplace: Workplace) -> None:
    lines = REFERENCE.splitlines()
    for key, mark in set(keys_of(parse(REFERENCE.encode(), "job.yaml"))):
        for letter in range(len(key)):
            line, at = lines[mark.line - 1], mark.column - 1 + letter
            cut = [*lines[: mark.line - 1], line[:at] + line[at + 1 :], *lines[mark.line :]]
            messages = one_workplace.errors("\n".join(cut))
            assert any(f"'{key}'?" in message or len(key) == 1 for message in messages), (key, messages)


@pytest.mark.parametrize("text", ["", "# nothing\n", "5", "[]", "null", "---", "hello"])
def test_a_file_that_is_no_mapping_is_refused(text: str, workplace: Workplace) -> None:
    assert "expected a mapping of sections (data, model, …), got " in workplace.error(text)


def test_an_empty_mapping_lacks_everything_that_is_required(workplace: Workplace) -> None:
    assert workplace.errors("{}") == [
        "job.yaml:1:1: missing key 'data': a mapping",
        "job.yaml:1:1: missing key 'model': a model such as {name: toy_net, …}",
        "job.yaml:1:1: missing key 'criterion': a criterion such as {name: toy_mined, …}",
        "job.yaml:1:1: missing key 'optimizer': a mapping",
        "job.yaml:1:1: missing key 'train': a mapping",
    ]


def test_a_file_that_is_missing_is_refused_with_its_nearest_neighbour(workplace: Workplace) -> None:
    workplace.write(REFERENCE, ".hidden.yaml")
    with pytest.raises(ConfigError, match=r"bootstrp\.yaml' does not exist$"):
        load(workplace.directory / "bootstrp.yaml")
    workplace.write(REFERENCE, "bootstrap.yaml")
    with pytest.raises(ConfigError, match=r"bootstrp\.yaml' does not exist; did you mean 'bootstrap\.yaml'\?$"):
        load(workplace.directory / "bootstrp.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        load(workplace.directory)
    with pytest.raises(ConfigError, match="does not exist"):
        load(workplace.directory / "nowhere" / "x.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        load("a\0b")


class TestBase:
    def test_a_file_changes_what_it_is_based_on(self, workplace: Workplace) -> None:
        workplace.write(REFERENCE, "base.yaml")
        config = workplace.load("_base_: base.yaml\nseed: 1\ndata: {batch_size: 4}\ntrain: {steps: null, epochs: 3}\n")
        assert (config.seed, config.data.batch_size, config.train.epochs) == (1, 4, 3)
        assert config.data.train.name == "toy_scenes"

    def test_another_name_replaces_the_component_with_all_its_keys(self, workplace: Workplace) -> None:
        workplace.write(REFERENCE, "base.yaml")
        config = workplace.load("_base_: base.yaml\nschedule: {name: toy_schedule}\n")
        assert config.schedule is not None
        assert config.schedule.warmup == 0
        assert config.schedule.component.params == {"end": None}

    def test_problems_are_placed_in_the_file_that_holds_them(self, workplace: Workplace) -> None:
        (workplace.directory / "sub").mkdir()
        workplace.write(REFERENCE.replace("top_p:", "top_q:"), "sub/base.yaml")
        assert workplace.errors("_base_: sub/base.yaml\nsead: 1\n") == [
            "sub/base.yaml:14:3: unknown key 'criterion.top_q'; did you mean 'top_p'?",
            "job.yaml:2:1: unknown key 'sead'; did you mean 'seed'?",
        ]

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ("[a, b]", "job.yaml:1:9: _base_: expected the path of one file, relative to this one, got a list of 2"),
            ("5", "job.yaml:1:9: _base_: expected the path of one file, relative to this one, got 5"),
            (r'"a\0b"', r"job.yaml:1:9: _base_: 'a\x00b' does not exist; allowed: child.yaml, job.yaml"),
            ("nowhere.yaml", "job.yaml:1:9: _base_: 'nowhere.yaml' does not exist; did you mean 'job.yaml'?"),
            ("job.yaml", "job.yaml:1:9: _base_: 'job.yaml' is based on the file that names it; remove one '_base_'"),
            (
                "child.yaml",
                "child.yaml:1:9: _base_: 'job.yaml' is based on the file that names it; remove one '_base_'",
            ),
            ("/dev/zero", "job.yaml:1:9: _base_: '/dev/zero' is not a file"),
        ],
    )
    def test_what_cannot_be_a_base_is_refused(self, base: str, message: str, workplace: Workplace) -> None:
        workplace.write("_base_: job.yaml", "child.yaml")
        assert workplace.error(f"_base_: {base}").startswith(message)

    def test_a_name_that_is_too_long_for_a_file_is_refused(self, workplace: Workplace) -> None:
        assert workplace.error(f"_base_: {'x' * 5000}").endswith(": File name too long")


class TestSource:
    def test_every_value_knows_where_it_came_from(self, workplace: Workplace) -> None:
        workplace.write(REFERENCE, "base.yaml")
        path = workplace.write("_base_: base.yaml\nseed: 3\n")
        _, source = load(path, ["criterion.top_p=0.5"])
        base = workplace.directory / "base.yaml"
        assert source.where("seed") == f"{path}:2:7"
        assert source.where("criterion.top_p") == "override 'criterion.top_p=0.5'"
        assert source.where("criterion.warmup.start") == f"{base}:15:33"
        assert source.where("data.augment.1.p") == f"{base}:10:26"
        assert source.where("optimizer.betas") == source.where("optimizer") == f"{base}:17:12"
        origins = source.provenance()
        assert origins["criterion.top_p"] == "override 'criterion.top_p=0.5'"
        assert origins["optimizer.betas.0"] == origins["data.val_batch_size"] == "default"
        assert origins["optimizer.lr"] == f"{base}:17:33"

    def test_the_written_config_repeats_the_run(self, workplace: Workplace) -> None:
        config, source = load(workplace.write(REFERENCE), ["train.amp=off", "validate.every=7%", "log.root='1e-3'"])
        text = source.to_yaml()
        assert text.splitlines()[0].endswith("job.yaml', 'train.amp=off', 'validate.every=7%', \"log.root='1e-3'\"")
        assert workplace.load(text) == config
        assert to_yaml(workplace.load(text)) == to_yaml(config)

    def test_the_written_config_holds_every_default(self, workplace: Workplace) -> None:
        _, source = load(workplace.write(REFERENCE))
        written = load(workplace.write(source.to_yaml()))[1]
        assert "default" not in written.provenance().values()

    def test_a_line_break_in_an_override_stays_in_the_comment(self, workplace: Workplace) -> None:
        config, source = load(workplace.write(REFERENCE), ["seed=\n7"])
        assert config.seed == 7
        assert workplace.load(source.to_yaml()) == config


odd_texts = [
    "on",
    "1e-3",
    "010",
    "1:30",
    "null",
    "",
    "~",
    "10%",
    "=",
    "<<",
    "- a",
    "0x1F",
    "1_0",
    "# x",
    "!x",
    "&x",
    "*x",
]
odd_texts += ["\x85", "\u2028", "\ufeff", "a\nb", "\0", " a ", "'", '"']
texts = st.text(max_size=8) | st.sampled_from(odd_texts)


@pytest.mark.parametrize("text", odd_texts)
def test_a_text_that_yaml_might_take_for_something_else_is_still_the_text(text: str, workplace: Workplace) -> None:
    config = workplace.load()
    config.model.params["encoder"] = text
    assert workplace.load(to_yaml(config)) == config


@settings(deadline=None)
@given(
    texts,
    st.floats(0, 1, exclude_min=True),
    st.floats(min_value=1e-300, allow_infinity=False),
    st.dictionaries(st.integers(0, 255), texts, max_size=3),
    st.integers(0, 10**6).map(lambda millionth: Share(millionth / 10**6)) | st.integers(1, 10**9),
)
def test_any_values_survive_being_written_and_read_again(
    one_workplace: Workplace, encoder: str, top_p: float, lr: float, values: dict[int, str], every: Any
) -> None:
    config = one_workplace.load()
    config.model.params["encoder"] = encoder
    config.criterion.params["top_p"] = top_p
    config.optimizer.component.params["lr"] = lr
    config.data.train.params["values"] = values
    object.__setattr__(config.validate, "every", every)
    assert one_workplace.load(to_yaml(config)) == config


junk = st.sampled_from(
    ["", "null", "true", "on", "0", "-1", "1e999", ".nan", "010", "x", "[]", "{}", "[[1]]", "{name: poly}", "é", "\0",
     "'", "&a 1", "*a", "!x 1", "{a: 1, a: 2}", "101%", '"\\ud800"', "1" * 5000, "[" * 60, "{name: product, of: [1]}"]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_config_with_anything_in_any_place_is_a_config_or_a_config_error(
    one_workplace: Workplace, data: st.DataObject
) -> None:
    text = REFERENCE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(junk | st.text(max_size=5)) + text[end:]
    with contextlib.suppress(ConfigError):
        assert isinstance(one_workplace.load(text.encode("utf-8", "surrogatepass")), Config)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_an_override_of_any_key_by_anything_is_a_config_or_a_config_error(
    one_workplace: Workplace, data: st.DataObject
) -> None:
    keys = [
        *[
            "data",
            "model",
            "criterion",
            "optimizer",
            "schedule",
            "train",
            "validate",
            "log",
            "init",
            "name",
            "lr",
            "every",
            "warmup",
            "augment",
            "0",
            "p",
        ]
    ]
    path = ".".join(data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=4)))
    with contextlib.suppress(ConfigError):
        one_workplace.load(REFERENCE, f"{path}={data.draw(junk | st.text(max_size=5))}")
