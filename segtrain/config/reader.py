"""A config file and overrides → a checked config, and where each of its values came from."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from segtrain.config.check import Checker
from segtrain.config.component import inline_field, section_annotations, split
from segtrain.config.nodes import MAX_BYTES, Mark, Node, capped, parse, shown
from segtrain.config.overrides import merge, override
from segtrain.config.schema import Config
from segtrain.config.writer import plain_config, to_yaml
from segtrain.errors import ConfigError, did_you_mean

S = TypeVar("S")


@dataclass(frozen=True)
class Source:
    """Where a config came from."""

    path: Path
    overrides: tuple[str, ...]
    config: Any
    _root: Node

    def where(self, path: str) -> str:
        """The place of a value, "configs/ce.yaml:4:3" or an override; of a default, the place of what it belongs to."""
        return str(self._nearest(path)[0].mark)

    def origin(self, path: str) -> Mark | None:
        """The place of a value, None for one that nothing sets."""
        node, given = self._nearest(path)
        return node.mark if given else None

    def provenance(self) -> dict[str, str]:
        """Every value's path and its place, "default" for those that nothing sets."""
        return {path: str(self.origin(path) or "default") for path in _leaves(plain_config(self.config), "")}

    def to_yaml(self) -> str:
        """The config with all defaults: a text that gives an equal config when it is loaded."""
        used = "".join(f", {text!r}" for text in self.overrides)
        return f"# resolved from {str(self.path)!r}{used}\n{to_yaml(self.config)}"

    def _nearest(self, path: str) -> tuple[Node, bool]:
        node = self._root
        for key in path.split("."):
            value = node.value
            if isinstance(value, dict) and key in value:
                node = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                node = value[int(key)]
            else:
                return node, False
        return node, True


@overload
def load(path: str | Path, overrides: Sequence[str] = ...) -> tuple[Config, Source]: ...
@overload
def load(path: str | Path, overrides: Sequence[str] = ..., *, schema: type[S]) -> tuple[S, Source]: ...
def load(path: str | Path, overrides: Sequence[str] = (), *, schema: type[Any] = Config) -> tuple[Any, Source]:
    """The config that the file and the overrides make; ConfigError with every problem that was found.

    The registries must hold the components that the config names.
    """
    return _checked(read(Path(path)), Path(path), overrides, schema)


def restore(tree: Any, path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Source]:
    """The config that `plain_config` made `tree` of, as a checkpoint at `path` holds it; ConfigError if it is none.

    What else the checkpoint tells of its run is left out, and what did not exist when it was written has its default.
    """
    sections = {field.name: tree[field.name] for field in dataclasses.fields(Config) if field.name in tree}
    return _checked(parse(to_yaml(sections).encode(), str(path)), path, overrides, Config)


def _checked(root: Node, path: Path, overrides: Sequence[str], schema: type[Any]) -> tuple[Any, Source]:
    problems: list[str] = []
    for text in overrides:
        try:
            root = override(root, text)
        except ConfigError as error:
            problems += error.messages
    checker = Checker(_homes(schema))
    config = checker.check(schema, root, "")
    problems += map(str, checker.problems)
    if problems:
        raise ConfigError(*capped(problems))
    return config, Source(path, tuple(overrides), config, root)


def read(path: Path, asked: str = "", children: tuple[str, ...] = ()) -> Node:
    """The tree of a file, merged over the file that its `_base_` names.

    `asked` is where the file is named and `children` are the files based on it, for the errors.
    """
    root = parse(_bytes(path, asked), str(path))
    seen = (*children, os.path.realpath(path))
    if seen[-1] in children:
        raise ConfigError(f"{asked}{shown(str(path), 200)} is based on the file that names it; remove one '_base_'")
    if not isinstance(root.value, dict):
        raise ConfigError(f"{root.mark}: expected a mapping of sections (data, model, …), got {shown(root)}")
    base = root.value.get("_base_")
    if base is None:
        return root
    if not isinstance(base.value, str):
        raise ConfigError(
            f"{base.mark}: _base_: expected the path of one file, relative to this one, got {shown(base)}"
        )
    own = {key: node for key, node in root.value.items() if key != "_base_"}
    parent = read(path.parent / base.value, f"{base.mark}: _base_: ", seen)
    return merge(parent, dataclasses.replace(root, value=own))


def _bytes(path: Path, asked: str) -> bytes:
    where = f"{asked}{shown(str(path), 200)}"
    try:
        if path.is_file():  # not a device or a pipe, which might never end
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        what = "is not a file" if path.exists() else "does not exist"
        beside = path.parent.glob("*.yaml") if path.parent.is_dir() else ()
        names = [file.name for file in beside if not file.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from error
    raise ConfigError(f"{where} {what}{did_you_mean(path.name, names) if names else ''}")


def _homes(schema: type) -> dict[str, str]:
    """For each key of each section of the schema, where it stands."""
    homes: dict[str, str] = {}
    for path in _section_keys(schema, ""):
        homes.setdefault(path.rpartition(".")[2], path)
    return homes


def _section_keys(section: type, path: str) -> Iterator[str]:
    for name, annotation in section_annotations(section).items():
        if name == inline_field(section):
            continue
        yield f"{path}{name}"
        base = split(annotation)[0]
        for option in (base, *typing.get_args(base)):
            if dataclasses.is_dataclass(option) and isinstance(option, type):
                yield from _section_keys(option, f"{path}{name}.")


def _leaves(value: Any, path: str) -> Iterator[str]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _leaves(child, f"{path}.{key}" if path else str(key))
    if not isinstance(value, (dict, list)) or not value:
        yield path
