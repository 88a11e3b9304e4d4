"""Starting several ranks in a test: forked processes over gloo, whose results come back as values."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from queue import Empty
from typing import Any

import torch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any, joined: bool = True) -> list[Any]:
    """What `function(*arguments)` returns on each of `world` ranks, by rank; not `joined`: it joins them itself."""
    port = free_port()
    context = get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_run, args=(rank, world, port, joined, results, function, arguments))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    try:
        answers: dict[int, Any] = {}
        while len(answers) < world:
            try:
                rank, answer = results.get(timeout=1)
                answers[rank] = answer
            except Empty:
                dead = {w.exitcode for w in workers if w.exitcode}
                assert not dead, f"a rank died: {dead}"
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()
    for rank, (failed, value) in sorted(answers.items()):
        assert not failed, f"rank {rank}:\n{value}"
    return [answers[rank][1] for rank in range(world)]


def _run(
    rank: int, world: int, port: int, joined: bool, results: Any, function: Callable[..., Any], arguments: Any
) -> None:
    from segtrain import distributed

    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
    }
    try:
        if joined:
            distributed.start("cpu", timeout_s=60)
        results.put((rank, (False, function(*arguments))))
        distributed.stop()
    except BaseException:
        results.put((rank, (True, traceback.format_exc())))
