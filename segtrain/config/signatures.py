"""The keys of sections and components: names, annotations and defaults, read once from dataclasses and signatures."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from segtrain.config.component import registry_of, section_annotations, split
from segtrain.registry import parameters
from segtrain.schedule import Duration

REQUIRED = inspect.Parameter.empty
OWN: Any = object()  # the default of a component's parameter that only the component itself can make


class Key(NamedTuple):
    """What a mapping may hold under one key."""

    annotation: Any
    default: Any = REQUIRED


def section_keys(section: type) -> dict[str, Key]:
    """The keys of a section with their defaults."""
    defaults = {f.name: f for f in dataclasses.fields(section)}
    return {
        name: Key(annotation, _field_default(defaults[name]))
        for name, annotation in section_annotations(section).items()
    }


@functools.cache
def component_keys(factory: Callable[..., Any]) -> dict[str, Key]:
    """The keys of a component with their defaults, which are read like values from a file where that is possible."""
    return {
        name: Key(parameter.annotation, _component_default(parameter))
        for name, parameter in parameters(factory).items()
    }


def _component_default(parameter: inspect.Parameter) -> Any:
    if parameter.default is None or parameter.default is REQUIRED:
        return parameter.default
    try:
        return adapter(parameter.annotation).validate_json(json.dumps(parameter.default, default=os.fspath))
    except (TypeError, ValidationError):
        return OWN


def _field_default(of: dataclasses.Field[Any]) -> Any:
    if of.default_factory is not dataclasses.MISSING:
        return of.default_factory()
    return REQUIRED if of.default is dataclasses.MISSING else of.default


@functools.cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """pydantic's check of an annotation, without making numbers of text or booleans."""
    return TypeAdapter(annotation, config=ConfigDict(strict=True, arbitrary_types_allowed=True))


@functools.cache
def holds_structure(annotation: Any) -> bool:
    """Whether there is a section, a component or a duration anywhere inside, which pydantic must not be asked about."""
    base, extras = split(annotation)
    if registry_of(annotation) is not None or Duration in extras or any(hasattr(extra, "written") for extra in extras):
        return True
    inner = [part for part in typing.get_args(base) if not isinstance(part, list)]  # Callable[[…], …] holds a list
    return dataclasses.is_dataclass(base) or any(map(holds_structure, inner))
