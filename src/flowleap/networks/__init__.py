"""Networks: callables network(x, t, r, label) → tensor like x, knowing nothing of paths or methods."""

from collections.abc import Mapping
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowleap.fields import fits, hints, in_words
from flowleap.networks.adapters import NoiseTime, Reversed, StepToken, Timestep, WithLogVariance
from flowleap.networks.dit import DiT
from flowleap.networks.mlp import MLP
from flowleap.networks.solver import MeanDirection
from flowleap.networks.truncated import Truncated
from flowleap.networks.unet import UNet
from flowleap.suggest import suggest

__all__ = [
    "MLP",
    "TAUGHT",
    "DiT",
    "MeanDirection",
    "NoiseTime",
    "Reversed",
    "StepToken",
    "Timestep",
    "Truncated",
    "UNet",
    "WithLogVariance",
    "add",
    "build",
    "build_on_meta",
    "describe",
    "inside",
    "known",
    "knows",
    "own",
    "remove",
    "take_over",
]

_KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        DiT, MLP, MeanDirection, NoiseTime, Reversed, StepToken, Timestep, Truncated, UNet, WithLogVariance,
    )
}  # fmt: skip
FROM_ZERO = ("attention", "velocity_head")
"""Options that count from 0, such as levels."""
_OWN: dict[str, type[nn.Module]] = {}
TAUGHT = (MeanDirection.__name__, Truncated.__name__)
"""Adapters around a network that is initialized with the weights of a teacher."""


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build a network with new parameters from its `config`.

    Raises: ValueError for an unknown kind or option.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    every = _kinds()
    if not isinstance(kind, str) or kind not in every:
        raise ValueError(f"unknown kind of network {kind!r}{suggest(str(kind), every)}")
    if isinstance(options.get("network"), Mapping):
        options["network"] = build(options["network"])
    options_known = signature(every[kind]).parameters
    for name, value in options.items():
        if name not in options_known:
            raise ValueError(f"{kind} has no option {name!r}{suggest(name, options_known)}")
        _check(every[kind], name, tuple(value) if isinstance(value, list) else value)
    try:
        network = every[kind](**options)
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(
            f"a network of kind {kind} cannot be built from {sorted(options)}: {error}"
        ) from error
    return _described(network, options) if kind in _OWN else network


class _WithoutNormal(TorchFunctionMode):
    """Skips `nn.init.normal_`, which on the meta device imports torch._dynamo, and that takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        return named["tensor"] if func is nn.init.normal_ else func(*args, **named)


def build_on_meta(config: Mapping[str, Any]) -> Any:
    """As `build`, on the meta device: shapes and attributes of a network, without values."""
    with torch.device("meta"), _WithoutNormal():
        return build(config)


def _described(network: Any, options: Mapping[str, Any]) -> nn.Module:
    """Add the attributes `config` and `num_classes` to a network of your own, if it lacks them."""
    kind = type(network)
    if not hasattr(network, "config"):
        usual = {n: p.default for n, p in signature(kind).parameters.items() if p.default is not p.empty}
        network.config = {"kind": kind.__name__, **usual, **options}
    if not hasattr(network, "num_classes"):
        network.num_classes = network.config.get("classes")
    return cast(nn.Module, network)


def _check(kind: type[nn.Module], name: str, value: Any) -> None:
    """Raise ValueError for an option that does not fit its annotation, or a size that is not positive."""
    hint = hints(kind.__init__).get(name, Any)
    if not fits(value, hint):
        raise ValueError(f"network.{name}={value!r} does not fit: {kind.__name__}.{name} is {in_words(hint)}")
    least = 0 if name in FROM_ZERO else 1
    sizes = [n for n in (value if isinstance(value, tuple) else (value,)) if type(n) is int]
    if any(size < least for size in sizes):
        raise ValueError(f"network.{name}={value!r}: whole numbers from {least} up are expected")


def add(kind: type[nn.Module]) -> None:
    """Register a class of networks by its name.

    Raises: ValueError for a name that is taken.
    """
    if known(kind.__name__):
        raise ValueError(f"there is a network {kind.__name__} already: give yours another name")
    _OWN[kind.__name__] = kind


def remove(name: str) -> None:
    """Unregister a class of networks."""
    _OWN.pop(name, None)


def known(kind: str) -> bool:
    """Return whether there is a class of networks of this name."""
    return kind in _kinds()


def own() -> tuple[str, ...]:
    """Return the names of the registered classes."""
    return tuple(_OWN)


def _kinds() -> dict[str, type[nn.Module]]:
    return {**_KINDS, **_OWN}


def knows(kind: str, option: str) -> bool:
    """Return whether a class of networks has an option of this name."""
    return known(kind) and option in signature(_kinds()[kind]).parameters


def default(kind: str, option: str) -> Any:
    """Return the default of an option of a class of networks."""
    return signature(_kinds()[kind]).parameters[option].default


def around(kind: str, network: Any) -> nn.Module:
    """Return an adapter with default options around a network."""
    return _kinds()[kind](network)


def inside(network: Any) -> Any:
    """Return the network that is initialized with the weights of a teacher: the inner one of `TAUGHT`, else itself."""
    return network.network if type(network).__name__ in TAUGHT else network


def take_over(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a teacher into a network: its inner one, and its frozen first stage if it has one.

    A log-variance head that only one of them has keeps its weights, or is ignored.
    """
    for inner in (inside(network), *([network.first] if isinstance(network, Truncated) else [])):
        own = inner.state_dict()
        heads = {name: weight for name, weight in own.items() if HEAD in name}
        body = {name: weight for name, weight in weights.items() if HEAD not in name or name in own}
        inner.load_state_dict(heads | body)


HEAD = "logvar_linear"
"""In the names of the weights of a log-variance head."""


def describe(network: nn.Module) -> str:
    """One line: the class and options of a network, and its number of trained parameters."""
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    config = getattr(network, "config", {"kind": type(network).__name__})
    return f"{_summary(config)}, {trained:,} parameters"


def _summary(config: Mapping[str, Any]) -> str:
    """The class and the options that differ from their defaults."""
    kind = _kinds().get(config["kind"])
    usual = {} if kind is None else {p.name: p.default for p in signature(kind).parameters.values()}
    options = {
        name: v for name, v in config.items() if name != "kind" and (name not in usual or usual[name] != v)
    }
    shown = (_summary(value) if name == "network" else f"{name}={value}" for name, value in options.items())
    return f"{config['kind']}({', '.join(shown)})"
