from pathlib import Path

import pytest

from segtrain.data.paths import find_root, image_files, some
from segtrain.errors import DataError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_the_current_directory_comes_before_the_data_folder(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEGTRAIN_DATA", str(here / "store"))
    (here / "store" / "set" / "train").mkdir(parents=True)
    assert find_root(Path("set"), "train", "train/") == here / "store" / "set"
    (here / "here" / "set").mkdir()
    assert find_root(Path("set"), "train", "train/") == here / "store" / "set"  # an empty folder here does not count
    (here / "here" / "set" / "train").mkdir()
    assert find_root(Path("set"), "train", "train/") == Path("set")


def test_both_places_and_the_layout_are_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        DataError, match=r"^set does not exist in .*here \(\$SEGTRAIN_DATA is not set\)\. Expected layout: set/train/x$"
    ):
        find_root(Path("set"), "train", "train/x")
    monkeypatch.setenv("SEGTRAIN_DATA", "/nowhere")
    with pytest.raises(DataError, match=r"^set and /nowhere/set do not exist\. Expected layout: set/train/x$"):
        find_root(Path("set"), "train", "train/x")
    with pytest.raises(DataError, match=r"^/absolute does not exist\. Expected"):
        find_root(Path("/absolute"), "train", "train/x")


def test_what_is_there_is_listed_and_a_folder_one_level_deeper_is_found(here: Path):
    for name in ("b", "a/train", "c"):
        (here / "here" / "set" / name).mkdir(parents=True)
    with pytest.raises(
        DataError,
        match=r"set/train does not exist\..* Found in set: a/, b/, c/ \(one level too deep\? then root: set/a\)",
    ):
        find_root(Path("set"), "train", "train/")


def test_image_files_are_sorted_and_nothing_else(here: Path):
    for name in ("b.PNG", "a.jpg", "sub/c.tif", "notes.txt", "._a.jpg", "Thumbs.db"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert [path.relative_to(here).as_posix() for path in image_files(here)] == ["a.jpg", "b.PNG", "sub/c.tif"]


def test_long_lists_are_cut():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdef"), 2) == "a, b, … (6 in all)"
