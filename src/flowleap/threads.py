"""The number of CPU threads, before and during training, and how long idle threads spin.

A parallel operation of torch ends when its last thread is done; meanwhile the others of OpenMP spin, which keeps their
cores busy. If two processes share the cores, spinning threads block the one that is waited for: `Adaptive` then uses
fewer threads. Threads that sleep too soon must be woken too often, which slows a training that is alone:
`bound_spinning` is a compromise, and must be called before torch is imported.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import contextmanager, suppress

SPINS = "50000"
"""Iterations that an idle thread of libgomp spins before it sleeps; its default is 300,000.

At 20 ns each this is 1 ms. A training step of the default command on digits has some ten longer gaps between its
parallel operations; with 2,000 iterations it had 300 gaps, each at the cost of a sleep and a wake. See
`benchmarks/threads.py`.
"""
BLOCK_TIME = "1"
"""The same for the OpenMP runtimes of LLVM and Intel, in ms."""
GAIN = 0.1
"""More threads are used if they save this share of the time: twice the processor time for less is a waste."""
LONG = 3.0
"""From this step time on, in seconds, all threads are used without trials."""
ROUNDS = 5
FIRST, INTERVAL = 1.0, 20.0
"""Seconds of training between trials of other numbers of threads: the first interval, doubled each time, and the last.

The first ones are short because a number that was chosen while other work began may be far from the best.
"""
COST = 0.01
"""The share of the time that trials may cost."""
SLOWER = 1.3
"""If steps become slower by this factor, fewer threads are tried at once."""
BLOCK = 10
"""Step times are averaged over at least this many steps, unless they are very long, and over `SECOND` seconds."""
SECOND = 1.0
BRIEF = 0.1
"""The least duration of a trial in seconds: shorter ones are too noisy beside other work."""


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle OpenMP threads sleep soon, unless the environment says otherwise; call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
        environment.setdefault("KMP_BLOCKTIME", BLOCK_TIME)


def cores() -> int:
    """Return the number of cores that this process may use."""
    with suppress(AttributeError):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(jobs: int | None = None) -> int:
    """Return the cores for each of `jobs` processes, at least 1; None: the processes that torchrun started here."""
    return max(1, cores() // (int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if jobs is None else jobs))


def most(jobs: int | None = None) -> int:
    """Return the threads of torch, at most `share` of a process unless OMP_NUM_THREADS is set."""
    import torch

    count = torch.get_num_threads()
    return count if os.environ.get("OMP_NUM_THREADS") else min(count, share(jobs))


def known(given: int | None, limit: int) -> int | None:
    """Return the number of threads if it need not be measured (given, OMP_NUM_THREADS, or a limit of 1), else None."""
    return given or (limit if limit == 1 or os.environ.get("OMP_NUM_THREADS") else None)


def use(count: int, jobs: int | None = None) -> None:
    """Set the threads of torch, at most the cores of each of `jobs` processes, see `share`; warns of more."""
    import torch

    own = share(jobs)
    if count > own:
        places = f"{own} core{'s' * (own > 1)}" + (" for each process" if own < cores() else "")
        warnings.warn(
            f"{count} threads on {places}: more threads than cores only slow each other down, {own} "
            f"{'are' if own > 1 else 'is'} used",
            UserWarning,
            stacklevel=2,
        )
    torch.set_num_threads(min(count, own))


@contextmanager
def limited(count: int | None = None, jobs: int | None = None) -> Iterator[None]:
    """A context in which torch uses `count` threads (None: as before); the former number is restored at its end."""
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            use(count, jobs)
        yield
    finally:
        torch.set_num_threads(before)


def fastest(step: Callable[[], object], limit: int) -> int:
    """Return the number of threads (limit, limit / 2, …, 1) with which a step is fastest.

    The time for a number is the shortest of several steps, interleaved with the others. Fewer threads are preferred if
    more would save less than 10 % of it. For a step of 3 s or more it is the limit.
    """
    times: dict[int, float] = {}
    counts = [limit >> halved for halved in range(limit.bit_length())]
    with limited():
        for count in counts if limit > 1 else ():
            seconds = min(timed(step, count) for _ in range(2))  # the first step with a count is a warm-up
            if (not times and seconds >= LONG) or seconds > 2 * min(times.values(), default=seconds):
                break
            times[count] = seconds
        for _ in range(ROUNDS if len(times) > 1 and sum(times.values()) < LONG else 0):
            times = {count: min(seconds, timed(step, count)) for count, seconds in times.items()}
    slowest = min(times.values(), default=0.0) / (1 - GAIN)
    return min((count for count, seconds in times.items() if seconds <= slowest), default=limit)


def timed(step: Callable[[], object], count: int) -> float:
    """Return the seconds of a step with `count` threads."""
    import torch

    torch.set_num_threads(count)
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


class Adaptive:
    """Adapts the number of threads of a training to other work on the machine, with training steps as trials.

    After 1, 2, 4, … and then every 20 s, a few steps use twice as many threads and, if that does not help, half as
    many; it continues in one direction as long as it helps, by the rule of `fastest`. If steps become 1.3 times as
    slow, fewer threads are tried at once. The next trial waits until the last one has cost less than 1 % of the time.

    Args:
        limit: the most threads. clock: returns seconds.

    Attributes:
        taken: the present number, which torch has between steps. used: all numbers that were used in a step.
        told: called after a step that changed one of them.
        lost: extra seconds of the steps of the last trial.
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
        """A context for one training step, with the number of threads of the current trial."""
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
        """Yield the number of threads for each step; receives the seconds of the step before."""
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
        """Halve or double the number of threads as long as that is faster.

        Takes and returns the seconds of a step with the present number, and the shortest with any number.
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
        """Return the mean seconds of a few steps with `count` threads; stops early if they are far slower."""
        first = yield count  # a warm-up, which counts if it is long
        self.lost += first - usual
        steps, seconds = (1, first) if usual >= LONG or first > 2 * usual else (0, 0.0)
        while steps < max(ROUNDS, BRIEF / usual) and seconds <= SLOWER * steps * usual:
            last = yield count
            steps, seconds, self.lost = steps + 1, seconds + last, self.lost + last - usual
        return seconds / steps


def set_count(count: int) -> None:
    """Set the threads of torch, if the number is another."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
