"""The metadata of the package, and what follows from it."""

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUP = ConfigParser(comment_prefixes=("#",))
SETUP.read(ROOT / "setup.cfg")
REQUIRED = SETUP["options"]["install_requires"].split()


def test_the_oldest_job_takes_the_lower_bound_of_everything_that_has_one():
    command = [sys.executable, ".ci/lowest.py"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    bounds = dict(re.match(r"([\w-]+)>=([\w.]+)", one).groups() for one in REQUIRED)
    assert len(bounds) == len(REQUIRED), "each dependency has a lower bound, which is tested"
    assert dict(one.split("==") for one in told).items() >= bounds.items()


def test_an_upper_bound_has_its_reason_beside_it():
    lines = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for one in REQUIRED:
        if "<" in one or "==" in one or "~=" in one:
            name = re.match(r"[\w-]+", one)[0]
            assert re.search(rf"^# {name} .*(last|below|before)", lines, re.MULTILINE), f"{one}: why not newer?"


def test_one_lowest_version_of_python_is_meant_everywhere():
    lowest = SETUP["options"]["python_requires"].removeprefix(">=")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert SETUP["mypy"]["python_version"] == lowest
    assert f'target-version = "py{lowest.replace(".", "")}"' in project
    assert f"Programming Language :: Python :: {lowest}" in SETUP["metadata"]["classifiers"]
    assert f"python{lowest}" in (ROOT / ".ci/oldest").read_text(encoding="utf-8")
