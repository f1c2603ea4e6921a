"""Generators by name: reproducible across processes, independent across names, uncorrelated in fact."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowleap import randomness
from flowleap.randomness import Permutation, RowGenerator, generator, philox

NAMES = st.tuples(st.integers(0, 2**40), st.sampled_from(["noise", "times", "labels"]), st.integers(0, 2**31))


def numbers(key: int, stream: str, step: int, size: int = 4) -> torch.Tensor:
    return torch.randn(size, generator=generator(key, stream, step))


@given(name=NAMES)
def test_a_generator_is_a_function_of_its_name(name):
    first = numbers(*name)
    torch.manual_seed(3)
    assert torch.equal(numbers(*name), first)


@given(first=NAMES, second=NAMES)
def test_other_names_give_other_numbers(first, second):
    assert (first == second) == torch.equal(numbers(*first), numbers(*second))


def test_key_stream_and_step_are_not_exchangeable():
    names = [
        (1, "noise", 2),
        (2, "noise", 1),
        (1, "noise", 1),
        (2, "noise", 2),
        (1, "times", 2),
        (0, "noise", 3),
    ]
    for a, b in itertools.combinations(names, 2):
        assert not torch.equal(numbers(*a), numbers(*b)), (a, b)


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    numbers(0, "noise", 0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_seeds_are_those_of_every_other_machine():
    """Written down once: a run resumed elsewhere, or by a later version, must see the same draws."""
    assert generator(7, "noise", 3).initial_seed() == 10534774957928113352


@pytest.mark.parametrize("vary", ["key", "step", "stream"])
def test_first_numbers_of_neighboring_generators_are_uniform_and_uncorrelated(vary):
    """What is drawn at step k says nothing of step k + 1 (nor seeds, nor streams, nor indices of samples)."""
    names = {
        "key": [(k, "s", 0) for k in range(2000)],
        "step": [(0, "s", k) for k in range(2000)],
        "stream": [(0, f"s{k}", 0) for k in range(2000)],
    }[vary]
    values = torch.stack([torch.rand(2, generator=generator(*name), dtype=torch.float64) for name in names])
    first = values[:, 0]
    assert stats.kstest(first.numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(first[:-1].numpy(), first[1:].numpy()).statistic) < 4 / 2000**0.5
    assert abs(stats.spearmanr(first.numpy(), values[:, 1].numpy()).statistic) < 4 / 2000**0.5


@pytest.mark.parametrize(("key", "step"), [(-1, 0), (0, -1)])
def test_negative_keys_and_steps_are_refused(key, step):
    with pytest.raises(ValueError, match="both must be non-negative"):
        generator(key, "noise", step)


# the counter-based generator


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            [0, 0, 0, 0],
            (0, 0),
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
        ),
        (
            [2**64 - 1] * 4,
            (2**64 - 1, 2**64 - 1),
            [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
        ),
        (
            [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(counter, key, expected):
    """Those of Random123 (Salmon et al. 2011), its kat_vectors, "philox4x64 10"."""
    column = torch.tensor([(word + 2**63) % 2**64 - 2**63 for word in counter])[:, None]
    found = philox(column, key)[:, 0]
    assert [word % 2**64 for word in found.tolist()] == expected


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3], [2, 5, 6, 900, 2**40]])
def test_the_words_of_a_cpu_and_of_a_device_are_the_same(rows, blocks):
    name = (2**63 + 5, 2**64 - 7, 3, 2**33, 2)
    for part in ((0, blocks), (blocks - 1, blocks)):
        given = np.array(rows), blocks, part, name, torch.device("cpu")
        found, expected = randomness._words_on_device(*given), randomness._words_on_cpu(*given)
        assert found.shape == (len(rows), 4 * (part[1] - part[0])) and torch.equal(found, expected)
        own = np.random.Philox(counter=0, key=0)
        own.state |= {"buffer_pos": 4, "state": {"key": np.array(name[:2], np.uint64),
                      "counter": np.array([rows[-1] * blocks + part[0], *name[2:]], np.uint64)}}  # fmt: skip
        last = own.random_raw(4 * (part[1] - part[0])).view(np.int64)
        assert expected[-1].tolist() == last.tolist()


def drawn(kind: str, generator: RowGenerator, dims: int) -> torch.Tensor:
    return {
        "uniform": lambda: generator.uniform(dims),
        "normal": lambda: generator.normal(dims),
        "integers": lambda: generator.integers(10, dims),
        "in groups": lambda: generator.grouped(3).uniform(dims),
        "second": lambda: (generator.normal(1), generator.normal(dims))[1],
    }[kind]()


@pytest.mark.parametrize("dims", [1, 3, 64, 1000])
@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "in groups", "second"])
def test_numbers_belong_to_their_rows(kind, dims, monkeypatch):
    """Whatever other rows are here, in whatever order and pieces, on whatever device."""
    whole = drawn(kind, RowGenerator(3, "s", 5, total=12), dims)
    assert whole.shape == (12, dims)
    for rows in ([0, 1, 2], [7], [11, 3, 4, 0], [5, 5, 2], list(range(12))[::-1], []):
        rows = torch.tensor(rows, dtype=torch.int64)
        for piece, make in ((8, randomness._words_on_cpu), (1 << 15, randomness._words_on_device)):
            monkeypatch.setattr(randomness, "PIECE", piece)
            monkeypatch.setattr(randomness, "_words_on_cpu", make)
            assert torch.equal(drawn(kind, RowGenerator(3, "s", 5, total=12, rows=rows), dims), whole[rows])
            monkeypatch.undo()


def test_a_process_draws_the_numbers_of_its_rows_alone(monkeypatch):
    """Counted in words of 64 bits, which hold two normal numbers or a uniform one, in blocks of four."""
    made, words = [], randomness._SOURCE.words
    monkeypatch.setattr(
        randomness._SOURCE,
        "words",
        lambda name, block, count: (made.append(count), words(name, block, count))[1],
    )
    RowGenerator(0, "s", total=10**9, rows=torch.tensor([5, 10**9 - 1, 6])).normal(100)
    assert sum(made) == 3 * 13
    made.clear()
    RowGenerator(0, "s", total=10**9, rows=torch.tensor([5, 10**9 - 1, 6])).uniform()
    assert sum(made) == 3


def calls(count: int, dims: int) -> list[torch.Tensor]:
    generator = RowGenerator(1, "s", 2, total=1)
    return [generator.normal(dims) for _ in range(count)]


@pytest.mark.parametrize("vary", ["row", "step", "key", "stream", "call", "group"])
def test_normal_numbers_are_normal_and_independent(vary):
    """Of 400 neighboring rows, steps, … 1000 numbers each: moments, distribution and tails of all, and correlations.

    Those of columns, of columns one row apart, and of halves and squares within a row, each with standard deviation
    1/√(numbers); the bounds are four of these.
    """
    many, dims = 400, 1000
    z = {
        "row": lambda: RowGenerator(1, "s", 2, total=many).normal(dims),
        "step": lambda: torch.cat([RowGenerator(1, "s", i, total=1).normal(dims) for i in range(many)]),
        "key": lambda: torch.cat([RowGenerator(i, "s", 2, total=1).normal(dims) for i in range(many)]),
        "stream": lambda: torch.cat([RowGenerator(1, f"s{i}", 2, total=1).normal(dims) for i in range(many)]),
        "call": lambda: torch.cat(calls(many, dims)),
        "group": lambda: RowGenerator(1, "s", 2, total=2 * many).grouped(2).normal(dims)[::2],
    }[vary]().double()
    count = z.numel()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(z.pow(power).mean()) - moment) < 4 * math.sqrt(spread / count), power
    assert stats.kstest(z.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    for bound in (3, 4):
        expected = count * 2 * stats.norm.sf(bound)
        assert abs(int((z.abs() > bound).sum()) - expected) < 4 * math.sqrt(expected), bound
    pairs = {
        "next row": (z[1:], z[:-1]),
        "next row, next column": (z[1:, 1:], z[:-1, :-1]),
        "next column": (z[:, 1:], z[:, :-1]),
        "halves": (z[:, : dims // 2], z[:, dims // 2 :]),
        "squares of halves": (z[:, : dims // 2] ** 2 - 1, z[:, dims // 2 :] ** 2 - 1),
    }
    for name, (a, b) in pairs.items():
        correlation = float((a * b).mean() / (a.std() * b.std()))
        assert abs(correlation) < 4 / math.sqrt(a.numel()), name
    sums = z.sum(1) / math.sqrt(dims)
    assert stats.kstest(sums.numpy(), stats.norm.cdf).pvalue > 1e-3


def test_uniform_numbers_and_choices():
    generator = RowGenerator(4, "u", 9, total=30_000)
    u = generator.uniform()
    assert u.dtype == torch.float64 and float(u.min()) >= 0 and float(u.max()) < 1
    assert stats.kstest(u.numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert stats.chisquare(generator.integers(7).bincount(minlength=7).numpy()).pvalue > 1e-3
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0])
    found = generator.choice(weights).bincount(minlength=4)
    assert found[1] == 0
    assert stats.chisquare(found[[0, 2, 3]].numpy(), 30_000 * weights[[0, 2, 3]].numpy() / 8).pvalue > 1e-3


def test_rows_share_a_number_and_groups_theirs():
    one, two = (
        RowGenerator(4, "u", 9, total=30, rows=rows) for rows in (torch.tensor([3]), torch.arange(20))
    )
    first = one.common()
    assert two.common() == first and two.common() != first
    seen = [RowGenerator(4, "u", step, total=30).common() for step in range(2000)]
    assert stats.kstest(seen, stats.uniform.cdf).pvalue > 1e-3
    grouped, alone = (
        RowGenerator(4, "u", 9, total=30).grouped(5).uniform(),
        RowGenerator(4, "u", 9, total=30).uniform(),
    )
    assert torch.equal(grouped, grouped[::5].repeat_interleave(5)) and len(grouped.unique()) == 6
    assert not set(grouped.tolist()) & set(alone.tolist())


def test_rows_of_other_machines_and_versions():
    """Written down once, like the seeds above."""
    found = RowGenerator(7, "noise", 3, total=3, rows=torch.tensor([2]))
    assert found.integers(1 << 31).tolist() == [1358338464]


# permutations


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 100, 127, 128, 1000])
def test_a_permutation_holds_each_thing_once_and_knows_its_place(size):
    for step in range(20):
        order = Permutation(3, "order", step, size)
        places = torch.arange(size)
        things = order(places)
        assert torch.equal(things.sort().values, places) and torch.equal(order.places(things), places)
        some = torch.tensor([size - 1, size // 2])
        assert torch.equal(order(some), things[some])


def test_a_permutation_of_many_costs_what_is_asked_for():
    order, some = Permutation(0, "order", 0, 10**10), torch.tensor([0, 10**10 - 1, 5])
    assert order.tables.size < 10**6
    things = order(some)
    assert len(things.unique()) == 3 and torch.equal(order.places(things), some)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_few_things_are_equally_likely(size):
    count = (20 if size == 5 else 50) * math.factorial(size)
    found = Counter(
        tuple(Permutation(1, "order", step, size)(torch.arange(size)).tolist()) for step in range(count)
    )
    assert len(found) == math.factorial(size)
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize("size", [16, 60])
def test_each_thing_and_each_pair_of_things_is_at_each_place_equally_often(size):
    orders = torch.stack([Permutation(2, "order", step, size)(torch.arange(size)) for step in range(1000)])
    table = torch.zeros(size, size)
    for place in range(size):
        table[place] = orders[:, place].bincount(minlength=size)
    dof = (size - 1) ** 2
    total = float(((table - 1000 / size) ** 2 / (1000 / size)).sum()) * (size - 1) / size
    assert stats.chi2.sf(total, dof) > 1e-3 and stats.chi2.cdf(total, dof) > 1e-3
    apart = ((orders[:, 0] - orders[:, 1]) % size).bincount(minlength=size)[1:]
    assert stats.chisquare(apart.numpy()).pvalue > 1e-3
    together = ((orders[:, : size // 4] < size // 4).sum(1)).double()  # hypergeometric
    law = stats.hypergeom(size, size // 4, size // 4)
    assert abs(float(together.mean()) - law.mean()) < 4 * law.std() / math.sqrt(1000)
    assert abs(float(together.var()) / law.var() - 1) < 0.15
