"""What the documents tell a reader to type, and the folder of a reader who types it."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import yaml
from PIL import Image

from segtrain.data.layouts import write_scenes
from segtrain.data.scenes import Scenes

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
RUN = "20261121-001502"  # as the documents call it
SMALL = [
    *("model={name: tiny}", "data.batch_size=2", "data.workers=0", "data.augment=[]", "schedule.warmup=0"),
    *("train.epochs=null", "train.steps=2", "train.accumulate=1", "log.every=1", "log.pictures=0"),
]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PROGRAMS = (
    *("python", "python3", "pip", "pre-commit", "pytest", "bash", "torchrun", "srun", "scontrol", "tensorboard"),
    *("segtrain", ".venv/bin/pip", ".venv/bin/python", ".venv/bin/pre-commit"),
)
_SCRIPT = re.compile(r"^((?:[A-Z_]+=\S+ )*)(?=(?:tools|benchmarks)/\w+\.py)")  # as one names it in a sentence
_INLINE = re.compile(rf"`((?:[A-Z_]+=\S+ )*(?:(?:{'|'.join(_PROGRAMS)})\s|(?:tools|benchmarks)/\w+\.py)[^`<>]*)`")


class Block(NamedTuple):
    """A block of a document: its language, and what it holds."""

    document: str
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """A command as a shell would start it, where it stands, and whether that is in the middle of a sentence."""

    document: str
    words: tuple[str, ...]
    inline: bool

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def blocks(document: Path) -> Iterator[Block]:
    """All of a document, in order."""
    text = document.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(document.name, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def commands(document: Path) -> list[Command]:
    """Those in blocks for a shell, those shown with their output, and those in sentences."""
    found = []
    for block in blocks(document):
        shown = "\n".join(re.findall(r"^ *\$ (.*)$", block.text, re.MULTILINE)) if not block.language else ""
        script = block.text if block.language == "bash" else shown
        found += [Command(document.name, words, inline=False) for words in started_by(script)]
    for inline in _INLINE.findall(_BLOCK.sub("", document.read_text(encoding="utf-8"))):
        found += [Command(document.name, words, inline=True) for words in started_by(" ".join(inline.split()))]
    return list(dict.fromkeys(found))


def started_by(script: str) -> list[tuple[str, ...]]:
    """The commands that a script starts. A shell reads it; in place of programs it has functions that tell how they
    were called, and no others can be found."""
    if not script:
        return []
    told = 'told() { printf "%s\\0" "$@" $\'\\n\' >&3; }; head() { :; }\n'
    stand_ins = "".join(f'function {name} {{ told {name} "$@"; }}\n' for name in _PROGRAMS)
    script = "\n".join(_SCRIPT.sub(r"\1python ", line) for line in script.splitlines())
    slurm = {f"SLURM_{name}": "8" for name in ("NNODES", "JOB_ID", "RESTART_COUNT", "CPUS_PER_TASK", "JOB_NODELIST")}
    shell = shutil.which("bash")
    assert shell, "there is no bash"
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        command = [shell, "-uc", f"exec 3>&{writer}\n{told}{stand_ins}{script}"]
        done = subprocess.run(
            command, pass_fds=[writer], cwd=ROOT, env={"PATH": "/nowhere", **slurm}, capture_output=True, text=True
        )
        os.close(writer)
        words = pipe.read().decode().split("\0")[:-1]
    assert not done.stderr, f"{script}\n{done.stderr}"
    started = []
    while words:
        end = words.index("\n")
        started.append(tuple(words[:end]))
        words = words[end + 1 :]
    return started


def furnish(folder: Path) -> None:
    """The files that the documents speak of, small: data, runs, `my.yaml`, `best.pt`, `photo.jpg`, …"""
    for name in ("configs", "docs", "tools", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.png", "more/day/c.jpg", "listed/d.jpg"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    (folder / "list.txt").write_text("listed/d.jpg\n")
    video = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (32, 24))
    for _ in range(6):
        video.write(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    video.release()
    for name in ("left", "right"):
        for split in ("train", "val"):
            (folder / "my_data" / split / name).mkdir(parents=True)
            for index in range(3):
                image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / "my_data" / split / name / f"{index}.jpg")
    scenes = {split: Scenes(split, count, (48, 64), 0) for split, count in (("train", 6), ("val", 2))}
    camvid = folder / "camvid"
    write_scenes(camvid, "camvid", scenes, iter)
    for name in ("", "annot"):
        shutil.copytree(camvid / f"val{name}", camvid / f"test{name}")
    (camvid / "test.txt").write_text((camvid / "val.txt").read_text().replace("val", "test"))
    write_scenes(folder / "mine", "folder_pairs", scenes, iter)
    for path in sorted((folder / "mine").rglob("*.*")):  # as frames of sequences are called
        if path.parent.name in scenes:
            path.rename(path.with_name(f"seq{int(path.stem[-1]) % 3}_{path.name}"))
    sets = {
        split: {"name": "folder_pairs", "root": "mine", "split": split, "names": list(scenes[split].labels.names)}
        for split in scenes
    }
    data = {**sets, "batch_size": 2, "workers": 0}
    changes = {"data": data, "model": {"name": "tiny"}, "train": {"steps": 4}, "log": {"pictures": 0}}
    (folder / "my.yaml").write_text(yaml.safe_dump({"_base_": "configs/bootstrap.yaml", **changes}))
