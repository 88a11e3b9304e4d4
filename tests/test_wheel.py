"""What an installed package has in it."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("segtrain", "configs", "docs", "tests", "benchmarks", "tools", ".ci")
PARTS = ("segtrain", "configs", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


def test_a_wheel_holds_the_types_and_the_configurations_which_the_installed_command_finds(tmp_path):
    pytest.importorskip("setuptools.command.bdist_wheel", reason="setuptools before 70.1 builds no wheel by itself")
    tree, wheels, installed, elsewhere = (tmp_path / name for name in ("tree", "wheels", "installed", "elsewhere"))
    for folder in (tree, wheels, elsewhere):
        folder.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tree / part)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, wheels], cwd=tree, capture_output=True, check=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        held = set(archive.namelist())
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"segtrain/{path}" for path in shipped} <= held
    assert "segtrain/py.typed" in held
    assert not [name for name in held if name.startswith(("tests", "configs", "benchmarks"))]

    code = (
        "from segtrain.cli import main\n"
        "assert main(['config', 'cp', 'sweeps/mining_scenes']) == 0\n"
        "assert main(['config', 'show', 'bootstrap.yaml', 'train.steps=7']) == 0\n"
        "assert main(['config', 'show', 'camvid']) == 0\n"
    )
    command, environment = [sys.executable, "-c", code], {"PYTHONPATH": str(installed)}
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in elsewhere.iterdir()} == {"mining_scenes.yaml", "bootstrap.yaml"}
    assert f"# {installed}/segtrain/configs/camvid.yaml:6" in result.stdout


def test_a_source_distribution_holds_everything_that_its_tests_read(tmp_path):
    tree, archives = tmp_path / "tree", tmp_path / "archives"
    archives.mkdir()
    waste = shutil.ignore_patterns(
        "__pycache__", "*.egg-info", "build", "dist", ".git", ".*_cache", ".hypothesis", ".venv"
    )
    shutil.copytree(ROOT, tree, ignore=waste)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, archives], cwd=tree, capture_output=True, check=True)
    (archive,) = archives.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    needed = {
        path.relative_to(tree).as_posix() for name in FOLDERS for path in (tree / name).rglob("*") if path.is_file()
    }
    assert {*needed, "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "setup.py"} <= held
