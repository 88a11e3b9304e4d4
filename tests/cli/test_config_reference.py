"""docs/config.md says what the code says."""

import subprocess
import sys
from pathlib import Path

from segtrain.build import register_components
from segtrain.config.reference import markdown, of_library
from segtrain.registry import CRITERIA, DATASETS, MODELS, OPTIMIZERS, SCHEDULES, TRANSFORMS

ROOT = Path(__file__).parents[2]


def test_the_reference_in_the_documents_is_what_the_code_gives():
    # in a process of its own: other tests register components
    command = [sys.executable, "tools/config.py", "schema"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs/config.md").read_text() == made, "run: python tools/config.py schema > docs/config.md"


def test_every_component_of_ours_is_described_and_a_users_only_when_asked_for():
    register_components(["tiny_components"])
    text = markdown()
    for registry in (DATASETS, TRANSFORMS, MODELS, CRITERIA, OPTIMIZERS, SCHEDULES):
        for name in registry:
            ours = registry[name].__module__.startswith("segtrain.") and not of_library(registry[name])
            assert (f"\n### {name}\n" in text) == ours, name
    assert "### tiny\n" in markdown(("segtrain", "tiny_components"))


def test_a_table_keeps_its_columns_whatever_a_cell_holds():
    for line in markdown().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 5, line
