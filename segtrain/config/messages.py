"""Sentences for what is wrong with a value: what is expected in words, what was seen, what to type."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from pydantic.fields import FieldInfo

from segtrain.config.component import registry_of, split
from segtrain.config.nodes import shown
from segtrain.errors import did_you_mean
from segtrain.schedule import Duration

# What people type → the key they mean, where the spelling shows no likeness.
ALIASES = {
    "amp": "train.amp",
    "augmentation": "data.augment",
    "augmentations": "data.augment",
    "backbone": "model.encoder",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "clip": "optimizer.clip_norm",
    "clip_grad": "optimizer.clip_norm",
    "dataset": "data",
    "ema": "train.ema",
    "epoch": "train.epochs",
    "eval": "validate",
    "fp16": "train.amp",
    "grad_accum": "train.accumulate",
    "grad_clip": "optimizer.clip_norm",
    "iterations": "train.steps",
    "iters": "train.steps",
    "learning_rate": "optimizer.lr",
    "load_from": "init",
    "loss": "criterion",
    "lr": "optimizer.lr",
    "lr_schedule": "schedule",
    "max_epochs": "train.epochs",
    "max_iters": "train.steps",
    "max_steps": "train.steps",
    "mixed_precision": "train.amp",
    "momentum": "optimizer.momentum",
    "net": "model",
    "network": "model",
    "num_epochs": "train.epochs",
    "num_workers": "data.workers",
    "optim": "optimizer",
    "output_dir": "log.root",
    "pretrained": "model.encoder_weights",
    "save_every": "checkpoint.every",
    "scheduler": "schedule",
    "smoothing": "criterion.label_smoothing",
    "top_k": "criterion.top_p",
    "top_p": "criterion.top_p",
    "transforms": "data.augment",
    "type": "name",
    "wd": "optimizer.weight_decay",
    "weights": "init",
    "work_dir": "log.root",
}

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_MANY = {bool: "booleans", int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}
_OF_ANOTHER_KIND = {  # pydantic's error types that say: not even the right sort of value
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "none_required": "null",
    "literal_error": "",
    "needs_python_object": "",
    "callable_type": "",
}
_BOUNDS = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
}
_NEARLY_A_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?|[-+]?\.[0-9]+")
_BOOLEAN_WORDS = {"on": "true", "yes": "true", "y": "true", "off": "false", "no": "false", "n": "false"}


def describe(annotation: Any) -> str:
    """What an annotation allows, in words: "a whole number, 'auto' or null"."""
    words = list(dict.fromkeys(_alternatives(annotation)))
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "another value"


def description(annotation: Any) -> str:
    """The parameter's own description in brackets, if it has one."""
    found = [e.description for e in split(annotation)[1] if isinstance(e, FieldInfo) and e.description]
    return f" ({found[0]})" if found else ""


def unexpected(annotation: Any, value: Any) -> str:
    """The sentence for a value of another kind than the annotation allows."""
    return f"expected {describe(annotation)}, got {shown(value)}{_remedy(annotation, value)}{description(annotation)}"


def broken_rule(error: Any, annotation: Any, value: Any) -> tuple[str, bool]:
    """The sentence for one of pydantic's errors, and whether the value is of another kind altogether."""
    kind, nested = error["type"], bool(error["loc"])
    if typing.get_origin(split(annotation)[0]) is tuple and kind in ("missing", "too_short", "too_long"):
        return unexpected(annotation, value), False
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**error['ctx'])}, got {shown(value)}{description(annotation)}", False
    if kind in _OF_ANOTHER_KIND and nested:
        expected = _OF_ANOTHER_KIND[kind] or error.get("ctx", {}).get("expected", "another value")
        return f"expected {expected}, got {shown(value)}{description(annotation)}", True
    if kind in _OF_ANOTHER_KIND:
        return unexpected(annotation, value), True
    message = error["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}, got {shown(value)}{description(annotation)}", False


def nearest(word: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The allowed word that `word` is most likely a slip for."""
    near = difflib.get_close_matches(word[:80], list(allowed), n=1, cutoff=cutoff)
    return near[0] if near else None


def meant(key: str, section: str, allowed: Iterable[str], homes: Mapping[str, str]) -> str | None:
    """The key that an unknown `key` of `section` most likely stands for: a neighbour's name, or a path from the root.

    `homes` says for keys that belong to other sections where they stand.
    """
    allowed = list(allowed)
    alias = ALIASES.get(key, "")
    home, _, name = alias.rpartition(".")
    if name in allowed and home in ("", section):
        return name
    elsewhere = alias if home != section else None  # a key of this section that this component does not have
    return nearest(key, allowed) or elsewhere or homes.get(key)


def means_name(key: str) -> bool:
    """Whether a key was probably meant to be `name`."""
    return ALIASES.get(key) == "name" or nearest(key, ["name"], cutoff=0.8) is not None


def suggestion(key: str, found: str | None, allowed: Iterable[str]) -> str:
    """How the message about an unknown key ends."""
    if found is not None:
        return f"; did you mean '{found}'?"
    allowed = list(allowed)
    return did_you_mean("", allowed, limit=12) if allowed else "; no keys are allowed here"


def is_union(base: Any) -> bool:
    """Whether an annotation without extras is `A | B`."""
    return typing.get_origin(base) in (Union, types.UnionType)


def swapped(annotation: Any, value: Any) -> str | None:
    """What to write where {raw value: name} is wanted and {name: raw value} was given."""
    base = split(annotation)[0]
    wanted = typing.get_args(base)[:1] if typing.get_origin(base) in (dict, Mapping) else ()
    if wanted != (int,) or not isinstance(value, dict) or not value:
        return None
    if not all(type(number) is int and not name.lstrip("-").isdecimal() for name, number in value.items()):
        return None
    return f"the number comes first; write {{{', '.join(f'{number}: {name}' for name, number in value.items())}}}"


def _alternatives(annotation: Any) -> list[str]:
    base, extras = split(annotation)
    registry = registry_of(annotation)
    if registry is not None:
        return [f"{with_article(registry.kind)} such as {{name: {next(iter(registry), '…')}, …}}"]
    if Duration in extras:
        return ["a number of steps", "a share of the run such as 10%"]
    if is_union(base):
        options = [word for option in typing.get_args(base) for word in _alternatives(option)]
        return [word for word in options if word != "null"] + (["null"] if "null" in options else [])
    origin, arguments = typing.get_origin(base), typing.get_args(base)
    if origin is Literal:
        return [shown(option) for option in arguments]
    if base is None or base is type(None):
        return ["null"]
    if origin is tuple and Ellipsis not in arguments:
        return [f"a list of {len(arguments)} {_plural(arguments) or 'values'}"]
    if origin in (list, tuple, Sequence):
        many = _plural(arguments[:1])
        return [f"a list of {many}" if many else "a list"]
    if origin in (dict, Mapping) or dataclasses.is_dataclass(base):
        return ["a mapping"]
    return [_WORDS[base]] if base in _WORDS else []


def _plural(annotations: tuple[Any, ...]) -> str | None:
    registries = {registry_of(annotation) for annotation in annotations}
    if len(registries) == 1 and (registry := registries.pop()) is not None:
        return f"{registry.kind}s"
    kinds = {split(annotation)[0] for annotation in annotations}
    return _MANY.get(kinds.pop()) if len(kinds) == 1 else None


def with_article(noun: str) -> str:
    """a model, an optimizer."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _remedy(annotation: Any, value: Any) -> str:
    base = split(annotation)[0]
    options = typing.get_args(base) if is_union(base) else (annotation,)
    kinds = {split(option)[0] for option in options}
    literals = [a for kind in kinds if typing.get_origin(kind) is Literal for a in typing.get_args(kind)]
    registry = next((r for r in map(registry_of, options) if r is not None), None)
    if isinstance(value, str):
        if bool in kinds and value.lower() in _BOOLEAN_WORDS:
            return f"; write {_BOOLEAN_WORDS[value.lower()]}"
        if kinds & {int, float} and len(value) < 40 and _NEARLY_A_NUMBER.fullmatch(value):
            return f"; write {float(value.replace('_', '')):.10g} without quotes or leading zeros"
        if float in kinds and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?%", value):
            return f"; write {float(value[:-1]) / 100:.10g}"
        near = nearest(value, [word for word in literals if isinstance(word, str)])
        if near is not None:
            return f"; did you mean '{near}'?"
        if registry is not None and value in registry:
            return f"; write {{name: {value}}}"
    elif isinstance(value, float) and value.is_integer() and int in kinds:
        return f"; write {value:.0f}"
    elif str in kinds and isinstance(value, (bool, int, float)):
        return f"; write '{shown(value)}', in quotes, if the text is meant"
    return ""
