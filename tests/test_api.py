"""What one imports is described: docs/api.md is what the code says, and the code says shapes and errors."""

import ast
import importlib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
API = runpy.run_path(str(ROOT / "docs/api.py"))
ENTRIES = {f"{entry.module}.{entry.name}": entry for _, entry in API["entries"]()}
SHAPE = re.compile(r"\[[A-ZT*]|\(N|scalar|as the target|as torch")


def own_docs(entry):
    """Of a name and its methods, by what they are called; a method may say no more than its class does."""
    yield entry.name, entry.node, entry.doc
    for method in entry.methods():
        yield f"{entry.name}.{method.name}", method, ast.get_docstring(method) or ""


def with_references(text):
    """A docstring with those that it refers to: "as in `predict`", "see `functional.cross_entropy`"."""
    named = re.findall(r"`(?:\w+\.)*(\w+)`", text)
    return " ".join([text, *(entry.doc for entry in ENTRIES.values() if entry.name in named)])


def test_the_document_is_what_the_code_gives():
    made = subprocess.run([sys.executable, "docs/api.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/api.md").read_text(encoding="utf-8") == made, "run: python docs/api.py > docs/api.md"


@pytest.mark.parametrize("place", ENTRIES)
def test_a_name_can_be_imported_from_where_it_is_listed(place):
    module, _, name = place.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("place", ENTRIES)
def test_a_name_and_its_methods_say_what_they_are_with_shapes_and_errors(place):
    entry, lacking = ENTRIES[place], []
    for name, node, text in own_docs(entry):
        inherited = name.endswith((".__call__", ".forward", ".losses", ".extra_repr", "_extra_state"))
        text = with_references(f"{entry.doc} {text}" if inherited else text)
        text += ENTRIES["segtrain.losses.maps.Reduction"].doc if name.endswith(".__call__") else ""
        if len(text) < 12 and not isinstance(node, ast.Assign):
            lacking.append(f"{name}: no docstring")
        if not isinstance(node, ast.FunctionDef):
            continue
        taken = [ast.unparse(arg.annotation) for arg in node.args.args + node.args.kwonlyargs if arg.annotation]
        tensors = [one for one in [*taken, ast.unparse(node.returns)] if re.search(r"\b(Tensor|NDArray|Logits)\b", one)]
        if tensors and not SHAPE.search(f"{text} {with_references(entry.doc)}"):
            lacking.append(f"{name}: no shapes of {tensors}")
        raised = {
            ast.unparse(one.exc).partition("(")[0] for one in ast.walk(node) if isinstance(one, ast.Raise) and one.exc
        }
        if raised and not any(error in text for error in raised):
            lacking.append(f"{name}: raises {raised}")
    assert not lacking


def test_everything_that_the_examples_of_the_documents_import_is_listed():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "docs/examples").glob("*.py")]
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        sources += re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    listed = [getattr(importlib.import_module(entry.module), entry.name) for entry in ENTRIES.values()]
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("segtrain"):
                continue
            for alias in node.names:
                meant = getattr(importlib.import_module(str(node.module)), alias.name)
                assert inspect.ismodule(meant) or any(meant is one for one in listed), alias.name
