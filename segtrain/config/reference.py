"""What a configuration may hold, read from the schema and from the signatures of the registered components."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from segtrain.config.component import inline_field, registry_of, section_annotations, split
from segtrain.config.messages import describe, is_union
from segtrain.config.schema import Config
from segtrain.config.signatures import OWN, REQUIRED, Key, component_keys, section_keys
from segtrain.config.writer import one_line, plain_config
from segtrain.errors import ConfigError, did_you_mean
from segtrain.registry import (
    CRITERIA,
    DATASETS,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TRANSFORMS,
    Names,
    Registry,
)

_REGISTRIES = {  # where components of a kind stand, and whose the ones are that are not described here
    "data.train and data.val": (DATASETS, ""),
    "data.augment and data.val_prepare": (TRANSFORMS, "Albumentations"),
    "model": (MODELS, ""),
    "criterion": (CRITERIA, ""),
    "optimizer": (OPTIMIZERS, "torch.optim and timm"),
    "schedule": (SCHEDULES, ""),
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

Factory = Callable[..., Any]


class Entry(NamedTuple):
    """One key: what it may hold, what it holds if nothing is said, what it is for."""

    key: str
    allowed: str
    default: str
    purpose: str


class Place(NamedTuple):
    """What stands at a path: keys of its own, names of components to choose from, or names of a library."""

    path: str
    doc: str
    entries: list[Entry]
    components: dict[str, str]  # name → what it is
    names: list[str]


def look_up(path: str) -> Place:
    """What may stand at `path` ("train", "criterion.bootstrapped_ce.warmup"). Raises ConfigError for no such place."""
    annotation: Any = Config
    factory: Factory | None = None
    key: Key | None = None
    for depth, word in enumerate(words := path.split(".") if path else []):
        known: dict[str, Key | Factory] = dict(component_keys(factory)) if factory else {}
        for target in targets(annotation):
            known |= _below(target)
        if word not in known:
            here = ".".join(words[:depth])
            if not known:
                raise ConfigError(f"keys {path}: {here!r} is a value and holds no keys")
            where = f"{here!r} holds no" if here else "there is no section or"
            inside = [name for name, one in known.items() if not isinstance(one, Key) and word in component_keys(one)]
            hint = f"; it is a key of {here}.{inside[0]}" if inside else did_you_mean(word, known, limit=20)
            raise ConfigError(f"keys {path}: {where} key {word!r}{hint}")
        found = known[word]
        key = found if isinstance(found, Key) else None
        factory = None if isinstance(found, Key) else found
        annotation = key.annotation if key else None
    return _place(path, annotation, factory, key)


def targets(annotation: Any) -> Iterator[type | Registry]:
    """The sections and registries that an annotation leads to, through alternatives, lists and mappings."""
    base, extras = split(annotation)
    written = next((extra.written for extra in extras if hasattr(extra, "written")), None)
    registry = registry_of(annotation)
    if registry is not None:
        yield registry
    elif dataclasses.is_dataclass(base):
        yield typing.cast(type, base)
    else:
        for part in typing.get_args(written or base):
            yield from targets(part)


def entries(keys: dict[str, Key]) -> list[Entry]:
    """A line for each key."""
    return [Entry(name, allowed(key.annotation), default(key), purpose(key.annotation)) for name, key in keys.items()]


def allowed(annotation: Any) -> str:
    """What a key may hold, in words, with its bounds."""
    written = next((extra.written for extra in split(annotation)[1] if hasattr(extra, "written")), annotation)
    bounds = ", ".join(dict.fromkeys(_bounds(written)))
    return describe(written) + (f"; {bounds}" if bounds else "")


def default(key: Key) -> str:
    """What a key holds if nothing is said, as it would be written."""
    if key.default is REQUIRED:
        return "required"
    if key.default is OWN:
        return "its own"
    if dataclasses.is_dataclass(key.default) and not isinstance(key.default, type):
        return "its defaults"
    return one_line(plain_config(key.default))


def purpose(annotation: Any) -> str:
    """The parameter's own description, if it has one."""
    return next((e.description for e in split(annotation)[1] if isinstance(e, FieldInfo) and e.description), "")


def markdown(modules: Sequence[str] = ("segtrain",)) -> str:
    """Everything that a configuration may hold: the sections, then the components that come from `modules`."""
    lines = [
        "# Every key of a configuration",
        "",
        "Generated by `python tools/config.py schema > docs/config.md`; a test keeps it so. The same in a terminal:",
        "`tools/config.py keys`, `keys train`, `keys criterion`, `keys criterion.bootstrapped_ce`.",
        "How a configuration is written and changed from the command line: `tools/train.py --help` and the commented",
        "files in [configs/](../configs/). A number of steps may also be a share of the run: `10%`.",
        "",
        "## Sections",
        "",
    ]
    lines += _table(entries(section_keys(Config)))
    for path, section in _sections(Config, ""):
        lines += ["", f"### {path}", "", inspect.cleandoc(section.__doc__ or "")]
        inline = inline_field(section)
        if inline:
            lines[-1] += " Beside these, the keys of the component that `name` chooses."
        lines += ["", *_table(entries({k: v for k, v in section_keys(section).items() if k != inline}))]
    for place, (registry, library) in _REGISTRIES.items():
        lines += ["", f"## {registry.kind.capitalize()}: what `name` may be in {place}"]
        for name in registry:
            if _belongs(registry[name], modules):
                lines += _component(name, registry[name])
        if library:
            lines += ["", f"All others come from {library}, with the keys that the installed version has:"]
            lines += [f"`tools/config.py keys {place.split(' ')[0]}` lists them."]
    return "\n".join(lines) + "\n"


def of_library(factory: Factory) -> bool:
    """Whether a factory stands for a library's class, whose signature it was given."""
    return hasattr(factory, "__signature__")


def _belongs(factory: Factory, modules: Sequence[str]) -> bool:
    return not of_library(factory) and any(f"{factory.__module__}.".startswith(f"{module}.") for module in modules)


def _component(name: str, factory: Factory) -> list[str]:
    keys = component_keys(factory)
    lines = ["", f"### {name}", "", inspect.cleandoc(factory.__doc__ or "")]
    lines += ["", *_table(entries(keys))] if keys else []
    for key in keys.values():
        for target in targets(key.annotation):
            if not isinstance(target, Registry):
                lines += ["", f"{inspect.cleandoc(target.__doc__ or '')}", "", *_table(entries(section_keys(target)))]
    return lines


def _place(path: str, annotation: Any, factory: Factory | None, key: Key | None) -> Place:
    if factory is not None:
        return Place(path, inspect.cleandoc(factory.__doc__ or ""), entries(component_keys(factory)), {}, [])
    own, doc, components = list[Entry](), "", dict[str, str]()
    for target in targets(annotation):
        if isinstance(target, Registry):
            components |= {name: _first_line(target[name]) for name in target}
            continue
        inline = inline_field(target)
        doc = inspect.cleandoc(target.__doc__ or "")
        own += entries({name: found for name, found in section_keys(target).items() if name != inline})
        if inline:
            registry = registry_of(section_annotations(target)[inline])
            assert registry is not None
            components |= {name: _first_line(registry[name]) for name in registry}
    if key is not None and not own:
        own = entries({path.rpartition(".")[2]: key})
    library = next((extra.all() for extra in split(annotation)[1] if isinstance(extra, Names)), ())
    return Place(path, doc, own, components, sorted(library))


def _below(target: type | Registry) -> dict[str, Key | Factory]:
    """What a word after a path may be: a key, or the name of a component."""
    if isinstance(target, Registry):
        return {name: target[name] for name in target}
    inline = inline_field(target)
    registry = registry_of(section_annotations(target)[inline]) if inline else None
    keys = {name: key for name, key in section_keys(target).items() if name != inline}
    return {**({name: registry[name] for name in registry} if registry else {}), **keys}


def _sections(section: type, path: str) -> Iterator[tuple[str, type]]:
    for name, annotation in section_annotations(section).items():
        for target in targets(annotation):
            if not isinstance(target, Registry):
                yield f"{path}{name}", target
                yield from _sections(target, f"{path}{name}.")


def _bounds(annotation: Any) -> Iterator[str]:
    base, extras = split(annotation)
    for extra in extras:
        for rule in getattr(extra, "metadata", ()):
            for name, sign in _BOUNDS.items():
                if hasattr(rule, name):
                    yield f"{sign} {getattr(rule, name):g}" if name != "lt" else f"{sign} {getattr(rule, name)}"
    if is_union(base):
        for option in typing.get_args(base):
            yield from _bounds(option)


def _first_line(factory: Factory) -> str:
    return inspect.cleandoc(factory.__doc__ or "").partition("\n")[0]


def _table(rows: Sequence[Entry]) -> list[str]:
    """Markdown; no text of a cell ends it."""
    lines = ["| key | may be | default | what |", "|---|---|---|---|"]
    for row in rows:
        value = row.default if row.default in ("required", "its own", "its defaults") else f"`{row.default}`"
        cells = [f"`{row.key}`", row.allowed, value, row.purpose]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |"))
    return lines


def as_json(place: Place) -> str:
    """A place for programs."""
    return json.dumps({**place._asdict(), "entries": [entry._asdict() for entry in place.entries]}, indent=1)
