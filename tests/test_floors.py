"""Imports point downwards: a module is read after the ones it imports."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "segtrain"

# The most specific prefix counts: a new module belongs to the floor of its folder, a new top-level one is added here.
FLOORS = {
    "": 0,
    "task": 0,
    "registry": 0,
    "schedule": 0,
    "distributed": 0,
    "selection": 0,
    "errors": 0,
    "own": 0,
    "writing": 0,
    "precision": 0,
    "memory": 0,
    "gpu_code": 0,
    "randomness": 0,
    "processors": 0,
    "inference": 0,
    "png": 0,
    "parallel": 1,
    "compiling": 0,
    "profiling": 0,
    "transfer": 1,
    "losses.maps": 1,
    "losses.targets": 1,
    "upsampling": 0,
    "losses.pixel": 1,
    "losses.channels": 1,
    "losses.region": 1,
    "losses.presence": 1,
    "losses.kernels": 1,
    "losses.weights": 1,
    "config": 1,
    "models": 1,
    "data": 1,
    "data.loading": 2,
    "metrics": 1,
    "metrics.tags": 0,
    "metrics.boundary": 2,
    "metrics.spectrum": 2,
    "samples": 4,
    "svg": 0,
    "comparison": 0,
    "history": 0,
    "deployed": 2,
    "optim": 1,
    "checkpoint": 1,
    "kept": 1,
    "shards": 1,
    "finite": 1,
    "run": 1,
    "resume": 5,
    "losses.components": 2,
    "losses.mining": 2,
    "losses.inspection": 2,
    "losses.terms": 2,
    "observers": 2,
    "losses": 3,
    "learner": 4,
    "fine_tuning": 4,
    "trainer": 4,
    "evaluator": 4,
    "maker": 5,
    "build": 5,
    "trained": 5,
    "predictor": 5,
    "cli": 6,
    "__main__": 6,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    while module not in FLOORS:
        if "." not in module:
            raise AssertionError(f"segtrain.{module} stands on no floor: add it to FLOORS")
        module = module.rpartition(".")[0]
    return FLOORS[module]


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of the package that a tree imports, `from segtrain.a import b` being a.b where that is a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("segtrain.") in modules else str(node.module) for name in full]
        else:
            continue
        found |= {name.removeprefix("segtrain").lstrip(".") for name in names if name.split(".")[0] == "segtrain"}
    return found


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
GRAPH = {name: imported(ast.parse(path.read_text()), set(SOURCES)) for name, path in SOURCES.items()}


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_module_imports_from_its_own_floor_or_below(module):
    upwards = {other for other in GRAPH[module] if floor(other) > floor(module)}
    assert not upwards, f"segtrain.{module} (floor {floor(module)}) imports from above: {sorted(upwards)}"


def test_no_two_modules_import_each_other_however_indirectly():
    state: dict[str, str] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert state.get(module) != "open", f"import cycle: {' → '.join((*trail, module))}"
        if module in state:
            return
        state[module] = "open"
        for other in GRAPH[module] - {module}:
            visit(other, (*trail, module))
        state[module] = "done"

    for module in GRAPH:
        visit(module, ())


def test_every_floor_names_something_that_exists():
    assert {name for name in FLOORS if name} <= set(SOURCES)
