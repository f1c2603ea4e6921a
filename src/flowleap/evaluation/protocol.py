"""Protocols: everything that a number depends on besides the model; the protocol id stands beside each number.

    flowleap/v2;FD-pixel;n=1000;ref=digits/all:1797@314b97e8b73b;labels=data;weights=ema-0.999@3600;seed=0;guidance=none
    └─────────────────── the evaluator ──────────────────────────────────┘ └────────── what was measured ───────┘

Only rows of the same evaluator may stand in one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flowleap.objectives import Objective
from flowleap.suggest import suggest

MEASURED = ";weights="


@dataclass(frozen=True)
class Standard:
    """A named and versioned evaluation protocol, as far as it is fixed before there is a model or data.

    Args:
        features: their name, None where they follow from the data.
        num: how many samples it asks for.
        labels: the label distribution, see `evaluation.labels`.
        reference: which statistics of real data it needs, in words; empty where any data set will do.
        shape: of one sample, None for any.
    """

    name: str
    version: int = 1
    features: str | None = None
    num: int = 50_000
    labels: Literal["data", "cycle", "uniform"] = "uniform"
    reference: str = ""
    shape: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.name}/v{self.version}"

    def with_labels(self, labels: str | None) -> Standard:
        """Return the standard with another label distribution; None keeps its own.

        Raises: ValueError for a published protocol, which fixes it.
        """
        if labels is None or labels == self.labels:
            return self
        if self.name != "flowleap":
            raise ValueError(
                f"protocol {self} is defined with labels drawn by {self.labels}: leave --labels out, or --protocol"
            )
        return replace(self, labels=labels)  # type: ignore[arg-type]

    def with_features(self, asked: str | None) -> str | None:
        """Return the features of the standard, or those asked for where it leaves them open.

        Raises: ValueError where it fixes others.
        """
        if self.features is not None and asked not in (None, self.features):
            raise ValueError(
                f"{asked!r}: protocol {self} is defined with {self.features}; leave --features out, or --protocol"
            )
        return self.features or asked


STANDARDS: dict[str, Standard] = {
    known.name: known
    for known in (
        Standard("flowleap", version=2, num=1000, labels="data"),
        Standard(
            "adm-in256",
            features="inception:adm",
            reference="ADM's statistics of ImageNet 256 × 256, VIRTUAL_imagenet256_labeled.npz",
            shape=(3, 256, 256),
        ),
        Standard("pytorch-fid", features="inception:pytorch-fid"),
        Standard("clean", features="inception:clean"),
        Standard("edm", features="inception:edm"),
    )
}


def standard(name: str) -> Standard:
    """Return the standard of a name, as in "adm-in256" or, with its version, "adm-in256/v1".

    Raises: ValueError for an unknown name or version, naming what is known.
    """
    head, _, version = name.strip().lower().partition("/")
    if head not in STANDARDS:
        raise ValueError(f"unknown protocol {name!r}{suggest(head, STANDARDS)}")
    found = STANDARDS[head]
    if version and version != f"v{found.version}":
        raise ValueError(f"protocol {name!r}: this version of flowleap measures by {found}")
    return found


@dataclass(frozen=True)
class Protocol:
    """The conditions of one number; `str` is the protocol id.

    Args:
        standard: name and version of the settings, as in "flowleap/v2".
        metric: the distance, named after its features: FID, FD-pixel, ….
        features_checksum: of the weights of the features, None where they have none.
        reference: the real data, see `Evaluator.described`.
        labels: the label distribution: none, data, cycle, uniform, or given.
        weights: which weights, of which step.
        renoise: γ of the fresh noise between steps; in the id unless 0.
        decoder: the autoencoder that made images of latents, with the start of its checksum; empty without.
    """

    standard: str
    metric: str
    num: int
    reference: str
    features_checksum: str | None = None
    labels: str = "none"
    weights: str = "given"
    seed: int = 0
    guidance: str = "none"
    renoise: float = 0.0
    decoder: str = ""

    @property
    def evaluator(self) -> str:
        """The part that must be the same for two numbers to be compared."""
        fitted = "" if self.features_checksum is None else f"@{self.features_checksum}"
        return f"{self.standard};{self.metric}{fitted};n={self.num};ref={self.reference};labels={self.labels}"

    def __str__(self) -> str:
        fresh = f";renoise={self.renoise:g}" if self.renoise else ""
        decoded = f";vae={self.decoder}" if self.decoder else ""
        measured = f"{self.weights};seed={self.seed};guidance={self.guidance}{fresh}{decoded}"
        return f"{self.evaluator}{MEASURED}{measured}"


def same(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the part of the protocol id that names the evaluator, which all rows must share.

    Raises: ValueError where there are no rows, or several evaluators, naming what differs.
    """
    evaluators = list(dict.fromkeys(str(row.get("protocol") or "").partition(MEASURED)[0] for row in rows))
    if not evaluators:
        raise ValueError("there are no measured rows to compare")
    if "" in evaluators:
        raise ValueError(
            "a row does not say by which protocol it was measured: measure its run again with `flowleap evaluate`"
        )
    if len(evaluators) > 1:
        parts = [dict.fromkeys(evaluator.split(";")) for evaluator in evaluators[:2]]
        only = [", ".join(part for part in own if part not in other) for own, other in (parts, parts[::-1])]
        raise ValueError(
            f"numbers of different protocols are not compared: {only[0] or evaluators[0]!r} here, "
            f"{only[1] or evaluators[1]!r} there; measure all runs again in one way with `flowleap evaluate`"
        )
    return evaluators[0]


def effective_guidance(
    objective: Objective, sampling: float | None, interval: Sequence[float] | None = None
) -> str:
    """The guidance behind samples: "none", "1.5 sampled", or the scale ω/(1 − κ) of training, "2 trained".

    Where the network takes it as an input: "3 input", or "3 input on 0.2-0.8" with the interval of times.
    """
    if objective.guidance_input:
        scale = objective.guidance_of(sampling)
        where = "" if interval is None else f" on {interval[0]:g}-{interval[1]:g}"
        return "none" if scale == 1.0 else f"{scale:g} input{where}"
    trained = None if objective.guidance is None else objective.guidance.scale
    scales = {"trained": trained, "sampled": sampling}
    parts = [f"{scale:g} {where}" for where, scale in scales.items() if scale is not None and scale != 1.0]
    return " + ".join(parts) or "none"
