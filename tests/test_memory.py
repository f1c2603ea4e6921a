"""Bytes of tensors in computations, rows that fit into memory, and batches that are halved."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from flowleap import memory

CPU = torch.device("cpu")
KB = 1024


def test_bytes_are_counted_while_a_tensor_lives():
    with memory.Allocations() as found:
        first = torch.zeros(KB, dtype=torch.uint8)
        view = first[10:]
        second = first + 1
        assert (found.live, found.peak) == (2 * KB, 2 * KB)
        del first
        assert found.live == 2 * KB  # the view holds it
        del view
        assert found.live == KB
        second.add_(1)
        assert (found.live, found.peak) == (KB, 2 * KB)
        del second
        assert (found.live, found.peak) == (0, 2 * KB)


def test_what_was_there_before_is_not_counted():
    before = torch.zeros(KB)
    with memory.Allocations() as found:
        found.leave_out(before)
        before.add_(1)
        before.view(2, -1)
        assert found.peak == 0


def test_saved_tensors_and_gradients_are_counted():
    """x² saves x², whose sine saves its input; the gradient of both, and what is freed on the way, are counted."""
    x = torch.zeros(KB, dtype=torch.float64, requires_grad=True)
    with memory.Allocations() as found:
        found.leave_out(x)
        y = x.exp().sin().sum()
        assert found.live == 8 * KB + 8  # exp, which is saved, and the sum
        y.backward()
        assert found.peak > 16 * KB
        del y
        gc.collect()
        assert found.live == 8 * KB  # the gradient


def test_fake_tensors_are_counted_as_if_they_held_numbers():
    huge = FakeTensorMode().from_tensor(torch.zeros(1, 1)).expand(1 << 20, 1 << 20)
    with memory.Allocations() as found:
        kept = huge + 1
        assert found.live == 4 << 40 and kept.shape == (1 << 20, 1 << 20)


def test_rows_fit_into_half_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 100.0 * KB)
    make = lambda rows: torch.zeros(rows, KB, dtype=torch.uint8).add(1)  # noqa: E731
    assert memory.fitting(make, CPU, 250) == 25  # two KB each
    assert memory.fitting(make, CPU, 7) == 7
    monkeypatch.setattr(memory, "free", lambda device: 1.0)
    assert memory.fitting(make, CPU, 250) == 1


def halving(most: int, part: range) -> list[int]:
    if len(part) > most:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return [*part]


@pytest.mark.parametrize("most", [1, 3, 10])
def test_batches_are_halved_where_memory_is_exhausted(most):
    rows = memory.Rows(8)
    parts = list(rows.computed(range(5, 26), partial(halving, most)))
    assert [row for part in parts for row in part] == list(range(5, 26))
    assert rows.count == {1: 1, 3: 2, 10: 8}[most] and max(map(len, parts)) == rows.count
    with pytest.raises(torch.OutOfMemoryError):
        list(rows.computed(range(1), partial(halving, 0)))
    with pytest.raises(ValueError, match="batches of 0 rows"):
        memory.Rows(0)
