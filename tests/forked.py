"""Several processes that meet as those of torchrun do, forked from the present one so that nothing is imported anew."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable

import pytest
from torch import distributed

available = pytest.mark.skipif(
    not distributed.is_available() or sys.platform != "linux",
    reason="processes are forked on Linux only, and need a torch with torch.distributed",
)


def needs_processes(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of several processes."""
    return pytest.mark.distributed(available(test))


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("", 0))
        return str(found.getsockname()[1])


def forked(function: Callable[..., object], *arguments: object, count: int = 2) -> None:
    """Call a function in each of several processes, and wait until all of them have ended well."""
    context = multiprocessing.get_context("fork")
    about = (count, free_port(), function, arguments)
    processes = [context.Process(target=_begin, args=(rank, *about)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=400)
    assert [process.exitcode for process in processes] == [0] * count


def _begin(
    rank: int, count: int, port: str, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    function(*arguments)
