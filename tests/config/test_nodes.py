from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import nodes
from segtrain.config.nodes import Mark, Node, parse, plain, scalar
from segtrain.errors import ConfigError


def read(text: str | bytes) -> Any:
    return plain(parse(text if isinstance(text, bytes) else text.encode(), "c.yaml"))


def refused(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return list(caught.value.messages)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2E3", 2000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.25", -0.25),
        ("007.5", "007.5"),
        ("12", 12),
        ("-12", -12),
        ("0", 0),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2001-12-14", "2001-12-14"),
        ("9" * 18, int("9" * 18)),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
        ("1e999", "1e999"),
        (".nan", ".nan"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("~", None),
        ("null", None),
        ("", None),
        ("<<", "<<"),
        ("=", "="),
        ("10%", "10%"),
        ("٣", "٣"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("''", ""),
    ],
)
def test_scalars_are_what_yaml_1_2_says_without_its_doubtful_spellings(text: str, value: object) -> None:
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_every_node_knows_where_it_stands() -> None:
    root = parse(b"a: 1\nb:\n  - x\n  - {c: 2}\n", "dir/c.yaml")
    assert isinstance(root.value, dict)
    items = root.value["b"].value
    assert isinstance(items, list)
    assert str(items[0].mark) == "dir/c.yaml:3:5"
    assert items[1].value == {"c": Node(2, Mark("dir/c.yaml", 4, 9), Mark("dir/c.yaml", 4, 6))}
    assert root.value["b"].key == Mark("dir/c.yaml", 2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [id]", "c.yaml:1:4: the tag 'tag:yaml.org,2002:python/object/apply:os"),
        ("a: !env HOME", "c.yaml:1:4: the tag '!env' is refused; a config holds plain values only"),
        ("a: ! x", "c.yaml:1:4: the tag '!' is refused"),
        ("a: !!str 5", "c.yaml:1:4: the tag 'tag:yaml.org,2002:str' is refused"),
        ("a: !!set {x}", "c.yaml:1:4: the tag 'tag:yaml.org,2002:set' is refused"),
        ("a: 1\nb: 2\na: 3", "c.yaml:3:1: the key 'a' stands here twice, first at c.yaml:1:1; remove one"),
        ("{1: a, '1': b}", "c.yaml:1:8: the key '1' stands here twice, first at c.yaml:1:2; remove one"),
        ("true: 1", "c.yaml:1:1: the key true is not a word; put it in quotes if it is meant as one"),
        ("? \n: 1", "c.yaml:1:2: the key null is not a word"),
        ("1.5: 1", "c.yaml:1:1: the key 1.5 is not a word"),
        ("[1]: 1", "c.yaml:1:1: a key must be a word, not a list, a mapping or an alias"),
        ("? {a: 1}\n: 1", "c.yaml:1:3: a key must be a word"),
        ("a: &x b\n*x : 1", "c.yaml:2:1: a key must be a word"),
        ("a: &x [*x]", "c.yaml:1:8: the alias '*x' stands for nothing complete before it"),
        ("a: &x {b: {c: *x}}", "c.yaml:1:15: the alias '*x' stands for nothing complete before it"),
        ("a: *nobody", "c.yaml:1:4: the alias '*nobody' stands for nothing complete before it"),
        ("a: &x 1\nb: [" + "*x, " * 21 + "]", "c.yaml:2:85: more than 20 aliases; write the values out"),
        ("a: " + "[" * 50 + "]" * 50, "c.yaml:1:53: nested more than 50 levels deep"),
        ("[" * 900, "c.yaml:1:51: nested more than 50 levels deep"),
        ("- a\n" * 20_001, "c.yaml:20000:3: more than 20000 values; is this the right file?"),
        ("#" * 1_000_001, "c.yaml: more than 1000000 bytes; a config is a short text, is this the right file?"),
        ("---\na: 1\n---\nb: 1", "c.yaml:3:1: a second document begins; a config is one document (remove '---')"),
        (b"a: 1\nb: \xff", "c.yaml: line 2 is not UTF-8 text (invalid start byte); save the file as UTF-8"),
        ("a: b: c", "c.yaml:1:5: not valid YAML: mapping values are not allowed in this context"),
        (
            "a: [x.y=[1,2], b=1]",
            "c.yaml:1:9: not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence); in a list",
        ),
        ("a:\n\tb: 1", "c.yaml:2:1: not valid YAML: found character that cannot start any token"),
        ("a: @b", "c.yaml:1:4: not valid YAML: found character that cannot start any token"),
        ("a: \a", "c.yaml: not valid YAML: unacceptable character #x0007"),
    ],
)
def test_what_no_config_needs_is_refused_with_its_place(text: str | bytes, message: str) -> None:
    (found,) = refused(text)
    assert found.startswith(message)


def test_a_depth_that_libyaml_refuses_by_itself_is_told_alike() -> None:
    (found,) = refused("[" * 100_000)
    assert found.endswith(": nested more than 50 levels deep")


def test_tabs_and_signs_that_need_quotes_come_with_a_remedy() -> None:
    assert refused("a:\n\tb: 1")[0].endswith("; indent with spaces, not tabs")
    assert refused("a: `b`")[0].endswith("; put the value in quotes")


def test_an_alias_bomb_is_counted_in_full() -> None:
    lines = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 3)}]" for i in range(1, 6)]
    (message,) = refused("\n".join(["a0: &a0 [" + "1, " * 200 + "]", *lines]))
    assert message.endswith("more than 20000 values; is this the right file?")


def test_a_few_aliases_repeat_a_value() -> None:
    assert read("a: &size [96, 128]\nb: {c: *size}") == {"a": [96, 128], "b": {"c": [96, 128]}}


def test_all_repeated_keys_and_tags_are_told_at_once_but_not_more_than_fifty() -> None:
    assert len(refused("a: 1\na: !x 2\na: 3")) == 3
    assert refused("a: 1\n" * 100)[-1] == "only the first 50 problems are shown"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert read(b"\xef\xbb\xbfa: 1") == {"a": 1}


def ends_in_a_tree_or_a_config_error(data: bytes) -> None:
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ConfigError):
            patch.setattr(nodes, "_LOADER", loader)
            parse(data, "c.yaml")


@pytest.mark.parametrize("text", [r'a: "\U00110000"', "a: [", "a: 'x", "%YAML 3.0\n---\na", "a: &x", "\t- a", "\0"])
def test_both_of_pyyamls_parsers_end_in_a_tree_or_a_config_error(text: str) -> None:
    ends_in_a_tree_or_a_config_error(text.encode())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_a_config_error(data: bytes) -> None:
    ends_in_a_tree_or_a_config_error(data)


@settings(deadline=None)
@given(st.text(alphabet="ab01:-[]{}&*!|>%@`'\",#? \n\t.", max_size=60))
def test_any_text_of_yamls_own_signs_is_a_tree_or_a_config_error(text: str) -> None:
    ends_in_a_tree_or_a_config_error(text.encode())


@settings(deadline=None)
@given(st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_python_writes_them_are_read_as_the_same_numbers(number: float) -> None:
    assert scalar(repr(number)) == number


@pytest.mark.parametrize("text", [r'root: "C:\Users\me"', r'root: "C:\data"'])
def test_a_path_of_windows_in_double_quotes_is_told_what_backslashes_do_there(text: str) -> None:
    with pytest.raises(ConfigError, match="a backslash begins an escape: write / or use single quotes"):
        parse(text.encode(), "c.yaml")
