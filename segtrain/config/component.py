"""What a checked config consists of besides plain values: components, shares of the run, and the marks of a schema."""

from __future__ import annotations

import dataclasses
import functools
import typing
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from segtrain.registry import Registry
from segtrain.schedule import Duration


class Share(float):
    """A duration as a share of the run: `10%` is Share(0.1). Whoever knows the length of the run makes steps of it."""

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share written as a percentage; ValueError if it is none from 0% to 100%."""
        number, sign, rest = text.partition("%")
        if not sign or rest or not number.replace(".", "", 1).isdecimal() or not number.isascii():
            raise ValueError(f"{text!r} is not a percentage; expected one such as 10%")
        share = cls(Decimal(number).scaleb(-2))
        if share > 1:
            raise ValueError(f"{text!r} is more than the whole run; expected at most 100%")
        return share

    def __str__(self) -> str:
        return f"{Decimal(repr(float(self))).scaleb(2).normalize():f}%"

    def __repr__(self) -> str:
        return f"Share({float(self)!r})"


Length = Annotated[int | Share, Duration]  # a duration as a config holds it, before the length of the run is known


@dataclass(frozen=True)
class Component:
    """A registered factory and the values for its keyword-only parameters, checked against their annotations.

    `params` has every parameter but those whose default is no plain value. Nested components, also those inside lists,
    dicts and dataclasses, are Components too. `path` is where it stands in the config: "criterion.loss".
    """

    registry: Registry
    name: str
    params: dict[str, Any]
    path: str


class Inline:
    """Marks the component of a section that shares the section's mapping: {name: adamw, lr: 2e-3, clip_norm: 1.0}."""


class ConflictError(ValueError):
    """Raised by `__post_init__` of a section for values that do not go together; `path` (below it) is to blame."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without its `Annotated` extras, and the extras."""
    if typing.get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def joined(base: Any, extras: tuple[Any, ...]) -> Any:
    """The annotation that `split` takes apart."""
    for extra in extras:
        base = Annotated[base, extra]
    return base


def registry_of(annotation: Any) -> Registry | None:
    """The registry that the annotation marks, if any."""
    return next((extra for extra in split(annotation)[1] if isinstance(extra, Registry)), None)


@functools.cache
def section_annotations(section: type) -> dict[str, Any]:
    """The keys of a section (a dataclass) and their annotations."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def inline_field(section: type) -> str | None:
    """The field of a section whose component is written flat among the section's own keys."""
    return next((name for name, hint in section_annotations(section).items() if Inline in split(hint)[1]), None)
