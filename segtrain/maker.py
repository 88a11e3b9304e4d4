"""Calling the factories that a configuration names, with the values that it gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from segtrain.config import Component, Share, Source
from segtrain.data.transforms import Transform
from segtrain.errors import ConfigError, UserError
from segtrain.losses.weights import FromLabels, from_labels
from segtrain.registry import SCHEDULES, TRANSFORMS, Registry, parameters


class Maker:
    """Calls factories: nested components first, durations made steps, errors given their place in the configuration."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.run = 0
        self.context: dict[Registry, tuple[Any, ...]] = {}  # what each registry's factories take by position
        self.label_counts: Callable[[], list[list[int]]] = list  # of the training labels, when they are known

    def run_for(self, steps: int) -> None:
        """The length of the run, once it is known; durations need it."""
        self.run = steps
        self.context[SCHEDULES] = (steps,)

    def make(self, component: Component) -> Any:
        """The object that `component` names."""
        keys = {key: self._value(value) for key, value in component.params.items()}
        for key, parameter in parameters(component.registry[component.name]).items():
            if isinstance(keys.get(key), str) and FromLabels in get_args(parameter.annotation):
                keys[key] = from_labels(keys[key], *self.label_counts())
        with self.at(component.path, keys):
            return component.registry[component.name](*self.context.get(component.registry, ()), **keys)

    def transforms(self, components: Sequence[Component], ignore_index: int) -> list[Transform]:
        """The transforms of a configuration, which fill masks with `ignore_index`."""
        self.context[TRANSFORMS] = (ignore_index,)
        return [self.make(component) for component in components]

    def steps(self, duration: int | Share) -> int:
        """A duration in optimizer steps; a share of the run is at least one step."""
        return max(1, round(duration * self.run)) if isinstance(duration, Share) and duration > 0 else int(duration)

    @contextmanager
    def at(self, path: str, keys: Collection[str] = ()) -> Iterator[None]:
        """Errors inside are reported at `path` of the configuration, or at that of its `keys` which they begin with."""
        try:
            yield
        except ConfigError:
            raise
        except UserError as error:
            raise type(error)(*(f"{self.source.where(path)}: {path}: {text}" for text in error.messages)) from error
        except ValueError as error:
            first = str(error).split(" ")[0]
            place = f"{path}.{first}" if first in keys else path
            raise ConfigError(f"{self.source.where(place)}: {path}: {error}") from error

    def _value(self, value: Any) -> Any:
        if isinstance(value, Component):
            return self.make(value)
        if isinstance(value, Share):
            return self.steps(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._value(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self._value(item) for key, item in value.items()}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: self._value(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value
