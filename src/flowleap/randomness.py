"""Random numbers as functions of their names, so that every draw can be repeated.

| what                                                | depends on                                |
|-----------------------------------------------------|-------------------------------------------|
| `generator`: a `torch.Generator`                    | (key, stream, step)                       |
| `RowGenerator`: numbers of the rows of a batch      | (key, stream, step, row)                  |
| `Permutation`: an order of the rows of a batch      | (key, stream, step)                       |

All randomness of a training step is of the second and the third kind: one process and many, an interrupted run and an
uninterrupted one see the same numbers, and each process draws those of its own rows alone. They come from a
counter-based generator, which needs no numbers before those that are asked for: Philox4x64-10, by NumPy's C code on the
CPU and in integer tensor operations on a GPU, which give the same integers.

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC '11), for Philox; Box and
Muller 1958 for the normal law; Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (CT-RSA), for
permutations.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowleap.tensors import onto

__all__ = ["Permutation", "RowGenerator", "generator", "key_of", "permutation", "philox"]


def generator(key: int, stream: str, step: int = 0) -> torch.Generator:
    """Return a fresh CPU generator that depends on (key, stream, step) and on nothing else.

    Args:
        key: the seed of the run, a non-negative integer.
        stream: what the numbers are for ("labels", "batching/epoch", …); streams are independent of one another.
        step: the training step, epoch or image index.

    Raises:
        ValueError: for a negative key or step.
    """
    _check(key, step)
    return torch.Generator().manual_seed(key_of(key, stream, step))


def key_of(key: int, stream: str, step: int = 0) -> int:
    """Return a key that depends on (key, stream, step); what is drawn by it is independent of other draws."""
    sequence = np.random.SeedSequence([key, zlib.crc32(stream.encode()), step])
    return int(sequence.generate_state(1, np.uint64)[0])


class RowGenerator:
    """Random numbers of some rows of a global batch: those of a row depend on (key, stream, step, row) alone.

    Each call gives new numbers, independent of those of earlier calls. Whoever holds a row, and on whatever device, the
    integers behind its numbers are the same; rows that are not held cost nothing.

    Args:
        key: the seed of the run, a non-negative integer.
        stream: what the numbers are for ("noise", "times", …); streams are independent of one another.
        step: the training step.
        total: the number of rows of the global batch.
        rows: which of them are here, (rows,) int64 on the CPU; None for all, in order.
        device: where the numbers are made.

    Raises: ValueError for a negative key or step.
    """

    def __init__(
        self,
        key: int,
        stream: str,
        step: int = 0,
        *,
        total: int,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
        shared_by: int = 1,
    ) -> None:
        _check(key, step)
        self.key, self.stream, self.step, self.total = key, stream, step, total
        self.rows = torch.arange(total) if rows is None else rows
        self.device = torch.device(device)
        self._shared_by, self._calls = shared_by, 0

    def __len__(self) -> int:
        return len(self.rows)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers uniform on [0, 1), multiples of 2^−53.

        Shapes: → (rows, *shape) float64.
        """
        size = math.prod(shape)
        out = torch.empty(self._count, size, dtype=torch.float64, device=self.device)
        for some, start, words in self._words(size):
            out[some, start : start + words.shape[1]] = _uniform(words)
        return self._each(out).view(len(self), *shape)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, by Box and Muller, of at most 6.7.

        Shapes: → (rows, *shape) float32.
        """
        size = math.prod(shape)
        half = -(-size // 2)
        out = torch.empty(self._count, size, device=self.device)
        for some, start, words in self._words(half):
            radius, angle = _polar(words)
            out[some, start : start + words.shape[1]] = radius * angle.cos()
            rest = out[some, half + start : half + start + words.shape[1]]
            rest.copy_(radius.mul_(angle.sin_())[:, : rest.shape[1]])
        return self._each(out).view(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return whole numbers uniform on {0, …, high − 1}.

        Shapes: → (rows, *shape) int64.
        """
        return (self.uniform(*shape) * high).to(torch.int64)

    def choice(self, weights: Tensor) -> Tensor:
        """Return which of some things is drawn in each row, each in proportion to its weight.

        Shapes: weights (things,) → (rows,) int64.
        """
        reached = weights.to(torch.float64).cumsum(0)
        found = torch.searchsorted(reached, self.uniform() * reached[-1], right=True)
        return found.clamp_max(len(weights) - 1)

    def common(self) -> float:
        """Return one number uniform on [0, 1) for all rows of the global batch, whoever asks."""
        self._calls += 1
        words = _words_on_cpu(np.zeros(1, np.int64), 1, (0, 1), self._name(shared_by=0))
        return float(_uniform(words)[0, 0])

    def grouped(self, size: int) -> RowGenerator:
        """Return a generator that gives the rows of each group, `size` neighbors of the global batch, the same."""
        return RowGenerator(
            self.key,
            self.stream,
            self.step,
            total=self.total,
            rows=self.rows // size,
            device=self.device,
            shared_by=size,
        )

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, Tensor | None]:
        """The rows in rising order, each once, and where in there each row is; None for its own place."""
        rows = self.rows.numpy()
        if (np.diff(rows) > 0).all():
            return rows, None
        distinct, place = np.unique(rows, return_inverse=True)
        return distinct, torch.from_numpy(place)

    @property
    def _count(self) -> int:
        return len(self._distinct[0])

    def _each(self, numbers: Tensor) -> Tensor:
        """Return the numbers of each row, given those of the rows that are distinct."""
        place = self._distinct[1]
        return numbers if place is None else numbers[onto(place, numbers.device)]

    def _name(self, shared_by: int | None = None) -> tuple[int, ...]:
        """The key of this call, and the three highest words of its counters."""
        shared_by = self._shared_by if shared_by is None else shared_by
        return (*_philox_key(self.key, self.stream), self._calls, self.step, shared_by)

    def _words(self, size: int) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield, piece by piece, `size` words of 64 random bits for each distinct row, and where they belong.

        Yields: which of the rows, the first of their words, and the words, (some rows, some words) int64.
        """
        self._calls += 1
        on_device = self.device.type != "cpu"
        make, most = (_words_on_device, DEVICE_PIECE) if on_device else (_words_on_cpu, PIECE)
        distinct, blocks = self._distinct[0], -(-size // 4)
        rows_each, blocks_each = max(1, most // (4 * max(1, blocks))), most // 4
        for row in range(0, len(distinct), rows_each):
            some = slice(row, row + rows_each)
            for start in range(0, blocks, blocks_each):
                part = (start, min(start + blocks_each, blocks))
                words = make(distinct[some], blocks, part, self._name(), self.device)
                yield some, 4 * start, words[:, : size - 4 * start]


PIECE = 1 << 15
"""How many words are made at once on the CPU: so few that they stay in its cache."""
DEVICE_PIECE = 1 << 24
"""How many on a GPU: so few that what is in between takes a few hundred megabytes."""
Words = tuple[int, ...]


@lru_cache(maxsize=256)
def _philox_key(key: int, stream: str) -> Words:
    """Return the two words of the key of a stream."""
    sequence = np.random.SeedSequence([key, zlib.crc32(stream.encode())])
    return tuple(int(word) for word in sequence.generate_state(2, np.uint64))


def _words_on_cpu(
    rows: np.ndarray,
    blocks: int,
    part: tuple[int, int],
    name: Words,
    device: torch.device | None = None,
) -> Tensor:
    """Return the random words of blocks part[0] … part[1] − 1, of `blocks`, of each row, by NumPy's C code.

    Row i has the blocks of counters i · blocks + 1, …, (i + 1) · blocks; neighbors follow one another, and are drawn in
    one.
    """
    count = part[1] - part[0]
    whole = count == blocks
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1 if whole else np.arange(1, len(rows))
    starts, ends = [0, *breaks.tolist()], [*breaks.tolist(), len(rows)]
    found = [
        _SOURCE.words(name, int(rows[start]) * blocks + part[0], (end - start) * count)
        for start, end in zip(starts, ends, strict=True)
    ]
    words = found[0] if len(found) == 1 else np.concatenate(found)
    return torch.from_numpy(words.view(np.int64)).view(len(rows), 4 * count)


class _Source(threading.local):
    """NumPy's Philox4x64-10, set to one counter after another; each thread has its own."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(np.random.SeedSequence(0))
        self.state: Any = self.philox.state
        self.state["buffer_pos"] = 4  # nothing is left of an earlier block

    def words(self, name: Words, block: int, count: int) -> np.ndarray:
        """Return the words of `count` blocks from this one on, (4 · count,) uint64."""
        inner = self.state["state"]
        inner["key"][:], inner["counter"][:] = (
            name[:2],
            (block, *name[2:]),
        )  # it counts on before it makes a block
        self.philox.state = self.state
        return self.philox.random_raw(4 * count)


_SOURCE = _Source()


def _words_on_device(
    rows: np.ndarray, blocks: int, part: tuple[int, int], name: Words, device: torch.device
) -> Tensor:
    """Return what `_words_on_cpu` does, by tensor operations on a device."""
    first = 1 + onto(torch.from_numpy(rows), device)[:, None] * blocks
    block = (first + torch.arange(*part, device=device)).flatten()
    rest = [torch.full_like(block, _signed(word)) for word in name[2:]]
    made = philox(torch.stack([block, *rest]), name[:2])
    return made.T.contiguous().view(len(rows), -1)


def philox(counter: Tensor, key: Words) -> Tensor:
    """Return the blocks of Philox4x64-10 with these counters: four words of 64 bits each, as int64 of the same bits.

    Ten rounds of (c₀, c₁, c₂, c₃) ← (hi₁ ⊕ c₁ ⊕ k₀, lo₁, hi₀ ⊕ c₃ ⊕ k₁, lo₀), where hi₀, lo₀ are the halves of M₀ c₀
    and hi₁, lo₁ those of M₁ c₂; after each round the keys grow by W₀ and W₁.

    Shapes: counter int64 (4, blocks) → the same. Source: Salmon et al. 2011, section 3.3.
    """
    a, b = counter[0::2], counter[1::2]
    factor, *keys = onto(_factors_and_keys(key), a.device).unbind(0)
    for each in keys:
        high, low = _product(a, factor)
        a, b = high.flip(0) ^ b ^ each, low.flip(0)
    return torch.stack([a, b], dim=1).flatten(0, 1)


FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
"""M₀ and M₁."""
GROWS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""W₀ and W₁."""
LOW = 0xFFFFFFFF


def _signed(word: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (word + 2**63) % 2**64 - 2**63


@lru_cache(maxsize=256)
def _factors_and_keys(key: Words) -> Tensor:
    """Return M₀, M₁ and the two keys of each of the ten rounds. Shapes: → (11, 2, 1) int64."""
    rows = [FACTORS, *([k + turn * grows for k, grows in zip(key, GROWS, strict=True)] for turn in range(10))]
    return torch.tensor([[[_signed(word)] for word in row] for row in rows])


def _product(a: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and the low words of the products of 128 bits, where int64 stands for the same 64 bits.

    Products of int64 keep their lowest 64 bits, so that those of halves of 32 bits are whole.
    """
    upper, lower = (factor >> 32) & LOW, factor & LOW
    a_upper, a_lower = (a >> 32) & LOW, a & LOW
    middle = upper * a_lower + ((lower * a_lower >> 32) & LOW)
    other = lower * a_upper + (middle & LOW)
    return upper * a_upper + ((middle >> 32) & LOW) + ((other >> 32) & LOW), factor * a


def _uniform(words: Tensor) -> Tensor:
    """Return the highest 53 bits of words as multiples of 2^−53 in [0, 1), float64."""
    return ((words >> 11) & (2**53 - 1)).double() * 2.0**-53


def _polar(words: Tensor) -> tuple[Tensor, Tensor]:
    """Return radius √(−2 ln u) and angle of points of the normal law in the plane, one for each word, float32.

    u = (n + ½)/2³¹ of 31 bits n of the lower half of the word, and the upper half makes an angle in [−π, π).
    """
    halves = words.view(torch.int32).view(*words.shape, 2)
    radius = (halves[..., 0] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    return radius, halves[..., 1].float().mul_(math.pi / 2**31)


class Permutation:
    """A random order of n things: which of them is at each place, and at which place each is.

    Either is found for some things at the cost of these, without the others, beside tables of some √n numbers. A thing
    is a pair (l, r) of {0, …, a − 1} × {0, …, b − 1}, a b ≥ n, and in turns l ← (l + f(r)) mod a and
    r ← (r + f(l)) mod b, with a new table of random numbers f in each of the rounds: a Feistel network. Where that
    leads to a pair that is no thing, it is gone on from there.

    Args: key, stream, step: see `RowGenerator`. size: n, at least one.
    Source: Black and Rogaway 2002, "generalized Feistel" with cycle walking. Few things need more rounds until all
    their orders are equally likely: with 8 + 128/n the distance in variation is below 1e-4 for n ≤ 6, by all tables.
    """

    def __init__(self, key: int, stream: str, step: int, size: int) -> None:
        self.size = size
        self.left = math.isqrt(max(0, size - 1)) + 1
        self.right = -(-size // self.left)
        self.rounds = 8 + 128 // size
        most = max(self.left, self.right)
        numbers = RowGenerator(key, stream, step, total=self.rounds).uniform(most).numpy()
        high = np.resize([self.left, self.right], self.rounds)[:, None]
        self.tables = (numbers * high).astype(np.int64)

    def __call__(self, places: Tensor) -> Tensor:
        """Return which thing is at each of these places. Shapes: (n,) int64 → (n,) int64."""
        return self._walk(places, range(self.rounds), 1)

    def places(self, things: Tensor) -> Tensor:
        """Return the place of each of these things. Shapes: (n,) int64 → (n,) int64."""
        return self._walk(things, range(self.rounds - 1, -1, -1), -1)

    def _walk(self, start: Tensor, rounds: range, sign: int) -> Tensor:
        found = self._once(start.numpy(), rounds, sign)
        while (outside := np.flatnonzero(found >= self.size)).size:
            found[outside] = self._once(found[outside], rounds, sign)
        return torch.from_numpy(found)

    def _once(self, pair: np.ndarray, rounds: range, sign: int) -> np.ndarray:
        left, right = np.divmod(pair, self.right)
        for number in rounds:
            if number % 2:
                right = (right + sign * self.tables[number][left]) % self.right
            else:
                left = (left + sign * self.tables[number][right]) % self.left
        return left * self.right + right


@lru_cache(maxsize=4)
def permutation(key: int, stream: str, step: int, size: int) -> Permutation:
    """Return a `Permutation`; the last ones are kept."""
    return Permutation(key, stream, step, size)


def _check(key: int, step: int) -> None:
    if key < 0 or step < 0:
        raise ValueError(f"key={key}, step={step}: both must be non-negative integers")
