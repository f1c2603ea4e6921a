"""Networks by name, and their options as plain data: what `networks.build` takes.

>>> named("dit-tiny")["width"], core({"kind": "NoiseTime", "network": {"kind": "MLP"}})
(192, {'kind': 'MLP'})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowleap import networks
from flowleap.suggest import suggest

NETWORKS: dict[str, dict[str, Any]] = {
    "dit-nano": {"kind": "DiT", "width": 64, "depth": 4, "heads": 4},
    "dit-tiny": {"kind": "DiT", "width": 192, "depth": 6, "heads": 3},
    "dit-small": {"kind": "DiT", "width": 384, "depth": 12, "heads": 6},
    "dit-base": {"kind": "DiT", "width": 768, "depth": 12, "heads": 12},
    "dit-large": {"kind": "DiT", "width": 1024, "depth": 24, "heads": 16},
    "dit-xlarge": {"kind": "DiT", "width": 1152, "depth": 28, "heads": 16},
    "mlp": {"kind": "MLP", "width": 256, "depth": 4},
    "unet-small": {
        "kind": "UNet",
        "width": 32,
        "multipliers": [1, 2, 2],
        "depth": 2,
        "attention": [2],
        "heads": 2,
    },
    "unet-base": {"kind": "UNet", "width": 128, "multipliers": [2, 2, 2], "depth": 4, "attention": [1]},
    "unet-64": {"kind": "UNet", "width": 128, "multipliers": [1, 2, 2, 2], "depth": 4, "attention": [2]},
}
"""Networks by name; shape, classes and patch come from the data, everything else from the defaults."""
NETWORKS |= {
    f"dit-{size}-{patch}": {**NETWORKS[f"dit-{size}"], "patch": patch}
    for size in ("small", "base", "large", "xlarge")
    for patch in (2, 4, 8)
}


def named(name: str) -> dict[str, Any]:
    """Return the options of a network by its name in `NETWORKS`, or of a kind that was imported.

    Raises: ValueError for an unknown name, or no name.
    """
    if not isinstance(name, str):
        raise ValueError(f"network={name!r}: a name is expected, one of {', '.join(NETWORKS)}")
    if name.strip() in networks.own():
        return {"kind": name.strip()}
    key = name.strip().lower().replace("_", "-")
    if key not in NETWORKS:
        raise ValueError(f"unknown network {name!r}{suggest(key, [*NETWORKS, *networks.own()])}")
    return dict(NETWORKS[key])


def change(options: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return options with one replaced: that of a wrapper where it has it, else of the network inside."""
    if "network" in options and not networks.knows(options["kind"], name):
        return {**options, "network": change(options["network"], name, value)}
    return {**options, name: value}


def inside(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network that the weights of a teacher go into: that inside of a solver or of a network
    in two stages, or the whole.
    """
    return dict(options["network"]) if options.get("kind") in networks.TAUGHT else dict(options)


def core(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network inside all wrappers."""
    return core(options["network"]) if "network" in options else dict(options)


def with_core(options: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with another network inside all wrappers."""
    if "network" not in options:
        return dict(inner)
    return {**options, "network": with_core(options["network"], inner)}


def kinds(options: Mapping[str, Any]) -> list[str]:
    """Return the kinds of a network and of those inside it, from the outermost."""
    return [str(options.get("kind")), *(kinds(options["network"]) if "network" in options else [])]
