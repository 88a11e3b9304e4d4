import hashlib
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from segtrain import checkpoint
from segtrain.errors import CheckpointError

GOLDEN = Path(__file__).parent / "golden" / "checkpoint-v1.pt"


def a_state(step: int = 7) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {"net.weight": torch.randn(8, 3, 3, 3, generator=generator), "net.mean": torch.zeros(1, 3, 1, 1)},
        "optimizer": {"state": {"net.weight": {"step": torch.tensor(float(step))}}, "groups": {"head": {"lr": 1e-3}}},
        "rng": {"python": (3, (1, 2, 2**40), None), "torch": torch.arange(16, dtype=torch.uint8)},
        "best": float("inf"),
        "names": ["a", "ä", ""],
    }


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def seal(archive: bytes, version: int = 1) -> bytes:
    """What the documented format puts behind an archive."""
    line = b"segtrain checkpoint, format %04d, sha256 " % version
    if archive[-22:-18] == b"PK\x05\x06":
        archive = archive[:-2] + struct.pack("<H", len(line) + 64)
    return archive + line + hashlib.sha256(archive + line).hexdigest().encode()


def torch_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


# ---- what is saved comes back


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "last.pt", a_state())
    assert equal(checkpoint.load(tmp_path / "last.pt"), a_state())
    assert os.listdir(tmp_path) == ["last.pt"]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(state=st.dictionaries(st.text(max_size=5), plain, max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_plain_state_comes_back(state, tmp_path):
    checkpoint.save(tmp_path / "x.pt", state)
    assert equal(checkpoint.load(tmp_path / "x.pt"), state)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_keep_dtype_strides_and_emptiness(dtype, tmp_path):
    images = torch.arange(48).reshape(2, 2, 3, 4).to(dtype)
    state = {"last": images.to(memory_format=torch.channels_last), "empty": images[:0], "scalar": images[0, 0, 0, 0]}
    checkpoint.save(tmp_path / "x.pt", state)
    loaded = checkpoint.load(tmp_path / "x.pt")
    assert equal(loaded, state)
    assert loaded["last"].stride() == state["last"].stride()


def test_the_state_dict_of_a_module_is_plain(tmp_path):
    module = nn.BatchNorm2d(3)
    checkpoint.save(tmp_path / "x.pt", {"model": module.state_dict()})
    nn.BatchNorm2d(3).load_state_dict(checkpoint.load(tmp_path / "x.pt")["model"])


def test_the_file_is_an_ordinary_archive_for_torch_and_zip(tmp_path):
    checkpoint.save(tmp_path / "x.pt", a_state())
    assert equal(torch.load(tmp_path / "x.pt", weights_only=True), a_state())
    assert equal(torch.load(tmp_path / "x.pt", weights_only=True, mmap=True), a_state())
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"segtrain checkpoint, format 0001, sha256 ")


def test_the_golden_file_of_format_1_loads_for_ever():
    assert equal(checkpoint.load(GOLDEN), a_state())


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.float64(1.0), r"state\.model\.x is a numpy\.float64"),
        (np.ones(2), r"state\.model\.x is a numpy\.ndarray"),
        (Path("x"), r"state\.model\.x is a pathlib"),
        (torch.float32, r"state\.model\.x is a torch\.dtype"),
        (torch.Size([1]), r"state\.model\.x is a torch\.Size"),
        (torch.__version__, r"state\.model\.x is a torch\.torch_version\.TorchVersion"),
        (nn.Parameter(torch.ones(1)), r"state\.model\.x is a torch\.nn\.parameter\.Parameter"),
        ([0, {"y": {1}}], r"state\.model\.x\[1\]\.y is a builtins\.set"),
        ({(1, 2): 0}, r"state\.model\.x has the key \(1, 2\), a tuple"),
        ({True: 0}, r"state\.model\.x has the key True, a bool"),
        (torch.eye(2).to_sparse(), r"state\.model\.x is a torch\.Tensor"),
        (OrderedDict(y=b""), r"state\.model\.x\.y is a builtins\.bytes"),
    ],
)
def test_a_value_that_could_not_be_loaded_is_refused_with_its_key_path(value, where, tmp_path):
    with pytest.raises(ValueError, match=where):
        checkpoint.save(tmp_path / "x.pt", {"model": {"x": value}})
    assert os.listdir(tmp_path) == []


# ---- damage


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "x.pt"
    checkpoint.save(path, a_state())
    return path.read_bytes()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_no_bit_flip_is_loaded(saved, tmp_path):
    random.seed(0)
    for position in random.sample(range(8 * len(saved)), 400):
        damaged = bytearray(saved)
        damaged[position // 8] ^= 1 << position % 8
        refusal(tmp_path / "x.pt", bytes(damaged))


def test_no_truncation_is_loaded(saved, tmp_path):
    for length in np.linspace(0, len(saved) - 1, 600).astype(int):
        refusal(tmp_path / "x.pt", saved[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty (0 bytes)"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0", "neither a checkpoint"),
        (b"PK\x03\x04", "incomplete"),
    ],
)
def test_a_file_that_is_something_else_is_named(content, reason, tmp_path):
    assert reason in refusal(tmp_path / "x.pt", content)


def test_a_zeroed_page_and_trailing_bytes_are_refused(saved, tmp_path):
    assert "checksum" in refusal(tmp_path / "x.pt", saved[:512] + bytes(512) + saved[1024:])
    assert "incomplete" in refusal(tmp_path / "x.pt", saved + b"\n")


def test_a_newer_format_is_refused_before_it_is_read(tmp_path):
    message = refusal(tmp_path / "x.pt", seal(torch_bytes({"a": 1}), version=2))
    assert "newer segtrain (checkpoint format 2, this one reads up to 1)" in message


def test_a_missing_file_and_a_directory_are_checkpoint_errors(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoint.load(path)


def test_a_checkpoint_that_is_not_a_dict_is_refused(tmp_path):
    assert "holds a list, not a dict" in refusal(tmp_path / "x.pt", seal(torch_bytes([1])))


# ---- hostile files


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def deflated(archive: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return packed.getvalue()


def oversized(archive: bytes) -> bytes:
    """Claims a member far larger than the file."""
    position = archive.rfind(b"PK\x01\x02")
    return archive[: position + 24] + struct.pack("<I", 1 << 30) + archive[position + 28 :]


def hostile(canary: Path) -> dict[str, bytes]:
    payload = {"model": Payload(canary)}
    archive, harmless = torch_bytes(payload), torch_bytes({"model": torch.zeros(100_000)})
    return {
        "zip": archive,
        "zip, nested": torch_bytes({"a": [{"b": (Payload(canary),)}]}),
        "legacy": torch_bytes(payload, _use_new_zipfile_serialization=False),
        "pickle": pickle.dumps(payload),
        "pickle, protocol 2": pickle.dumps(payload, protocol=2),
        "deflated": deflated(harmless),
        "deflated payload": deflated(archive),
        "oversized": oversized(harmless),
    }


@pytest.mark.parametrize("kind", hostile(Path("x")))
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("forced", [False, True], ids=["default", "forced"])
@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.read_weights], ids=["load", "weights"])
def test_a_hostile_file_is_refused_and_runs_nothing(kind, sealed, forced, read, tmp_path, monkeypatch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = hostile(tmp_path / "canary")[kind]
    (tmp_path / "x.pt").write_bytes(seal(content) if sealed else content)
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        read(tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]


def test_the_payloads_of_the_test_above_do_run_when_loaded_unsafely(tmp_path):
    canary = tmp_path / "canary"
    torch.load(io.BytesIO(hostile(canary)["zip"]), weights_only=False)
    assert canary.exists()


def test_a_refused_payload_is_named(tmp_path):
    assert "posix.mkdir" in refusal(tmp_path / "x.pt", seal(torch_bytes({"a": Payload(tmp_path)})))


# ---- crashes and full disks

CRASHES = """
    import os, random, resource, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from segtrain import kept
    from test_checkpoint import a_state, checkpoint, equal

    last = Path(sys.argv[2]) / "last.pt"
    checkpoint.save(last, a_state(1))
    size = last.stat().st_size

    def in_child(action):
        child = os.fork()
        if child == 0:
            action()
            os._exit(0)
        return child

    def limited(n):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
        checkpoint.save(last, a_state(2))

    for n in [*range(0, size, 101), *range(size - 40, size)]:
        _, status = os.waitpid(in_child(lambda: limited(n)), 0)
        assert os.WTERMSIG(status) == signal.SIGXFSZ, status
        assert equal(checkpoint.load(last), a_state(1)), n

    def endless():
        for step in range(10**9):
            checkpoint.save(last, a_state(step % 3))

    random.seed(0)
    for _ in range(60):
        child = in_child(endless)
        time.sleep(random.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert equal(checkpoint.load(last), a_state(checkpoint.load(last)["step"]))

    kept.remove_temporaries(last.parent)
    assert os.listdir(last.parent) == ["last.pt"]
"""


def test_a_write_interrupted_at_any_byte_leaves_the_previous_checkpoint(tmp_path):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        textwrap.dedent(CRASHES),
        str(Path(__file__).parent),
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(checkpoint.__file__).parents[1])}
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_full_disk_is_told_with_numbers_and_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, a_state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, path.stat().st_size, 101):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ, so a write fails with EFBIG
        try:
            with pytest.raises(checkpoint.DiskFullError) as caught:
                checkpoint.save(path, a_state(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.exit_code == 74
        needed = checkpoint.size_of(a_state(2))
        assert f"No space left on device: {path} needs about {needed:,} bytes, " in str(caught.value)
        assert " are free in " in str(caught.value)
        assert os.listdir(tmp_path) == ["last.pt"]
        assert equal(checkpoint.load(path), a_state(1))


def test_a_disk_that_fills_up_in_the_middle_of_large_tensors_is_told_too(tmp_path):
    state = {f"w{index}": torch.ones(100_000) for index in range(5)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(10, 2_000_000, 150_001):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(checkpoint.DiskFullError):
                checkpoint.save(tmp_path / "last.pt", state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_no_space_left_on_device_is_told_as_such(tmp_path):
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(checkpoint.DiskFullError, match="No space left on device"):
        checkpoint.save(tmp_path / "last.pt", a_state())
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "missing" / "last.pt", a_state())


def test_free_space_can_be_asked_before_training(tmp_path):
    state = a_state()
    needed = checkpoint.size_of(state)
    checkpoint.save(tmp_path / "x.pt", state)
    assert needed <= (tmp_path / "x.pt").stat().st_size <= needed + 4096
    checkpoint.require_space(tmp_path, needed)
    with pytest.raises(checkpoint.DiskFullError, match="needs about 1,000,000,000,000,000 bytes"):
        checkpoint.require_space(tmp_path, 10**15)


def test_the_data_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def record(*args, name=name, original=original):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, record)
    checkpoint.save(tmp_path / "last.pt", a_state())
    assert calls == ["fsync", "replace", "fsync"]


# ---- several names


def test_a_link_needs_no_second_copy_and_survives_its_source(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path / f"step-{step}.pt", a_state(step))
        checkpoint.link(tmp_path / f"step-{step}.pt", tmp_path / "last.pt")
    assert (tmp_path / "last.pt").samefile(tmp_path / "step-2.pt")
    checkpoint.save(tmp_path / "step-2.pt", a_state(9))
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 2
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "step-1.pt", "step-2.pt"]


# ---- weights of other programs


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("legacy", [False, True])
def test_weights_are_read_from_the_files_of_other_trainers(nested, legacy, tmp_path):
    weights = {"module.conv.weight": torch.ones(2), "module.conv.bias": torch.zeros(1)}
    state = weights if nested is None else {nested: weights, "epoch": 3}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert list(checkpoint.read_weights(tmp_path / "x.pth")) == ["conv.weight", "conv.bias"]


def test_weights_are_read_from_safetensors_and_our_own_checkpoints(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    checkpoint.save(tmp_path / "x.pt", {"model": {"a": torch.ones(2)}, "step": 3})
    for name in ("x.safetensors", "x.pt"):
        assert equal(checkpoint.read_weights(tmp_path / name), {"a": torch.ones(2)})
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes().replace(b"PK", b"KP", 1))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.read_weights(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_a_file_that_holds_no_weights_is_refused(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="No such file"):
        checkpoint.read_weights(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        checkpoint.read_weights(path)
    torch.save({"epoch": 3}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="holds no weights; its keys are epoch"):
        checkpoint.read_weights(tmp_path / "y.pth")
