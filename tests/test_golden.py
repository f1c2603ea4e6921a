"""What must not change unnoticed: the numbers of every method, and how it is written down.

The files in tests/golden were made once and are made anew on purpose only: `python tests/golden/make.py`.
"""

from __future__ import annotations

import pytest

from flowleap import methods, serialize
from golden import make

ON_PURPOSE = "if this is meant: python tests/golden/make.py"
FROZEN, OBJECTIVES = make.read(make.NUMBERS), make.read(make.OBJECTIVES)


def test_every_method_is_frozen():
    assert set(methods.names()) <= set(make.CASES) == set(FROZEN) == set(OBJECTIVES), ON_PURPOSE


@pytest.mark.parametrize("name", make.CASES)
def test_draws_targets_losses_and_samples_are_those_of_before(name):
    """Draws to the last bits of float32; all else in float64, from data, noise and times that are written down."""
    before = FROZEN[name]
    wrong = list(make.differences(before, make.numbers_of(name, before)))
    assert not wrong, "\n".join([f"{name}: {len(wrong)} numbers changed; {ON_PURPOSE}", *wrong])


@pytest.mark.parametrize("name", make.CASES)
def test_an_objective_is_written_down_as_before(name):
    """The frozen values are those of an earlier version: read with the names of today, they are what is written now."""
    before, now = serialize.upgraded(OBJECTIVES[name]), make.written(name)
    wrong = list(make.differences(before, now))
    assert before == now, "\n".join([f"{name} is written down otherwise; {ON_PURPOSE}", *wrong])
    assert serialize.from_dict(OBJECTIVES[name]) == make.CASES[name]()
