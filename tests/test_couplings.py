"""Mini-batch optimal transport: the least sum of squared distances, inside each class, and nothing else is changed."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from flowleap import methods
from flowleap.couplings import NearestPairs
from flowleap.point import Batch
from flowleap.training.distributed import micro_batches
from flowleap.velocities import Conditional

LABEL = torch.tensor([2, 0, 2, 0, 1, 2, 0, 2, 0, 0])


def images(seed: int) -> torch.Tensor:
    return torch.randn(len(LABEL), 1, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("label", [LABEL, None])
def test_pairs_of_a_class_lie_as_near_as_any_order_allows(label: torch.Tensor | None) -> None:
    rows = slice(None) if label is not None else slice(0, 6)  # 720 orders of one class
    x, noise = images(0)[rows], images(1)[rows]
    paired = NearestPairs().data(x, noise, label, 0, None)
    classes = torch.zeros(len(x), dtype=torch.int64) if label is None else label
    for one in classes.unique():
        here = classes == one
        own, near, found = (every[here].flatten(1) for every in (x, noise, paired))
        least = min(
            float((own[list(order)] - near).square().sum()) for order in permutations(range(len(own)))
        )
        assert float((found - near).square().sum()) == pytest.approx(least, rel=1e-6)
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, own.tolist())), (
            "each row once, in its class"
        )
    assert float((paired - noise).square().sum()) < float((x - noise).square().sum())


def test_an_objective_draws_what_it_draws_without_it_but_for_the_order_of_data() -> None:
    free = replace(methods.meanflow(), label_dropout=0.0).for_run(10)
    near, batch = replace(free, coupling=NearestPairs()), Batch(images(0), LABEL)
    one, other = (objective.draw(batch, step=3, key=5) for objective in (free, near))
    for name in ("noise", "t", "r", "label"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(other.x, NearestPairs().data(one.x, one.noise, one.label, 0, None))
    assert torch.equal(other.x_t, near.path.point(other.x, other.noise, other.t))


@pytest.mark.parametrize("labeled", [True, False])
def test_parts_of_a_batch_draw_what_the_whole_batch_draws(labeled: bool) -> None:
    """Rows of a class that another process holds are given to it, and their noise is drawn with its own."""
    near = replace(methods.meanflow(), label_dropout=0.0, coupling=NearestPairs()).for_run(10)
    x, label = images(0), LABEL if labeled else None
    whole = near.draw(Batch(x, label), step=3, key=5)
    for parts in (2, 3):
        found = []
        for index in range(parts):
            here = near.part(len(x), 3, 5, index, parts)
            others = near.context(label, here, len(x))
            known = (None, None) if label is None else (label[here], label[others])
            beside = {"context": x[others], "context_label": known[1], "context_row": others}
            found.append(near.draw(Batch(x[here], known[0], row=here, size=len(x), **beside), step=3, key=5))
        for name in ("x", "x_t", "noise", "t", "r"):
            joined = torch.cat([getattr(one, name).flatten(1 - (name in "tr")) for one in found])
            expected = getattr(whole, name).flatten(1 - (name in "tr"))
            mine = torch.cat([one.noise[:, 0, 0, 0] for one in found]).argsort()
            assert torch.equal(joined[mine], expected[whole.noise[:, 0, 0, 0].argsort()]), name
    with pytest.warns(UserWarning, match="NearestPairs orders the rows of a class that are here, 5 of"):
        near.draw(Batch(x[:5], None, row=torch.arange(5), size=len(x)), step=3, key=5)


def test_it_is_refused_where_pairs_must_be_independent() -> None:
    with pytest.raises(ValueError, match=r"velocity=Conditional\(\), or coupling=Independent\(\)"):
        replace(methods.esc(), coupling=NearestPairs())
    near = replace(methods.esc(), velocity=Conditional(), coupling=NearestPairs())
    assert micro_batches(near, 96, None, accumulate=2) == 2
