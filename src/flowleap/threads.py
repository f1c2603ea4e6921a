"""CPU threads: how many a process takes, and how long an idle one spins.

A parallel operation of torch ends when its last thread is done. OpenMP lets the others wait in a loop that keeps a core
busy: with libgomp for about 20 ms. Where two processes share the cores, one of them so waits for a thread that cannot
run because the waiting ones hold its core. `bound_spinning` shortens that, and has to come before torch is imported.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress

__all__ = ["bound_spinning", "cores", "fastest", "known", "limited", "most", "share", "use"]

SPINS = "2000"
"""Turns of the loop in which an idle thread of libgomp waits before it sleeps, see `benchmarks/threads.py`."""
BLOCK_TIME = "1"
"""The same for the OpenMP of LLVM and Intel, in ms."""
GAIN = 0.05
"""More threads are taken where they save this share of the time."""
LONG = 0.5
"""Seconds of a step from which on all threads are taken unmeasured."""
ROUNDS = 5


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle OpenMP threads sleep soon; call it before torch is imported. What the user has set is left alone."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
        environment.setdefault("KMP_BLOCKTIME", BLOCK_TIME)


def cores() -> int:
    """Return the number of cores that this process may use."""
    with suppress(AttributeError):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(jobs: int | None = None) -> int:
    """Return the cores for each of `jobs` processes, at least 1; None for those that torchrun started here."""
    return max(1, cores() // (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if jobs is None else jobs))


def most(jobs: int | None = None) -> int:
    """Return the number of threads that torch takes, at most the share of a process unless OMP_NUM_THREADS says it."""
    import torch

    count = torch.get_num_threads()
    return count if os.environ.get("OMP_NUM_THREADS") else min(count, share(jobs))


def known(given: int | None, limit: int) -> int | None:
    """Return the number of threads where nothing is to be measured: the one given, that of OMP_NUM_THREADS, or 1."""
    return given or (limit if limit == 1 or os.environ.get("OMP_NUM_THREADS") else None)


def use(count: int, jobs: int | None = None) -> None:
    """Let torch take `count` threads; warns where that is more than each of `jobs` processes has cores, see `share`."""
    import torch

    own = share(jobs)
    if count > own:
        places = f"{own} core{'s' * (own > 1)}" + (" for each process" if own < cores() else "")
        warnings.warn(
            f"{count} threads on {places}: more threads than cores make training and sampling slower",
            UserWarning,
            stacklevel=2,
        )
    torch.set_num_threads(count)


@contextmanager
def limited(count: int | None = None, jobs: int | None = None) -> Iterator[None]:
    """A context in which torch takes `count` threads, None for as many as before; then it takes as many as before."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            use(count, jobs)
        yield
    finally:
        torch.set_num_threads(before)


def fastest(step: Callable[[], object], limit: int) -> int:
    """Return with how many threads, of `limit`, half of it, … and 1, a step is fastest.

    The time of a number of threads is the shortest of several steps, in turn with the others. Fewer threads are
    preferred where they cost less than 5 %. A step that takes 0.5 s or more takes all.
    """
    times: dict[int, float] = {}
    counts = [limit >> halved for halved in range(limit.bit_length())]
    with limited():
        for count in counts if limit > 1 else ():
            seconds = min(timed(step, count) for _ in range(2))  # the first step with a count prepares it
            if (not times and seconds >= LONG) or seconds > 2 * min(times.values(), default=seconds):
                break
            times[count] = seconds
        for _ in range(ROUNDS if len(times) > 1 else 0):
            times = {count: min(seconds, timed(step, count)) for count, seconds in times.items()}
    slowest = min(times.values(), default=0.0) / (1 - GAIN)
    return min((count for count, seconds in times.items() if seconds <= slowest), default=limit)


def timed(step: Callable[[], object], count: int) -> float:
    """Return the seconds of a step with so many threads."""
    import torch

    torch.set_num_threads(count)
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
