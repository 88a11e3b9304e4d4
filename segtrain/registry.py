"""The registries: the only extension points.

A component is a factory (a function or a class). Its keyword-only parameters are the keys that a config may set, with
their types, defaults and docstring; its positional parameters are what the builder supplies (the task, the parameters
to optimise, the length of the run). No component ever takes a configuration object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Registry:
    """Names → factories of one kind. `Annotated[T, REGISTRY]` on a parameter says: a component from this registry."""

    def __init__(self, kind: str, *, includes: tuple[Registry, ...] = ()) -> None:
        self.kind = kind
        self._includes = includes
        self._factories: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Decorator: makes the factory known as `name`. A name is given once; ValueError for a second time."""

        def add(factory: Factory) -> Factory:
            if name in self:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self[name]!r} and {factory!r}")
            self._factories[name] = factory
            return factory

        return add

    def __contains__(self, name: object) -> bool:
        return name in self._factories or any(name in other for other in self._includes)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name in self._factories:
            return self._factories[name]
        for other in self._includes:
            if name in other:
                return other[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """All names, sorted."""
        return iter(sorted({*self._factories, *(name for other in self._includes for name in other)}))

    def __repr__(self) -> str:
        return f"Registry({self.kind!r})"


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keys that a config may set on `factory`, annotations resolved with their `Annotated` extras."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    # not typing.get_type_hints, which before Python 3.11 makes optional whatever is None by default
    hints = inspect.get_annotations(function, eval_str=True)
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


class Names:
    """Marks a text that has to be one of the names that `all()` gives, too many to be alternatives of a type."""

    def __init__(self, all_: Callable[[], Iterable[str]]) -> None:
        self.all = all_


MODELS = Registry("model")
DATASETS = Registry("dataset")
TRANSFORMS = Registry("transform")
OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule")
OBSERVERS = Registry("observer")  # only of users' own: what comes along is always there
PIXEL_LOSSES = Registry("pixel loss")
REGION_LOSSES = Registry("region loss")
CRITERIA = Registry("criterion", includes=(PIXEL_LOSSES, REGION_LOSSES))
