"""Protocols: all that a number depends on besides the model, named, versioned and written beside the number.

    flowleap/v2;FD-pixel;n=1000;ref=digits/all:1797@314b97e8b73b;labels=data;weights=ema-0.999@3600;seed=0;guidance=none
    └────────────────────── the ruler ───────────────────────────────────┘ └────────── what was measured ───────┘

Numbers may stand in one table where their rulers are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from flowleap.objectives import Objective
from flowleap.suggest import suggest

__all__ = ["STANDARDS", "Protocol", "Standard", "effective_guidance", "same", "standard"]

MEASURED = ";weights="


@dataclass(frozen=True)
class Standard:
    """A named and versioned way to measure, as far as it is fixed before there is a model or data.

    Args:
        features: their name, None where they follow from the data.
        num: how many samples it asks for.
        labels: "data" gives classes their shares of the reference, "cycle" every class equally often, "uniform" draws
            each label.
        reference: what the real statistics must be, in words; empty where the data set itself is the reference.
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
        """Return the standard with another law of labels, where one is asked for and it fixes none.

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
        Standard(
            "flowleap",
            version=2,
            num=1000,
            labels="data",
        ),
        Standard(
            "adm-in256",
            features="inception:adm",
            reference="ADM's statistics of ImageNet 256 × 256, VIRTUAL_imagenet256_labeled.npz",
            shape=(3, 256, 256),
        ),
        Standard(
            "pytorch-fid",
            features="inception:pytorch-fid",
        ),
        Standard(
            "clean",
            features="inception:clean",
        ),
        Standard(
            "edm",
            features="inception:edm",
        ),
    )
}


def standard(name: str) -> Standard:
    """Return the standard of a name, as in "adm-in256" or, naming the version too, "adm-in256/v1".

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
        reference: what the samples are compared with, as Reference.described gives it.
        labels: the law of the labels: none, data, cycle, uniform, or given.
        weights: which weights, of which step.
        renoise: γ of the fresh noise between steps; named in the id where there is any.
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
    def ruler(self) -> str:
        """The part that must agree for two numbers to be compared."""
        fitted = "" if self.features_checksum is None else f"@{self.features_checksum}"
        return f"{self.standard};{self.metric}{fitted};n={self.num};ref={self.reference};labels={self.labels}"

    def __str__(self) -> str:
        fresh = f";renoise={self.renoise:g}" if self.renoise else ""
        decoded = f";vae={self.decoder}" if self.decoder else ""
        return (
            f"{self.ruler}{MEASURED}{self.weights};seed={self.seed};guidance={self.guidance}{fresh}{decoded}"
        )


def same(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the ruler by which all rows were measured.

    Raises: ValueError where there are no rows, or they were measured by different ones, naming what differs.
    """
    rulers = list(dict.fromkeys(str(row.get("protocol") or "").partition(MEASURED)[0] for row in rows))
    if not rulers:
        raise ValueError("there are no measured rows to compare")
    if "" in rulers:
        raise ValueError(
            "a row does not say by which protocol it was measured: measure its run again with `flowleap evaluate`"
        )
    if len(rulers) > 1:
        parts = [dict.fromkeys(ruler.split(";")) for ruler in rulers[:2]]
        only = [", ".join(part for part in own if part not in other) for own, other in (parts, parts[::-1])]
        raise ValueError(
            f"numbers of different protocols are not compared: {only[0] or rulers[0]!r} here, "
            f"{only[1] or rulers[1]!r} there; measure all runs again in one way with `flowleap evaluate`"
        )
    return rulers[0]


def effective_guidance(objective: Objective, sampling: float | None) -> str:
    """The guidance behind samples: "none", "1.5 sampled", or the scale ω/(1 − κ) of training, "2 trained"."""
    trained = None if objective.guidance is None else objective.guidance.scale
    scales = {"trained": trained, "sampled": sampling}
    parts = [f"{scale:g} {where}" for where, scale in scales.items() if scale is not None and scale != 1.0]
    return " + ".join(parts) or "none"
