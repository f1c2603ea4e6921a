"""Advice: which step counts, times and guidance a method was not trained for, in sentences."""

from __future__ import annotations

from flowleap.flow_map import EVERY_JUMP
from flowleap.interfaces import Composition
from flowleap.samplers import Sampling

__all__ = ["advice"]


def advice(o: Composition, sampling: Sampling, count: int, uniform: bool, scale: float | None) -> list[str]:
    """Return what a method was not trained for: so many network evaluations, times that are not uniform, guidance."""
    found = sampling.advice(count, uniform) or _landing(o, sampling, count)
    budget = [] if found is None else [f"{o.name} in {count} step{'s' * (count > 1)}: {found}"]
    of_target = o.target.sampling_advice(o.name, scale)
    if of_target is not None:
        return budget + of_target
    return budget if scale in (None, 1.0) else budget + _guidance(o, sampling, count, scale or 1.0)


def _landing(o: Composition, sampling: Sampling, steps: int) -> str | None:
    """Return why a network that is not conditioned on r gives another distribution in so many steps, or None."""
    if o.conditioning in EVERY_JUMP or steps < 2 or sampling.instantaneous(steps):
        return None
    fresh = sampling.renoised(steps)
    if not o.times.has_stop:
        straight = "its map follows straight lines, which fresh noise leaves; chain it, --renoise 0"
        return straight if fresh else None
    to_data = (
        "its map is trained to go to the data only, and shorter jumps change the distribution; add fresh noise "
        "between steps, --renoise 1 or sampling.renoise=1"
    )
    return to_data if fresh < 1 else None


def _guidance(o: Composition, sampling: Sampling, steps: int, scale: float) -> list[str]:
    if o.guidance is not None and o.guidance.is_input:
        outside = o.guidance.sampling_advice(scale)
        return [] if outside is None else [f"{o.name}: {outside}"]
    if o.guidance is not None and o.guidance.guides_velocity and o.guidance.scale != 1.0:
        baked = f"guidance of scale {o.guidance.scale:g} is part of the trained weights"
        return [f"{o.name}: {baked}, and {scale:g} at sampling comes on top; sample without"]
    finest = sampling.finest
    if finest is not None and steps < finest:
        meant = f"guidance at sampling is meant for its finest step only ({finest} steps)"
        return [f"{o.name} in {steps} steps: {meant}; larger jumps never saw the null label"]
    if o.label_dropout == 0:
        return [
            f"{o.name}: the null label was never trained (label_dropout=0), guidance contrasts with nothing"
        ]
    return []
