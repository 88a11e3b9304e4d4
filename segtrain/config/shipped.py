"""The configurations that come along: configs/ of a checkout, a part of the package once it is installed."""

from __future__ import annotations

from pathlib import Path

from segtrain.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where they are, as seen from here."""
    installed = _PACKAGE / "configs"
    found = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def names() -> list[str]:
    """What they are called, without the suffix: bootstrap, sweeps/mining_scenes, …"""
    found = sorted(folder().rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return [path.relative_to(folder()).with_suffix("").as_posix() for path in found]


def find(name: str) -> Path:
    """The file with this name, as `names` has it or with its suffix. Raises ConfigError."""
    stem = name.removesuffix(".yaml")
    if stem not in names():
        raise ConfigError(f"no configuration called {name!r} comes along{did_you_mean(stem, names(), limit=20)}")
    return folder() / f"{stem}.yaml"


def purpose(path: Path) -> str:
    """The first sentence of the comment that a configuration begins with."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#  "):
            break
        words.append(line[2:].strip())
    return " ".join(words).split(". ")[0].rstrip(".")
