"""A checked config → YAML that gives an equal config when it is loaded."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import yaml

from segtrain.config.component import Component, Share, inline_field, section_annotations
from segtrain.config.nodes import scalar


def plain_config(value: Any) -> Any:
    """Sections and components as mappings, shares as percentages, tuples as lists."""
    if isinstance(value, Component):
        return {"name": value.name, **{key: plain_config(param) for key, param in value.params.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        inline = inline_field(type(value))
        first = plain_config(getattr(value, inline)) if inline else {}
        own = [name for name in section_annotations(type(value)) if name != inline]
        return {**first, **{name: plain_config(getattr(value, name)) for name in own}}
    if isinstance(value, dict):
        return {key: plain_config(child) for key, child in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_config(child) for child in value]
    if isinstance(value, (Share, Path)):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be written to a config; a component's keys must be plain values")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the reader would take for something else, and repeats instead of referring."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.Node:
        plain = "'" if not isinstance(scalar(text), str) else None
        style = plain if text.isprintable() else '"'  # PyYAML quotes some line separators without escaping them
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def one_line(value: Any) -> str:
    """A plain value as it is written within a line."""
    text: str = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.strip()[1:-1]


def to_yaml(config: Any) -> str:
    """The config's values, defaults included, in the order of the schema."""
    tree = plain_config(config)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
