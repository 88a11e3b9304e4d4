"""What annotations of components and sections allow, and how what they do not allow is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from segtrain.config.check import Checker
from segtrain.config.component import Component, ConflictError, Share
from segtrain.config.nodes import parse
from segtrain.config.writer import plain_config, to_yaml
from segtrain.registry import Registry
from segtrain.schedule import Steps

LOSSES = Registry("toy loss")
RISES = Registry("toy rise")
ToyRise = Annotated[Callable[[int], float], RISES]

A_STEP = "a number of steps"
A_RISE = "a toy rise such as {name: all, …}"


class FromData:
    """A marker of another module: a config may say more than the component sees."""

    written = list[float] | Literal["auto"] | None


@dataclass(frozen=True)
class Term:
    criterion: Annotated[object, LOSSES]
    weight: float | ToyRise = 1.0


@RISES.register("line")
def line(run: int, *, start: Steps = 0, end: Steps | None = None) -> None: ...


@RISES.register("all")
def all_of(run: int, *, of: list[ToyRise]) -> None: ...


@LOSSES.register("plain")
def plain_loss(
    task: object, *, smoothing: float = 0.0, weights: Annotated[list[float] | None, FromData] = None
) -> None: ...


@LOSSES.register("mined")
class Mined:
    def __init__(
        self, task: object, *, loss: Annotated[object, LOSSES], warmup: Steps | ToyRise | None = None
    ) -> None: ...


@LOSSES.register("sum")
def weighted_sum(task: object, *, terms: dict[str, Term], rank_by: str | None = None) -> None: ...


class Thing:
    """Something no config can hold."""


def check(annotation: Any, text: str) -> tuple[Any, list[str]]:
    checker = Checker()
    value = checker.check(annotation, parse(text.encode(), "c"), "key")
    return value, [str(problem) for problem in checker.problems]


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (float, "1e-3", 0.001),
        (bool, "true", True),
        (str, "off", "off"),
        (Path, "runs/x", Path("runs/x")),
        (float | None, "null", None),
        (int | Literal["auto"], "auto", "auto"),
        (Annotated[int | Literal["auto"], Field(ge=0)], "auto", "auto"),
        (tuple[int, int], "[96, 128]", (96, 128)),
        (tuple[str, ...], "[a, b]", ("a", "b")),
        (list[float], "[1, 2.5]", [1.0, 2.5]),
        (list[list[int]], "[[1], []]", [[1], []]),
        (dict[int, str], "{0: background, 255: ignore}", {0: "background", 255: "ignore"}),
        (dict[str, float], "{a: 1}", {"a": 1.0}),
        (float | Thing, "1", 1.0),
        (Any, "{a: [1, x]}", {"a": [1, "x"]}),
        (Steps, "40", 40),
        (Steps, "10%", Share(0.1)),
        (Steps | None, "null", None),
        (list[Steps], "[1, 50%]", [1, Share(0.5)]),
        (Annotated[Steps, Field(ge=1)], "12.5%", Share(0.125)),
        (dict[str, Steps], "{a: 100%}", {"a": Share(1)}),
        (tuple[Steps, ...], "[1]", (1,)),
        (tuple[Steps, float], "[5%, 2]", (Share(0.05), 2.0)),
        (Annotated[list[float] | None, FromData], "auto", "auto"),
    ],
)
def test_a_value_is_taken_as_its_annotation_says(annotation: Any, text: str, value: object) -> None:
    found, problems = check(annotation, text)
    assert problems == []
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "message"),
    [
        (int, "true", "expected a whole number, got true"),
        (float, "false", "expected a number, got false"),
        (Steps, "true", "expected a number of steps or a share of the run such as 10%, got true"),
        (int, "'3'", "expected a whole number, got '3'; write 3 without quotes or leading zeros"),
        (float, "010", "expected a number, got '010'; write 10 without quotes or leading zeros"),
        (int, "1_000", "expected a whole number, got '1_000'; write 1000 without quotes or leading zeros"),
        (float, "25%", "expected a number, got '25%'; write 0.25"),
        (float, "1:30", "expected a number, got '1:30'"),
        (int, "4e2", "expected a whole number, got 400.0; write 400"),
        (int, "2.5", "expected a whole number, got 2.5"),
        (bool, "off", "expected true or false, got 'off'; write false"),
        (bool, "1", "expected true or false, got 1"),
        (str, "2012", "expected text, got 2012; write '2012', in quotes, if the text is meant"),
        (str, "true", "expected text, got true; write 'true', in quotes, if the text is meant"),
        (float, "null", "expected a number, got null"),
        (float, "[1]", "expected a number, got a list of 1"),
        (list[float], "1", "expected a list of numbers, got 1"),
        (dict[str, int], "[]", "expected a mapping, got a list of 0"),
        (tuple[int, int], "[1, 2, 3]", "expected a list of 2 whole numbers, got a list of 3"),
        (tuple[Annotated[int, Field(ge=1)], int], "[1]", "expected a list of 2 whole numbers, got a list of 1"),
        (tuple[int, str], "1", "expected a list of 2 values, got 1"),
        (tuple[int, int], "[]", "expected a list of 2 whole numbers, got a list of 0"),
        (tuple[int, int], "[1]", "expected a list of 2 whole numbers, got a list of 1"),
        (tuple[int, int], "[1, x]", "c:1:5: key.1: expected a whole number, got 'x'"),
        (Annotated[list[float], Field(min_length=2)], "[1]", "must be at least 2 long, got a list of 1"),
        (dict[int, str], "{x: y}", "c:1:2: key.x: expected a whole number, got 'x'"),
        (dict[str, float], "{x: y}", "c:1:5: key.x: expected a number, got 'y'"),
        (Literal["bf16", "fp16"], "fp61", "expected 'bf16' or 'fp16', got 'fp61'; did you mean 'fp16'?"),
        (int | Literal["auto"], "atuo", "expected a whole number or 'auto', got 'atuo'; did you mean 'auto'?"),
        (int | None, "x", "expected a whole number or null, got 'x'"),
        (Annotated[int, Field(ge=0)] | Literal["auto"], "-1", "must be at least 0, got -1"),
        (Annotated[int | None, Field(ge=1)], "0", "must be at least 1, got 0"),
        (Annotated[float, Field(gt=0)], "0", "must be more than 0, got 0"),
        (Annotated[float, Field(lt=1)], "1", "must be less than 1, got 1"),
        (Annotated[float, Field(le=1, description="of all")], "25", "must be at most 1, got 25 (of all)"),
        (Annotated[float, Field(multiple_of=0.5)], "0.7", "input should be a multiple of 0.5, got 0.7"),
        (Annotated[Steps, Field(ge=1)], "0", "must be at least 1, got 0"),
        (Steps, "0.1", "expected a number of steps or a share of the run such as 10%, got 0.1"),
        (Steps, "ten", "expected a number of steps or a share of the run such as 10%, got 'ten'"),
        (Steps, "-1%", "'-1%' is not a percentage; expected one such as 10%"),
        (Steps, "1e2%", "'1e2%' is not a percentage; expected one such as 10%"),
        (Steps | None, "120%", "'120%' is more than the whole run; expected at most 100%"),
        (Thing, "1", "expected another value, got 1"),
        (Callable[[float], float], "abs", "expected another value, got 'abs'"),
        (float | Thing, "x", "expected a number, got 'x'"),
        (Annotated[list[float] | None, FromData], "all", "expected a list of numbers, 'auto' or null, got 'all'"),
        (ToyRise, "all", "expected a toy rise such as {name: all, …}, got 'all'; write {name: all}"),
        (tuple[Steps, float], "[1]", "expected a list of 2 values, got a list of 1"),
        (list[ToyRise], "{name: line}", "expected a list of toy rises, got a mapping"),
        (Steps | ToyRise, "[]", f"expected {A_STEP}, a share of the run such as 10% or {A_RISE}, got a list of 0"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_what_would(annotation: Any, text: str, message: str) -> None:
    _, problems = check(annotation, text)
    assert problems == [message if message.startswith("c:") else f"c:1:1: key: {message}"]


def test_a_component_has_checked_values_nested_components_and_defaults() -> None:
    text = "{name: mined, loss: {name: plain, smoothing: 1}, warmup: {name: all, of: [{name: line, end: 10%}]}}"
    value, problems = check(Annotated[object, LOSSES], text)
    assert problems == []
    line_ = Component(RISES, "line", {"start": 0, "end": Share(0.1)}, "key.warmup.of.0")
    assert value == Component(
        LOSSES,
        "mined",
        {
            "loss": Component(LOSSES, "plain", {"smoothing": 1.0, "weights": None}, "key.loss"),
            "warmup": Component(RISES, "all", {"of": [line_]}, "key.warmup"),
        },
        "key",
    )


def test_components_inside_sections_inside_components_are_found() -> None:
    text = "{name: sum, terms: {ce: {criterion: {name: plain}}, aux: {weight: {name: line}, criterion: {name: plain}}}}"
    value, problems = check(Annotated[object, LOSSES], text)
    assert problems == []
    terms = value.params["terms"]
    assert terms["ce"].weight == 1.0
    assert terms["ce"].criterion.path == "key.terms.ce.criterion"
    assert terms["aux"].weight == Component(RISES, "line", {"start": 0, "end": None}, "key.terms.aux.weight")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("{name: minde}", ["c:1:8: key: unknown toy loss 'minde'; did you mean 'mined'?"]),
        ("{name: 5}", ["c:1:8: key: unknown toy loss 5; allowed: mined, plain, sum"]),
        ("{name: [x]}", ["c:1:8: key: unknown toy loss a list of 1; allowed: mined, plain, sum"]),
        ("{smoothing: 0.1}", ["c:1:1: missing key 'key.name': a toy loss; allowed: mined, plain, sum"]),
        ("{type: plain}", ["c:1:2: unknown key 'key.type'; did you mean 'name'?"]),
        ("{name: mined}", ["c:1:1: missing key 'key.loss': a toy loss such as {name: mined, …}"]),
        ("{name: mined, los: {name: plain}}", ["c:1:15: unknown key 'key.los'; did you mean 'loss'?"]),
        ("{name: plain, self: 1}", ["c:1:15: unknown key 'key.self'; allowed: smoothing, weights"]),
        ("{name: plain, task: 1}", ["c:1:15: unknown key 'key.task'; allowed: smoothing, weights"]),
        (
            "{name: mined, loss: {name: plain, smoothing: x}}",
            ["c:1:46: key.loss.smoothing: expected a number, got 'x'"],
        ),
        (
            "{name: mined, loss: {name: plain}, warmup: {name: line, strat: 1}}",
            ["c:1:57: unknown key 'key.warmup.strat'; did you mean 'start'?"],
        ),
        (
            "{name: mined, loss: {name: plain}, warmup: {name: lin}}",
            ["c:1:51: key.warmup: unknown toy rise 'lin'; did you mean 'line'?"],
        ),
        (
            "{name: sum, terms: {a: {criterion: {name: plain}, weight: x}, b: {weight: 1}}}",
            [
                "c:1:59: key.terms.a.weight: expected a number or a toy rise such as {name: all, …}, got 'x'",
                "c:1:66: missing key 'key.terms.b.criterion': a toy loss such as {name: mined, …}",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_component_is_told_where_it_is(text: str, messages: list[str]) -> None:
    assert check(Annotated[object, LOSSES], text)[1] == messages


@dataclass(frozen=True)
class Span:
    first: int
    last: int = 10
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.last == 0:
            raise ValueError("an empty span")
        if self.first > self.last:
            raise ConflictError("last", f"{self.last} is before first {self.first}")


def test_a_section_is_an_instance_of_its_dataclass_or_says_what_does_not_go_together() -> None:
    assert check(Span, "{first: 3}") == (Span(3, 10), [])
    assert check(Span | None, "null") == (None, [])
    assert check(Span, "{first: 3, last: 2}")[1] == ["c:1:18: key.last: 2 is before first 3"]
    assert check(Span, "{first: 3, last: 0}")[1] == ["c:1:1: key: an empty span"]
    assert check(Span, "3")[1] == ["c:1:1: key: expected a mapping, got 3"]
    assert check(Span | None, "{frist: 3}")[1] == ["c:1:2: unknown key 'key.frist'; did you mean 'first'?"]


def test_a_default_that_is_no_plain_value_is_left_to_the_component() -> None:
    registry = Registry("odd")

    @registry.register("odd")
    def odd(
        *, shape: Callable[[float], float] = abs, size: tuple[int, int] = (1, 2), root: Path = Path("data")
    ) -> None: ...

    assert check(Annotated[object, registry], "{name: odd}")[0].params == {"size": (1, 2), "root": Path("data")}


@pytest.mark.parametrize("percentage", ["0%", "7%", "12.5%", "33.3333333333%", "100%", "0.001%"])
def test_a_share_is_written_as_the_percentage_that_it_was_read_from(percentage: str) -> None:
    share = Share.parse(percentage)
    assert str(share) == percentage
    assert plain_config(share) == percentage
    assert share == pytest.approx(float(percentage[:-1]) / 100)


def test_what_cannot_be_written_to_a_config_is_named() -> None:
    with pytest.raises(TypeError, match="cannot be written to a config"):
        to_yaml(Component(LOSSES, "plain", {"x": Thing()}, "key"))


def _checked(annotation: Any, text: str) -> tuple[Any, list[str]]:
    checker = Checker()
    value = checker.check(annotation, parse(f"a: {text}".encode(), "c.yaml").value["a"], "a")
    return value, [str(problem) for problem in checker.problems]


@pytest.mark.parametrize("annotation", [Path, Path | None, list[str] | Path])
def test_the_sign_for_the_home_folder_is_understood_in_paths(annotation: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert _checked(annotation, "~/data") == (Path("/home/me/data"), [])
    assert _checked(annotation, "data~") == (Path("data~"), [])
    assert _checked(str, "'~'") == ("~", [])


def test_names_and_values_that_changed_places_are_one_mistake():
    for annotation in (dict[int, str], dict[int, str] | None):
        _, problems = _checked(annotation, "{road: 0, car: 255}")
        assert problems == ["c.yaml:1:4: a: the number comes first; write {0: road, 255: car}"]
    assert _checked(dict[int, str], "{0: road, 255: car}") == ({0: "road", 255: "car"}, [])
