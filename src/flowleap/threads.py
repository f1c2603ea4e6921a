"""CPU threads: how many a process takes, before it trains and while it does, and how long an idle one spins.

A parallel operation of torch ends when its last thread is done. OpenMP lets the others wait in a loop that keeps a core
busy. Where two processes share the cores, one of them so waits for a thread that cannot run because the waiting ones
hold its core: `Adaptive` then takes fewer threads. Threads that sleep too soon are woken too often, which costs a
training that is alone. `bound_spinning` lies between, and has to come before torch is imported.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import contextmanager, suppress

__all__ = ["Adaptive", "bound_spinning", "cores", "fastest", "known", "limited", "most", "share", "use"]

SPINS = "50000"
"""Turns of the loop in which an idle thread of libgomp waits before it sleeps, of its own accord 300,000.

Where a turn takes 20 ns this is 1 ms, and a step of the default command on digits has some ten longer gaps between its
parallel operations; with 2,000 turns it had 300, each of which cost a sleep and a wake. See `benchmarks/threads.py`.
"""
BLOCK_TIME = "1"
"""The same for the OpenMP of LLVM and Intel, in ms."""
GAIN = 0.05
"""More threads are taken where they save this share of the time."""
LONG = 3.0
"""Seconds of a step from which on all threads are taken unmeasured."""
ROUNDS = 5
FIRST, INTERVAL = 1.0, 20.0
"""Seconds of steps after which other numbers of threads are tried while training: first, then twice as many each time,
up to the second number: a number that was chosen beside another start may be wrong by far.
"""
COST = 0.01
"""The share of the time that such trials may take."""
SLOWER = 1.3
"""Steps that take so many times as long are tried with fewer threads at once."""
BLOCK = 10
"""The least number of steps, unless they are very long, and `SECOND` seconds of them, whose mean time is looked at."""
SECOND = 1.0
BRIEF = 0.1
"""Seconds that a trial takes at least: shorter ones say little beside other work."""


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
    preferred where they cost less than 5 %. A step that takes 3 s or more takes all.
    """
    times: dict[int, float] = {}
    counts = [limit >> halved for halved in range(limit.bit_length())]
    with limited():
        for count in counts if limit > 1 else ():
            seconds = min(timed(step, count) for _ in range(2))  # the first step with a count prepares it
            if (not times and seconds >= LONG) or seconds > 2 * min(times.values(), default=seconds):
                break
            times[count] = seconds
        for _ in range(ROUNDS if len(times) > 1 and sum(times.values()) < LONG else 0):
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


class Adaptive:
    """The number of threads of a training, which follows what other work leaves of the cores; steps are its trials.

    After 1, 2, 4, … and then every 20 s a few steps take twice as many threads and, where that is no gain, half as
    many; it goes on in a direction for as long as it gains, by the rule of `fastest`. Where steps become 1.3 times as
    slow, fewer are tried at once. The next trial waits until what the last one cost is less than 1 % of the time since.

    Args:
        limit: the most threads. clock: returns seconds.

    Attributes:
        taken: the present number; between steps torch has it. used: all numbers that a step had.
        told: called after a step that changed one of them.
        lost: seconds by which the steps of the last trial took longer than others.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin with the number of threads that torch has."""
        import torch

        self.limit, self.clock, self.taken = limit, clock, torch.get_num_threads()
        self.used, self.lost = {self.taken}, 0.0
        self.told: Callable[[], None] = lambda: None
        self.course = self.follow()
        self.count = next(self.course)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A context for one step, which has the threads that it is to be tried with."""
        before = self.taken, len(self.used)
        set_count(self.count)
        began = self.clock()
        yield
        seconds = self.clock() - began
        self.used.add(self.count)
        self.count = self.course.send(seconds)
        set_count(self.taken)
        if before != (self.taken, len(self.used)):
            self.told()

    def follow(self) -> Generator[int, float, None]:
        """Yield the number of threads of each step, given the seconds of the one before."""
        best, interval = math.inf, FIRST
        while True:
            since, slower = 0.0, False
            while not (slower or since >= max(interval, self.lost / COST)):
                steps, seconds = 0, 0.0
                while seconds < SECOND or (steps < BLOCK and seconds < interval / 2):
                    seconds += yield self.taken
                    steps += 1
                usual, since = seconds / steps, since + seconds
                best = min(best, usual)
                slower = self.taken > 1 and usual > SLOWER * best and since >= self.lost / COST
            before, self.lost, interval = self.taken, 0.0, min(2 * interval, INTERVAL)
            best = shortest = usual
            if not slower:
                best, shortest = yield from self.climb(best, shortest, more=True)
            if self.taken == before:
                best, _ = yield from self.climb(best, shortest, more=False)

    def climb(
        self, usual: float, shortest: float, *, more: bool
    ) -> Generator[int, float, tuple[float, float]]:
        """Take half or twice as many threads as long as that is better.

        Given and returned: the seconds of a step with the present number, and the shortest with any.
        """
        gain = 1 - GAIN if more else 1 / (1 - GAIN)
        while (count := min(2 * self.taken, self.limit) if more else self.taken // 2) not in (0, self.taken):
            seconds = yield from self.trial(count, usual)
            better, shortest = seconds <= gain * shortest, min(shortest, seconds)
            if not better:
                break
            self.taken, usual = count, seconds
        return usual, shortest

    def trial(self, count: int, usual: float) -> Generator[int, float, float]:
        """Return the mean seconds of a few steps with so many threads, ended early where they are far slower."""
        first = yield count  # prepares the others, and counts where it is long
        self.lost += first - usual
        steps, seconds = (1, first) if usual >= LONG or first > 2 * usual else (0, 0.0)
        while steps < max(ROUNDS, BRIEF / usual) and seconds <= SLOWER * steps * usual:
            last = yield count
            steps, seconds, self.lost = steps + 1, seconds + last, self.lost + last - usual
        return seconds / steps


def set_count(count: int) -> None:
    """Let torch take `count` threads, unless it does."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
