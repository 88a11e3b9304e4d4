"""What changes a tree before it is checked: the file that it is based on, and `key.sub=value` from the command line."""

from __future__ import annotations

from dataclasses import replace

from segtrain.config.nodes import MAX_DEPTH, Mark, Node, parse, shown
from segtrain.errors import ConfigError


def merge(base: Node, child: Node) -> Node:
    """The child over its base: mappings key by key, everything else (lists too) replaced.

    A mapping with another `name` is another component: it replaces the base's mapping, keys and all.
    """
    if not isinstance(base.value, dict) or not isinstance(child.value, dict) or _renamed(base.value, child.value):
        return child
    merged = dict(base.value)
    for key, node in child.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return replace(child, value=merged)


def override(root: Node, text: str) -> Node:
    """The tree with `text` ("key.sub=value", the value as YAML) applied; numbers pick items of lists."""
    path, equals, written = text.partition("=")
    mark = Mark(f"override {shown(text, limit=120)}")
    keys = path.split(".")
    if not equals or not all(keys) or path != path.strip():
        raise ConfigError(f"{mark}: not of the form key.sub=value; write for instance optimizer.lr=1e-3")
    if not written.strip():
        raise ConfigError(f"{mark}: no value; write {path}=null to switch it off")
    if len(keys) > MAX_DEPTH:
        raise ConfigError(f"{mark}: more than {MAX_DEPTH} levels deep")
    value = parse(written.encode("utf-8", "surrogateescape"), str(mark), lines=False)
    return _set(root, keys, 0, replace(value, key=mark))


def _renamed(base: dict[str, Node], child: dict[str, Node]) -> bool:
    return "name" in base and "name" in child and base["name"].value != child["name"].value


def _set(node: Node, keys: list[str], depth: int, value: Node) -> Node:
    """`node`, which stands at keys[:depth], with `value` at keys."""
    if depth == len(keys):
        return value
    key, mark, here = keys[depth], value.mark, ".".join(keys[:depth])
    if isinstance(node.value, list):
        if not (key.isascii() and key.isdecimal() and len(key) < 6 and int(key) < len(node.value)):
            allowed = f"a number from 0 to {len(node.value) - 1}" if node.value else "nothing, the list is empty"
            raise ConfigError(f"{mark}: {here} is a list; allowed after '{here}.': {allowed}; got {shown(key)}")
        items = list(node.value)
        items[int(key)] = _set(items[int(key)], keys, depth + 1, value)
        return replace(node, value=items)
    if node.value is not None and not isinstance(node.value, dict):
        raise ConfigError(
            f"{mark}: {here} is {shown(node)} ({node.mark}), not a mapping, so it has no key {shown(key)}; "
            f"set it whole, {here}={{{key}: …}}"
        )
    entries = node.value or {}
    child = entries.get(key, Node(None, mark, mark))
    changed = {**entries, key: _set(child, keys, depth + 1, value)}
    return replace(node, value=changed)
