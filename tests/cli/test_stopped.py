"""What a command has begun is taken back when it is ended."""

import os
import signal
import time
from pathlib import Path

import pytest

from segtrain.cli.common import guarded
from segtrain.writing import replace


def test_sigterm_ends_a_command_on_its_way_out(tmp_path, capsys):
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            (tmp_path / "undone").touch()
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            guarded(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert (tmp_path / "undone").exists()
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_a_file_that_was_being_written_when_the_user_stopped_is_not_left(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        replace(tmp_path / "scores.csv", b"1,2")
    assert not list(tmp_path.iterdir())
