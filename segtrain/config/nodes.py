"""YAML text → a tree of plain nodes that know where they were written.

A safe subset, read from the parser's events, so nothing is ever constructed: no tags, few aliases, limited depth and
size, each key once, keys that are words or whole numbers. Scalars follow YAML 1.2 without its doubtful spellings:
`1e-3` is a number; `on`, `yes`, `010`, `1_000`, `1:30` are text, and so refused where a number or boolean is meant.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from segtrain.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # with aliases counted as often as they are used
MAX_DEPTH = 50
MAX_ALIASES = 20
MAX_PROBLEMS = 50

Scalar = bool | int | float | str | None

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same events, ten times sooner
_CONSTANTS: dict[str, Scalar] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys([".inf", "+.inf"], math.inf),
    "-.inf": -math.inf,
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*|(?=[eE]))|\.[0-9]+)([eE][-+]?[0-9]+)?")


class Mark(NamedTuple):
    """Where something was written: a file with line and column (from 1), or an override."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Node:
    """A value of the tree, where it was written, and where the key is that it belongs to."""

    value: Scalar | list[Node] | dict[str, Node]
    mark: Mark
    key: Mark | None = None


def scalar(text: str) -> Scalar:
    """The value of unquoted text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def plain(node: Node) -> Any:
    """The node's value without marks."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def shown(value: Any, limit: int = 60) -> str:
    """A value (with or without its node) as a message shows it, never longer than a line can bear."""
    if isinstance(value, Node):
        value = value.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def capped(problems: list[str]) -> list[str]:
    """As many problems as somebody may want to read."""
    rest = [f"only the first {MAX_PROBLEMS} problems are shown"] if len(problems) > MAX_PROBLEMS else []
    return problems[:MAX_PROBLEMS] + rest


def parse(data: bytes, source: str, *, lines: bool = True) -> Node:
    """The tree of one YAML document; `lines=False` marks every node with the source alone. ConfigError if refused."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{source}: more than {MAX_BYTES} bytes; a config is a short text, is this the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}: line {line} is not UTF-8 text ({error.reason}); save the file as UTF-8") from None
    builder = _Builder(source, lines)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.add(event)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_error(error, text, source, lines)) from None
    except ValueError:  # PyYAML without libyaml lets chr() fail on an escape beyond Unicode
        raise ConfigError(f"{source}: an escape in a quoted text is not a character") from None
    if builder.problems:
        raise ConfigError(*capped(builder.problems))
    return builder.root or Node(None, Mark(source, 1, 1) if lines else Mark(source))


def _syntax_error(error: yaml.YAMLError, text: str, source: str, lines: bool) -> str:
    place = getattr(error, "problem_mark", None)
    mark = Mark(source, place.line + 1, place.column + 1) if place and lines else Mark(source)
    what = getattr(error, "problem", None) or str(error).partition("\n")[0]
    context = getattr(error, "context", None)
    remedy = ""
    if "nesting depth" in what:  # libyaml has a limit of its own, and reads ahead
        return f"{mark}: nested more than {MAX_DEPTH} levels deep"
    if what.startswith(("did not find expected hexdecimal", "found unknown escape")):
        remedy = "; between double quotes a backslash begins an escape: write / or use single quotes"
    if what.startswith("did not find expected ','") and "=[" in text:
        remedy = "; in a list of overrides, put one that holds brackets in quotes: 'data.train.size=[64,64]'"
    if what.startswith("found character") and place:
        remedy = "; indent with spaces, not tabs" if text[place.index] == "\t" else "; put the value in quotes"
    return f"{mark}: not valid YAML: {what}" + (f" ({context})" if context else "") + remedy


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    value: list[Node] | dict[str, Node]
    mark: Mark
    key: Mark | None
    anchor: str | None
    before: int  # nodes counted when it began
    pending: tuple[str, Mark] | None = None  # the key that waits for its value


@dataclass
class _Builder:
    source: str
    lines: bool
    root: Node | None = None
    problems: list[str] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _anchors: dict[str, tuple[Node, int]] = field(default_factory=dict)
    _nodes: int = 0
    _aliases: int = 0

    def add(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise ConfigError(f"{self._mark(event)}: a second document begins; a config is one document (remove '---')")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            self._problem(event, f"the tag '{event.tag}' is refused; a config holds plain values only")
        if isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._open.pop()
            self._place(Node(done.value, done.mark, done.key), done.anchor, self._nodes - done.before)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        value = scalar(event.value) if event.implicit[0] else event.value
        parent = self._open[-1] if self._open else None
        if parent is None or isinstance(parent.value, list) or parent.pending:
            self._count(event, 1)
            self._place(Node(value, self._mark(event), self._key()), event.anchor, 1)
            return
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            self._problem(event, f"the key {shown(value)} is not a word; put it in quotes if it is meant as one")
        parent.pending = (str(value), self._mark(event))

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        self._refuse_as_key(event)
        self._count(event, 1)
        if len(self._open) == MAX_DEPTH:
            raise ConfigError(f"{self._mark(event)}: nested more than {MAX_DEPTH} levels deep")
        value: list[Node] | dict[str, Node] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self._open.append(_Open(value, self._mark(event), self._key(), event.anchor, self._nodes - 1))

    def _alias(self, event: yaml.AliasEvent) -> None:
        self._refuse_as_key(event)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise ConfigError(f"{self._mark(event)}: more than {MAX_ALIASES} aliases; write the values out")
        if event.anchor not in self._anchors:  # an anchor is known when its value is complete, so nothing holds itself
            raise ConfigError(f"{self._mark(event)}: the alias '*{event.anchor}' stands for nothing complete before it")
        node, size = self._anchors[event.anchor]
        self._count(event, size)
        self._place(dataclasses.replace(node, key=self._key()), None, size)

    def _place(self, node: Node, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif parent.pending:
            key, mark = parent.pending
            if key in parent.value:
                first = parent.value[key].key
                self.problems.append(f"{mark}: the key {shown(key)} stands here twice, first at {first}; remove one")
            parent.value[key] = node
            parent.pending = None

    def _key(self) -> Mark | None:
        pending = self._open[-1].pending if self._open else None
        return pending[1] if pending else None

    def _refuse_as_key(self, event: yaml.Event) -> None:
        if self._open and isinstance(self._open[-1].value, dict) and not self._open[-1].pending:
            raise ConfigError(f"{self._mark(event)}: a key must be a word, not a list, a mapping or an alias")

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise ConfigError(f"{self._mark(event)}: more than {MAX_NODES} values; is this the right file?")

    def _problem(self, event: yaml.Event, text: str) -> None:
        self.problems.append(f"{self._mark(event)}: {text}")

    def _mark(self, event: yaml.Event) -> Mark:
        if not self.lines or event.start_mark is None:
            return Mark(self.source)
        return Mark(self.source, event.start_mark.line + 1, event.start_mark.column + 1)
