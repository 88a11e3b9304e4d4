"""A tree of nodes + a schema (a frozen dataclass, and the signatures of the registered components) → an instance.

Annotations say what is allowed. This module knows what a validation library cannot: sections (dataclasses), components
(`Annotated[T, REGISTRY]`), durations, lists and mappings of these, and where each value was written. pydantic checks
all other values, without making numbers of text or booleans. Every problem is collected; nothing is built.

A marker with an attribute `written`, as in `Annotated[list[float] | None, FromLabels]`, says that a config may write
something else than the component sees (`FromLabels.written`, an annotation); whoever builds the component translates.
"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ValidationError

from segtrain.config.component import (
    Component,
    ConflictError,
    Share,
    inline_field,
    joined,
    registry_of,
    split,
)
from segtrain.config.messages import (
    broken_rule,
    describe,
    description,
    is_union,
    means_name,
    meant,
    suggestion,
    swapped,
    unexpected,
    with_article,
)
from segtrain.config.nodes import MAX_PROBLEMS, Mark, Node, plain, shown
from segtrain.config.signatures import OWN, REQUIRED, Key, adapter, component_keys, holds_structure, section_keys
from segtrain.errors import did_you_mean
from segtrain.registry import Registry
from segtrain.schedule import Duration

_LISTS = (list, tuple, Sequence)
_MAPPINGS = (dict, Mapping)


class Problem(NamedTuple):
    """One complaint. `other_kind`: the value is not of the kind meant at all, so another alternative may fit it."""

    mark: Mark
    path: str
    text: str
    other_kind: bool = False

    def __str__(self) -> str:
        return f"{self.mark}: {self.text}"


@dataclass
class Checker:
    """Checks nodes against annotations; `problems` grows instead of exceptions being raised."""

    homes: Mapping[str, str] = field(default_factory=dict)  # key → where it stands, for keys in the wrong section
    problems: list[Problem] = field(default_factory=list)

    def check(self, annotation: Any, node: Node, path: str) -> Any:
        """The value of the node as the annotation has it; meaningless if a problem was added."""
        if len(self.problems) > MAX_PROBLEMS:
            return None
        base, extras = split(annotation)
        registry = registry_of(annotation)
        written = next((extra.written for extra in extras if hasattr(extra, "written")), None)
        if registry is not None:
            return self._component(registry, node, path)
        if Duration in extras:
            return self._duration(annotation, node, path)
        if written is not None:
            return self.check(written, node, path)
        if is_union(base):
            return self._union(annotation, node, path)
        if dataclasses.is_dataclass(base):
            return self._section(typing.cast(type, base), node, path)
        if not holds_structure(annotation):
            return self._leaf(annotation, node, path)
        if typing.get_origin(base) in _LISTS and isinstance(node.value, list):
            return self._items(annotation, node, node.value, path)
        if typing.get_origin(base) in _MAPPINGS and isinstance(node.value, dict):
            item = typing.get_args(base)[1]
            return {key: self.check(item, child, _join(path, key)) for key, child in node.value.items()}
        return self._unexpected(annotation, node, path)

    def _leaf(self, annotation: Any, node: Node, path: str) -> Any:
        try:
            # read as JSON, lists may become tuples and text paths, but strictly no text or boolean becomes a number
            value = adapter(annotation).validate_json(json.dumps(plain(node)))
            return Path(os.path.expanduser(value)) if isinstance(value, Path) else value
        except ValidationError as caught:
            if turned := swapped(annotation, plain(node)):
                return self._problem(node.mark, path, f"{path}: {turned}")
            for error in caught.errors(include_url=False):
                place, where = _descend(node, path, error["loc"])
                if error["loc"][-1:] == ("[key]",):
                    place = Node(error["loc"][-2], place.key or place.mark)
                text, other_kind = broken_rule(error, annotation, place.value)
                self._problem(place.mark, where, f"{where}: {text}", other_kind)
            return None

    def _items(self, annotation: Any, node: Node, items: list[Node], path: str) -> Any:
        base = split(annotation)[0]
        kinds, is_tuple = typing.get_args(base), typing.get_origin(base) is tuple
        if not is_tuple or Ellipsis in kinds:
            kinds = kinds[:1] * len(items)
        elif len(kinds) != len(items):
            return self._unexpected(annotation, node, path)
        values = [
            self.check(kind, item, _join(path, i)) for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
        ]
        return tuple(values) if is_tuple else values

    def _duration(self, annotation: Any, node: Node, path: str) -> Any:
        if isinstance(node.value, str) and node.value.endswith("%"):
            try:
                return Share.parse(node.value)
            except ValueError as error:
                return self._problem(node.mark, path, f"{path}: {error}")
        if not isinstance(node.value, int) or isinstance(node.value, bool):
            return self._unexpected(annotation, node, path)
        limits = tuple(extra for extra in split(annotation)[1] if extra is not Duration)
        return self._leaf(joined(int, limits), node, path)

    def _union(self, annotation: Any, node: Node, path: str) -> Any:
        base, extras = split(annotation)
        closest: list[Problem] = []
        for option in typing.get_args(base):
            trial = Checker(self.homes)
            bounded = option is not type(None) and typing.get_origin(option) is not Literal
            value = trial.check(joined(option, extras) if bounded else option, node, path)
            if not trial.problems:
                return value
            if not any(problem.other_kind and problem.path == path for problem in trial.problems):
                closest = closest or trial.problems  # the value is of this kind, but there is something wrong with it
        if closest:
            self.problems.extend(closest)
            return None
        return self._unexpected(annotation, node, path)

    def _component(self, registry: Registry, node: Node, path: str) -> Component | None:
        known = len(self.problems)
        name = self._name(registry, node, path)
        if name is None or not isinstance(node.value, dict):
            return None
        entries = {key: child for key, child in node.value.items() if key != "name"}
        params = self._keys(component_keys(registry[name]), entries, node, path)
        return Component(registry, name, params, path) if len(self.problems) == known else None

    def _section(self, section: type, node: Node, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self._unexpected(section, node, path)
        known, own, inline = len(self.problems), section_keys(section), inline_field(section)
        if inline is None:
            values = self._keys(own, node.value, node, path)
        else:
            registry = registry_of(own.pop(inline).annotation)
            assert registry is not None
            name = self._name(registry, node, path)
            of_component = component_keys(registry[name]) if name else {}
            # of an unknown component nothing is known, so only the section's own keys can be checked
            entries = {k: v for k, v in node.value.items() if k != "name" and (name or k in own)}
            found = self._keys({**of_component, **own}, entries, node, path)
            values = {key: value for key, value in found.items() if key in own}
            params = {key: value for key, value in found.items() if key not in own}
            if name:
                values[inline] = Component(registry, name, params, path)
        if len(self.problems) > known:
            return None
        try:
            return section(**values)
        except ValueError as error:
            below = error.path.split(".") if isinstance(error, ConflictError) else []
            place, where = _descend(node, path, below)
            return self._problem(place.mark, where, f"{where}: {error}")

    def _name(self, registry: Registry, node: Node, path: str) -> str | None:
        """The `name` that a component's mapping holds, if it is a registered one."""
        if not isinstance(node.value, dict):
            self._unexpected(Annotated[Any, registry], node, path)
            return None
        name = node.value.get("name")
        slip = next(filter(means_name, node.value), None) if name is None else None
        if slip is not None:
            mark = node.value[slip].key or node.mark
            self._problem(mark, path, f"unknown key {shown(_join(path, slip), 120)}; did you mean 'name'?")
        elif name is None:
            text = f"missing key '{_join(path, 'name')}': {with_article(registry.kind)}{did_you_mean('', registry)}"
            self._problem(node.mark, path, text)
        elif not isinstance(name.value, str) or name.value not in registry:
            near = did_you_mean(name.value[:80] if isinstance(name.value, str) else "", registry)
            near = near if any(registry) else "; there is none yet: --import what registers it"
            self._problem(name.mark, path, f"{path}: unknown {registry.kind} {shown(name)}{near}")
        else:
            return name.value
        return None

    def _keys(self, wanted: Mapping[str, Key], entries: Mapping[str, Node], node: Node, path: str) -> dict[str, Any]:
        """The values of a mapping's keys, defaults included; unknown and missing keys are problems."""
        values, hinted = {}, set()
        for key, child in entries.items():
            if key in wanted:
                values[key] = self.check(wanted[key].annotation, child, _join(path, key))
            elif len(self.problems) <= MAX_PROBLEMS:
                found = meant(key, path, wanted, self.homes)
                hinted.add(found)
                text = f"unknown key {shown(_join(path, key), 120)}{suggestion(key, found, wanted)}"
                self._problem(child.key or child.mark, _join(path, key), text)
        for key, (annotation, default) in wanted.items():
            if key in entries:
                continue
            if default is not REQUIRED:
                values[key] = default
            elif key not in hinted:  # else the misspelt key is the whole story
                text = f"missing key '{_join(path, key)}': {describe(annotation)}{description(annotation)}"
                self._problem(node.mark, _join(path, key), text)
        return {key: value for key, value in values.items() if value is not OWN}

    def _unexpected(self, annotation: Any, node: Node, path: str) -> None:
        self._problem(node.mark, path, f"{path}: {unexpected(annotation, node.value)}", other_kind=True)

    def _problem(self, mark: Mark, path: str, text: str, other_kind: bool = False) -> None:
        problem = Problem(mark, path, text.removeprefix(": "), other_kind)
        if problem not in self.problems:  # pydantic says once for each missing item that a list is too short
            self.problems.append(problem)


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _descend(node: Node, path: str, keys: Sequence[str | int]) -> tuple[Node, str]:
    """The node below `node` that `keys` lead to (as far as they do), and its path."""
    for key in keys:
        value = node.value
        if isinstance(value, list) and str(key).isdecimal() and int(key) < len(value):
            node, path = value[int(key)], _join(path, key)
        elif isinstance(value, dict) and key in value:
            node, path = value[str(key)], _join(path, key)
    return node, path
