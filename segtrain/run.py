"""The directory of a run: where it is, what it says of itself, and which run a resume means."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
import weakref
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from segtrain import __version__
from segtrain.distributed import job, world_size
from segtrain.errors import ConfigError
from segtrain.writing import replace

Status = Literal["running", "finished", "failed", "interrupted"]


class RunDirectory:
    """Holds config.yaml, env.json, status.json, log.txt, metrics.csv, steps.jsonl, tb/, checkpoints/ and val/."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def start(self, config: str) -> None:
        """Make the directory, or enter it again, and write what the run is made of: configuration and environment."""
        self.lock("--run-dir")
        self.checkpoints.mkdir(exist_ok=True)
        replace(self.path / "config.yaml", config.encode())
        replace(self.path / "env.json", (json.dumps(environment(), indent=2) + "\n").encode())

    def write_status(self, status: Status, **facts: Any) -> None:
        """Replace `status.json`; readers see the old one or the new one, never a part."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        text = json.dumps({"status": status, **facts, "time": now}, indent=2) + "\n"
        replace(self.path / "status.json", text.encode())

    def read_status(self) -> dict[str, Any]:
        """What `status.json` says; empty where there is none."""
        return self._read("status.json")

    def read_environment(self) -> dict[str, Any]:
        """What `env.json` says; empty where there is none."""
        return self._read("env.json")

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def in_use(self) -> bool:
        """Whether a process is writing it."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def lock(self, flag: str) -> None:
        """Two processes must not write one run. A record lock ends with its process; forked workers do not have it.

        Raises ConfigError that advises another `flag`, also if the directory cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}; choose another {flag}") from error
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                f"{self.path} is being written by another process; wait for its end, or choose another {flag}"
            ) from error
        weakref.finalize(self, os.close, handle)

    def refuse_if_used(self) -> None:
        """Raise ConfigError if the directory holds anything: an existing run is continued or left alone."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        status = self.read_status()
        state = status.get("status")
        if state == "running" and not self.in_use():
            state = "dead, ended without a word,"
        of = f" (a run that is {state} at step {status.get('step', 0)})" if state else ""
        raise ConfigError(f"{self.path} is not empty{of}. Use --resume auto to continue it, or another --run-dir")


def new_run(root: Path, name: str) -> RunDirectory:
    """A directory `root/name/time` that does not exist yet. Raises ConfigError for a name that leaves `root`."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"--name '{name}' is not a name; allowed: words that stay below {root}, like street-p25")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = root / name / stamp
    for attempt in range(2, 1000):
        if not path.exists():
            break
        path = root / name / f"{stamp}-{attempt}"
    return RunDirectory(path)


def latest_run(root: Path, name: str) -> RunDirectory | None:
    """The newest run of that name, finished or not; None if there is none."""
    runs = sorted(path.parent for path in (root / name).glob("*/status.json"))
    return RunDirectory(runs[-1]) if runs else None


def run_of_job(runs: Iterable[Path], job: str) -> RunDirectory | None:
    """The newest of these directories that torchrun's `job` has made; None if there is none."""
    made = [path for path in runs if RunDirectory(path).read_environment().get("job") == job]
    return RunDirectory(max(made)) if made else None


def _installed() -> Iterator[str]:
    for name in (
        "torchvision",
        "timm",
        "segmentation-models-pytorch",
        "albumentations",
        "opencv-python-headless",
        "numpy",
    ):
        with contextlib.suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def environment() -> dict[str, Any]:
    """Versions, devices and the command: what one needs to know to repeat a run."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "segtrain": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "packages": ", ".join(_installed()),
        "cuda": torch.version.cuda if gpus else None,
        "gpus": gpus,
        "ranks": world_size(),
        "job": job(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": sys.argv,
    }
