"""The classifier score (Inception Score), high for samples of clear and of many classes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def classifier_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp E KL(p(y|x) ‖ p(y)) over each part of the samples: mean and standard deviation over the parts.

    Between 1 and the number of classes. It does not depend on real data. With the logits of Inception-v3 it is the
    Inception Score; the parts are consecutive, of equal size up to one, and the deviation divides by their number.
    Shapes: logits (n, classes), n at least `splits`.
    Raises: ValueError for other shapes, too few samples, or logits that are not finite.
    Source: Salimans et al. 2016 (arXiv 1606.03498).
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} in {splits} parts: (samples, classes) is expected, "
            "at least one sample for each part"
        )
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(logits)} rows of logits are not finite: look at the samples")
    log = logits.double().log_softmax(dim=1)
    ends = [len(log) * part // splits for part in range(splits + 1)]
    scores = []
    for start, stop in pairwise(ends):
        part = log[start:stop]
        overall = part.exp().mean(dim=0).log()
        # 0 · (−∞ − −∞) is 0: a class no sample has says nothing
        divergence = torch.where(part.exp() > 0.0, part.exp() * (part - overall), 0.0)
        scores.append(divergence.sum(dim=1).mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))
