from __future__ import annotations

from typing import Any

import pytest

from segtrain.config.nodes import Node, parse, plain
from segtrain.config.overrides import merge, override
from segtrain.errors import ConfigError

TREE = "a: {b: 1, c: [1, {d: 2}], e: null}\n"


def tree(text: str = TREE) -> Node:
    return parse(text.encode(), "c.yaml")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        override(tree(), text)
    (message,) = caught.value.messages
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1e-3", {"b": 0.001, "c": [1, {"d": 2}], "e": None}),
        ("a.b=off", {"b": "off", "c": [1, {"d": 2}], "e": None}),
        ("a.b=x=y", {"b": "x=y", "c": [1, {"d": 2}], "e": None}),
        ("a.b=null", {"b": None, "c": [1, {"d": 2}], "e": None}),
        ("a.c=[]", {"b": 1, "c": [], "e": None}),
        ("a.c.1.d=[7]", {"b": 1, "c": [1, {"d": [7]}], "e": None}),
        ("a.c.0={name: x}", {"b": 1, "c": [{"name": "x"}, {"d": 2}], "e": None}),
        ("a.e.f.g='5'", {"b": 1, "c": [1, {"d": 2}], "e": {"f": {"g": "5"}}}),
        ("a={z: 1}", {"z": 1}),
    ],
)
def test_an_override_sets_one_value_written_as_yaml(text: str, expected: Any) -> None:
    before = tree()
    assert plain(override(before, text)) == {"a": expected}
    assert before == tree()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b", "override 'a.b': not of the form key.sub=value; write for instance optimizer.lr=1e-3"),
        ("=1", "override '=1': not of the form key.sub=value"),
        ("a..b=1", "override 'a..b=1': not of the form key.sub=value"),
        ("a.b =1", "override 'a.b =1': not of the form key.sub=value"),
        ("a.b=", "override 'a.b=': no value; write a.b=null to switch it off"),
        ("a.b=[1", "override 'a.b=[1': not valid YAML: did not find expected ',' or ']'"),
        ("a.b=!x 1", "override 'a.b=!x 1': the tag '!x' is refused"),
        ("a.b=\udc80", r"override 'a.b=\udc80': line 1 is not UTF-8 text"),
        (
            "a.b.c=1",
            "override 'a.b.c=1': a.b is 1 (c.yaml:1:8), not a mapping, so it has no key 'c'; set it whole, a.b={",
        ),
        ("a.c.2=1", "override 'a.c.2=1': a.c is a list; allowed after 'a.c.': a number from 0 to 1; got '2'"),
        ("a.c.-1=1", "override 'a.c.-1=1': a.c is a list; allowed after 'a.c.': a number from 0 to 1; got '-1'"),
        ("a.c.²=1", "override 'a.c.²=1': a.c is a list"),
        (
            ".".join("a" * 51) + "=1",
            "override 'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.",
        ),
    ],
)
def test_a_wrong_override_is_named(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_values_of_an_override_are_placed_at_the_override() -> None:
    changed = override(tree(), "a.b={x: 1}")
    assert isinstance(changed.value, dict)
    assert isinstance(changed.value["a"].value, dict)
    node = changed.value["a"].value["b"]
    assert str(node.mark) == str(node.key) == "override 'a.b={x: 1}'"


@pytest.mark.parametrize(
    ("base", "child", "merged"),
    [
        ("{a: 1, b: 2}", "{b: 3, c: 4}", {"a": 1, "b": 3, "c": 4}),
        ("{s: {a: 1, b: 2}}", "{s: {b: 3}}", {"s": {"a": 1, "b": 3}}),
        ("{s: {name: x, a: 1}}", "{s: {name: x, b: 3}}", {"s": {"name": "x", "a": 1, "b": 3}}),
        ("{s: {name: x, a: 1}}", "{s: {name: y, b: 3}}", {"s": {"name": "y", "b": 3}}),
        ("{s: [1, 2]}", "{s: [3]}", {"s": [3]}),
        ("{s: {a: 1}}", "{s: null}", {"s": None}),
        ("{s: 5}", "{s: {a: 1}}", {"s": {"a": 1}}),
    ],
)
def test_a_child_overrides_its_base_key_by_key_but_another_component_replaces_it(
    base: str, child: str, merged: Any
) -> None:
    assert plain(merge(tree(base), tree(child))) == merged
