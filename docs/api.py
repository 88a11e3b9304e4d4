"""Writes docs/api.md from the signatures and docstrings of what one imports: python docs/api.py > docs/api.md.

It reads the sources and imports nothing, so that it takes no time and says the same under every version of Python.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign
ROOMS: Mapping[str, Mapping[str, Sequence[str]]] = {  # of the reader → module → names; () for all of its `__all__`
    "Trained models in use": {
        "segtrain": ["load"],
        "segtrain.predictor": ["Predictor"],
        "segtrain.inference": ["Inference"],
        "segtrain.deployed": ["Deployed"],
    },
    "Losses in any loop": {"segtrain.losses": (), "segtrain.losses.standalone": ["Reduction", "Warmup", "Weight"]},
    "Own losses and mining rules": {
        "segtrain.losses.maps": ["Selection", "PixelLoss", "Reduction"],
        "segtrain.losses.mining": ["selected", "Hardest", "Threshold", "Mean"],
        "segtrain.losses.terms": ["PixelTerms"],
        "segtrain.losses.criterion": ["ALONE"],
        "segtrain.losses.pixel": ["cross_entropy"],
    },
    "Own data, models and schedules": {
        "segtrain.registry": [
            *("Registry", "MODELS", "DATASETS", "TRANSFORMS", "OPTIMIZERS", "SCHEDULES"),
            *("PIXEL_LOSSES", "REGION_LOSSES", "CRITERIA", "OBSERVERS"),
        ],
        "segtrain.task": ["Task", "Sample", "Batch", "Output", "predict", "probabilities", "Kind", "Link"],
        "segtrain.data.dataset": ["Dataset"],
        "segtrain.data.labels": ["LabelSpec"],
        "segtrain.models.common": ["ImageModel", "load_file"],
        "segtrain.upsampling": ["Upsampled", "full_resolution", "by_pixel"],
        "segtrain.schedule": ["Schedule", "constant", "step_at", "linear", "cosine", "poly", "between", "product"],
    },
    "Runs from Python": {
        "segtrain.config": ["load", "Source"],
        "segtrain.build": ["register_components", "build", "Built", "Limits"],
        "segtrain.observers.observer": ["Observer", "SampleLoss"],
        "segtrain.metrics.evaluation": ["Evaluation"],
        "segtrain.checkpoint": ["load"],
        "segtrain.shards": ["load"],
        "segtrain.errors": ["UserError", "ConfigError", "DataError", "CheckpointError", "TrainingError"],
    },
}


@dataclass(frozen=True)
class Entry:
    """One name: where it is imported from, where it is defined, and what stands there."""

    module: str
    name: str
    node: Definition
    source: Sequence[str]  # the lines of the file that defines it

    @property
    def doc(self) -> str:
        """Its docstring; of a value the comment beside it."""
        if isinstance(self.node, ast.Assign):
            return comment(self.source, self.node)
        return inspect.cleandoc(ast.get_docstring(self.node) or "")

    def methods(self) -> Iterator[ast.FunctionDef]:
        """The public ones that a class defines itself, and how it is called."""
        for node in self.node.body if isinstance(self.node, ast.ClassDef) else ():
            if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__"):
                yield node

    def fields(self) -> Iterator[ast.AnnAssign]:
        """Those of a tuple or a dataclass."""
        for node in self.node.body if isinstance(self.node, ast.ClassDef) else ():
            if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
                yield node


def entries() -> Iterator[tuple[str, Entry]]:
    """Everything that is documented, with the room it stands in."""
    for room, modules in ROOMS.items():
        for module, names in modules.items():
            for name in names or exported(module):
                yield room, found(module, name)


def file_of(module: str) -> Path:
    """The source of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exported(module: str) -> list[str]:
    """The names in its `__all__`."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and _target(node) == "__all__")
    listed: list[str] = ast.literal_eval(names)
    return listed


def found(module: str, name: str, asked: str = "") -> Entry:
    """The definition of a name, also where the module only imports it. Raises KeyError."""
    source = file_of(module).read_text(encoding="utf-8")
    last = None
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return found(str(node.module), name, asked or module)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            last = node  # of overloads the one with the docstring
        elif isinstance(node, ast.Assign) and _target(node) == name:
            last = node
    if last is None:
        raise KeyError(f"{module}.{name}")
    return Entry(asked or module, name, last, source.splitlines())


def comment(source: Sequence[str], node: ast.AST) -> str:
    """The comment at the end of a line."""
    return source[node.end_lineno - 1][node.end_col_offset :].strip().removeprefix("#").strip()


def signature(node: ast.FunctionDef, name: str = "") -> str:
    """As one would call it: without self and decorators."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and not name else ""
    return f"{name or node.name}({ast.unparse(arguments)}){returns}"


def called(entry: Entry) -> str:
    """How a name is written, called or made."""
    if isinstance(entry.node, ast.Assign):
        return ast.unparse(entry.node)
    if isinstance(entry.node, ast.FunctionDef):
        return signature(entry.node)
    made = [node for node in entry.node.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if made:
        return signature(made[0], entry.name)
    fields = ", ".join(ast.unparse(node) for node in entry.fields())
    return f"{entry.name}({fields})" if fields and "Protocol" not in map(ast.unparse, entry.node.bases) else entry.name


def markdown() -> str:
    """The whole document."""
    lines = [
        "# What one imports",
        "",
        "Generated by `python docs/api.py > docs/api.md` from signatures and docstrings; a test keeps it so. Names",
        "that are not listed here may change without notice. Keys of configurations: [config.md](config.md). How own",
        "components are written: [extend.md](extend.md). Formulas of the losses and when to use which:",
        "[criteria.md](criteria.md).",
        "",
        "Shapes: B (or N) batch, C channels, K classes, H and W height and width, \\* any further axes.",
    ]
    before = ("", "")
    for room, entry in entries():
        if room != before[0]:
            lines += ["", f"## {room}"]
        if (room, entry.module) != before:
            lines += ["", f"### `{entry.module}`"]
        before = room, entry.module
        lines += ["", f"#### {entry.name.replace('_', chr(92) + '_')}", "", "```py", called(entry), "```"]
        lines += ["", entry.doc] if entry.doc else []
        notes = [(f"{ast.unparse(node.target)}", comment(entry.source, node)) for node in entry.fields()]
        rows = [f"* `{name}`: {text}" for name, text in notes if text]
        for method in entry.methods():
            text = " ".join(inspect.cleandoc(ast.get_docstring(method) or "").split())
            attribute = any(ast.unparse(node) in ("property", "cached_property") for node in method.decorator_list)
            if text:
                rows.append(f"* `{method.name if attribute else signature(method)}`: {text}")
        lines += ["", *rows] if rows else []
    return re.sub(r"`functional\.(\w+)`", r"[`\1`](#\1)", "\n".join(lines)) + "\n"


def _target(node: ast.Assign) -> str:
    return ast.unparse(node.targets[0])


if __name__ == "__main__":
    print(markdown(), end="")
