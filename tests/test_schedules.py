"""Numbers that change in the course of a run."""

from __future__ import annotations

import math

import pytest

from flowleap.schedules import (
    ExponentialSchedule,
    LinearSchedule,
    SigmoidSchedule,
    horizon,
    limits,
    value_at,
)


def test_linear():
    assert [LinearSchedule(0.3, 0.1)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.3, 0.2, 0.1], rel=1e-12)


def test_exponential():
    """Equal ratios in equal times: 0.1 to 0.001 passes 0.01 half-way."""
    schedule = ExponentialSchedule(0.1, 0.001)
    assert [schedule(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 0.01, 0.001], rel=1e-12)


def test_sigmoid():
    schedule = SigmoidSchedule(0.1, 0.9, slope=8.0, middle=0.6)
    assert schedule(0.6) == pytest.approx(0.5, rel=1e-12)
    assert schedule(1.0) == pytest.approx(0.1 + 0.8 / (1 + math.exp(-3.2)), rel=1e-12)


def test_a_snapped_sigmoid_reaches_its_ends():
    """σ(25 (p − ½)) is below 0.005 up to p = ½ − ln(199)/25 = 0.288 and above 0.995 from 0.712 on."""
    schedule, edge = SigmoidSchedule(1.0, 0.0, slope=25.0, snap=0.005), math.log(199) / 25
    assert schedule(0.5 - edge - 1e-6) == 1.0 and schedule(0.5 + edge + 1e-6) == 0.0
    assert 0.994 < schedule(0.5 - edge + 1e-6) < 0.996 and 0.004 < schedule(0.5 + edge - 1e-6) < 0.006


def test_a_field_holds_a_number_or_a_schedule():
    schedule = LinearSchedule(0.3, 0.1)
    assert value_at(0.25, 0.7) == 0.25 and value_at(schedule, 1.0) == pytest.approx(0.1)
    assert limits(0.25) == (0.25, 0.25) and limits(schedule) == (0.1, 0.3)
    assert horizon(0.25, 1.0) is None and horizon(0.25, schedule) == 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ExponentialSchedule(0.1, 0.0), "two positive numbers"),
        (lambda: SigmoidSchedule(0.0, 1.0, slope=0.0), "slope"),
        (lambda: SigmoidSchedule(0.0, 1.0, slope=1.0, snap=0.5), "snap"),
    ],
)
def test_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
