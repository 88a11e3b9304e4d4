"""Modules of a user's own, which --import names; what they register can be used from then on."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from segtrain.errors import ConfigError


def import_own(name: str) -> None:
    """Import a module by its name, looked up in the current folder too, or a file by its path (mine.py).

    Raises ConfigError if it is not found, or with the line in which it fails.
    """
    file = Path(name).resolve() if name.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"--import {name}: there is no such file below {os.getcwd()}")
    if file is not None and any(_file_of(module) == file for module in list(sys.modules.values())):
        return  # under another name, and what it registers would be registered twice
    folder = str(file.parent) if file is not None else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # last: what lies there by chance hides nothing that is installed
    module = file.stem if file is not None else name
    try:
        found = _file_of(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"--import {name}: {error}; it has to be importable from here (see PYTHONPATH), or name its file"
            ) from error
        raise ConfigError(f"--import {name}: {error}{_place(error)}") from error
    except SyntaxError as error:
        where = f" ({error.filename}:{error.lineno})" if error.filename else ""
        raise ConfigError(f"--import {name}: {type(error).__name__}: {error.msg}{where}") from error
    except Exception as error:
        raise ConfigError(f"--import {name}: {type(error).__name__}: {error}{_place(error)}") from error
    if file is not None and found != file:
        other = found or "built into Python"
        raise ConfigError(f"--import {name}: another module is called {module} as well ({other}); rename the file")


def _file_of(module: ModuleType) -> Path | None:
    """None for what is built in."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _place(error: Exception) -> str:
    """The line outside of the import system and of this package that was reached last."""
    here = str(Path(__file__).parent)
    lines = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(("<", here))]
    lines = [one for one in lines if one.filename != importlib.__file__]
    return f" (raised at {lines[-1].filename}:{lines[-1].lineno})" if lines else ""
