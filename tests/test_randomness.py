"""Generators by name: reproducible across processes, independent across names, uncorrelated in fact."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flowleap.randomness import generator

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
