"""Disk, memory, processes, sockets: what a run takes, and what happens where there is not enough."""

import ctypes
import errno
import gc
import json
import os
import random
import re
import resource
import subprocess
import threading
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from processes import TINY, Child, kill_at, run, wait_for, wrapped
from states import digest

from segtrain import checkpoint, kept
from segtrain.checkpoint import load
from segtrain.cli.common import guarded
from segtrain.evaluator import Evaluator
from segtrain.learner import Learner

pytestmark = pytest.mark.usefixtures("in_tmp")
PLAIN = [*TINY, "log.pictures=0", "--resume", "auto", "--quiet", "--run-dir", "run"]


# ---- disk


def test_a_disk_that_fills_up_ends_the_run_with_74_and_leaves_the_last_checkpoint():
    arguments = [*PLAIN, "model.width=256", "train.steps=300", "checkpoint.every=2", "validate.every=300"]
    arguments.append("log.pictures=0")  # a checkpoint has to be larger than the file of events
    child = Child(arguments, "said.txt")
    checkpoints = Path("run/checkpoints")
    wait_for((checkpoints / "last.pt").exists)
    size = (checkpoints / "last.pt").stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (size - 1000, hard))  # Python ignores SIGXFSZ: writes fail
    assert child.end() == 74
    assert f"No space left on device: {checkpoints}/step-" in child.said()
    assert "are free in run/checkpoints" in child.said()
    assert "go on with --resume auto" in child.said()
    assert "Traceback" not in child.said()
    assert not list(checkpoints.glob("*.tmp"))
    step = load(checkpoints / "last.pt")["step"]
    status = json.loads(Path("run/status.json").read_text())
    assert status["status"] == "failed"
    assert status["step"] > step >= 2
    code, said = run(*arguments, f"train.steps={step + 2}")
    assert code == 0, said


def on_a_disk_of(megabytes, act):
    """Call `act` in a process that has so small a file system at run/checkpoints, which ends with it."""

    def inside():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x00020000):  # CLONE_NEWNS: what is mounted here is seen by this process and its children
            os._exit(77)
        for command in ("--make-rprivate /", f"-t tmpfs -o size={megabytes}m tmpfs run/checkpoints"):
            if subprocess.run(["mount", *command.split()], capture_output=True, timeout=60).returncode:
                os._exit(77)
        act()

    Path("run/checkpoints").mkdir(parents=True)
    process = get_context("fork").Process(target=inside)
    process.start()
    process.join()
    if process.exitcode == 77:
        pytest.skip("may not mount file systems here")
    assert process.exitcode == 0


def test_a_real_disk_that_is_full_ends_the_run_with_74_and_it_goes_on_when_there_is_room():
    arguments = [
        *PLAIN,
        "model.width=256",
        "train.steps=12",
        "checkpoint={every: 1, keep_last: 3}",
        "validate.every=12",
    ]
    checkpoints = Path("run/checkpoints")

    def act():
        (checkpoints / "filler").write_bytes(bytes(2_600_000))
        code, said = run(*arguments)
        assert code == 74, said
        assert "No space left on device: run/checkpoints/step-" in said
        needed, free = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:bytes|are free)", said)[:2])
        assert needed > free > 0
        assert "Traceback" not in said
        assert not list(checkpoints.glob("*.tmp"))
        assert load(checkpoints / "last.pt")["step"] >= 1
        (checkpoints / "more").write_bytes(bytes(3_900_000 - usage(checkpoints)))
        code, said = run(*arguments)
        assert code == 74, said
        assert "needs about" in said, "and nothing was trained"
        for name in ("filler", "more"):
            (checkpoints / name).unlink()
        code, said = run(*arguments)
        assert code == 0, said
        assert load(checkpoints / "last.pt")["step"] == 12

    on_a_disk_of(4, act)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_for_any_other_file_is_told_alike(number, capsys):
    def command():
        raise OSError(number, os.strerror(number), "run/status.json")

    assert guarded(command) == 74
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: run/status.json\n"


def usage(folder):
    """Bytes in a folder; what has several names counts once."""
    return sum({entry.stat().st_ino: entry.stat().st_size for entry in os.scandir(folder)}.values())


def told_usage():
    """Note how much the checkpoints take whenever one is complete and the older ones are still there."""

    def note(_, new):
        if Path(new).suffix == ".pt":
            with open("usage.txt", "a") as file:
                print(usage(Path(new).parent), file=file)

    wrapped(os, "replace", note)


def test_fifty_saves_with_kills_never_take_more_than_what_is_kept_and_one_more():
    arguments = [*PLAIN, "train.steps=50", "checkpoint={every: 1, keep_last: 2}", "validate.every=10"]
    draw = random.Random(0)
    for at in draw.sample(range(100), 8):
        place = draw.choice([(os, "fsync"), (os, "replace"), (checkpoint, "link"), (kept, "prune")])

        def fault(place=place, calls=at // 8):
            told_usage()
            seen = []
            kill_at(*place, lambda *_: seen.append(1) or len(seen) > calls)

        assert run(*arguments, fault=fault)[0] == -9
    (Path("run/checkpoints") / "step-5.bak").write_text("mine")
    code, said = run(*arguments, fault=told_usage)
    assert code == 0, said
    size = max(path.stat().st_size for path in Path("run/checkpoints").glob("*.pt"))
    taken = [int(line) for line in Path("usage.txt").read_text().split()]
    assert len(taken) > 50
    assert max(taken) <= (2 + 1 + 1) * size + 4, "keep_last, the best, and the one that is being written"
    left = {path.name for path in Path("run/checkpoints").iterdir()}
    assert left == {"best.pt", "last.pt", "step-49.pt", "step-50.pt", "step-5.bak"}


# ---- memory


def limited(owner, name, step):
    """Before `owner.name` is called after `step` steps: no more than 30 MB beyond what this process has."""
    done = []  # steps

    def limit(*_):
        if len(done) >= step:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 30 * 2**20, resource.RLIM_INFINITY))

    def fault():
        wrapped(owner, name, limit)
        wrapped(Learner, "_takes_step", lambda *_: done.append(1))

    return fault


def test_a_step_without_enough_memory_names_the_batch_and_what_to_change_and_leaves_the_state():
    assert run(*PLAIN, "train.steps=4")[0] == 0
    before = digest("run/checkpoints/last.pt")
    large = ["data.train.size=[1024,1024]", "data.augment=[]", "train.steps=8"]
    code, said = run(*PLAIN, *large, *("--override-resume", "data.*"), fault=limited(Learner, "update", 0))
    assert code == 1
    assert "out of memory on cpu: a step on 2x3x1024x1024 (scenes/train/" in said
    assert "GiB at most. Halve data.batch_size and double train.accumulate" in said
    assert "Traceback" not in said
    assert json.loads(Path("run/status.json").read_text())["status"] == "failed"
    assert digest("run/checkpoints/last.pt") == before


def test_an_evaluation_without_enough_memory_names_the_batch_and_what_to_change():
    large = ["data.val.size=[1024,1024]", "train.steps=5", "validate.every=5"]
    code, said = run(*PLAIN, *large, fault=limited(Evaluator, "_logits", 5))
    assert code == 1
    assert "out of memory on cpu: 2x3x1024x1024 (scenes/val/" in said
    assert "Lower data.val_batch_size" in said


# ---- what a run leaves open


def measured():
    """Note, at each evaluation, what this process has open and how much memory it holds."""

    def note(*_):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        facts = {
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "system threads": len(os.listdir("/proc/self/task")),
            "children": len(psutil.Process().children()),
            "shared memory": len([name for name in os.listdir("/dev/shm") if f"_{os.getpid()}_" in name]),
            "memory": pages * resource.getpagesize(),
        }
        with open("facts.jsonl", "a") as file:
            print(json.dumps(facts), file=file)

    wrapped(Evaluator, "__call__", note)


@pytest.mark.parametrize("epochs", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_nothing_grows_from_epoch_to_epoch(epochs):
    often = ["validate.every=5", "checkpoint.every=5", "log={every: 5, pictures: 2}"]  # an epoch has five steps
    code, said = run(*PLAIN, *often, f"train.steps={5 * epochs}", "data.workers=1", fault=measured)
    assert code == 0, said
    facts = [json.loads(line) for line in Path("facts.jsonl").read_text().splitlines()]
    assert len(facts) == 2 * epochs  # of the weights and of their average
    settled = facts[4::2]  # of one of the two; the first evaluation starts the workers that stay
    for name in ("files", "threads", "system threads", "children", "shared memory"):
        assert len({fact[name] for fact in settled}) == 1, (name, [fact[name] for fact in facts])
    assert facts[-1]["memory"] < 1.05 * settled[0]["memory"]


def test_a_single_process_opens_no_socket_to_a_network():
    def note(*_):
        own = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
        known = "".join(Path(f"/proc/self/net/{kind}").read_text() for kind in ("tcp", "tcp6", "udp", "udp6"))
        inodes = {line.split()[9] for line in known.splitlines() if "inode" not in line}
        with open("sockets.txt", "a") as file:
            print(len([name for name in own if name.removeprefix("socket:[").removesuffix("]") in inodes]), file=file)

    def noted():
        wrapped(Learner, "update", note)
        wrapped(Evaluator, "_logits", note)

    code, said = run(*PLAIN, "data.workers=1", fault=noted)
    assert code == 0, said
    counted = Path("sockets.txt").read_text().split()
    assert len(counted) > 8
    assert set(counted) == {"0"}
