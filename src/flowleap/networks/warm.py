"""Initialize a network with the weights of another one of the same class, perhaps with other labels, depth or times.

| the other network has           | what is copied                                                                    |
|---------------------------------|-----------------------------------------------------------------------------------|
| a weight of this name and shape | the weight                                                                        |
| other classes                   | the embeddings of the null class and of classes with the same name                |
| classes, and this one none      | the embedding of the null class, added to that of the time                        |
| no classes, and this one some   | the embedding of the null class is 0, so that without a label both are equal      |
| t − r as second time, and this  | the constant that its embedding adds on the diagonal, r = t                       |
| one r, or one embedding         |                                                                                   |

All other weights keep their new values; a message lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BODY = ("blocks", "down", "middle", "up")
"""The parts of a network that do not depend on its input and output."""
TABLE, TIME, BIAS = "y_embedder.embedding_table.weight", "r_embedder.", "t_embedder.mlp.2.bias"
HEAD = "logvar_linear."
FREE = (
    "kind",
    "image",
    "shape",
    "classes",
    "log_variance",
    "guidance_input",
    "velocity_head",
    "checkpointing",
    "dropout",
    "second",
    "patch",
    "depth",
    "decoder",
)
"""Options that may differ: they only decide which weights fit, or do not change the function of weights."""


@dataclass(frozen=True)
class Taken:
    """Names of the copied, the new and the unused parameters, the copied share of all values, and remarks."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]
    share: float
    remarks: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """A message of a few lines."""
        said = [
            f"{len(self.taken)} of {len(self.taken) + len(self.fresh)} parameters taken, {self.share:.2%} of all values"
        ]
        said += [f"new here: {_grouped(self.fresh)}"] if self.fresh else []
        said += [f"left there: {_grouped(self.left)}"] if self.left else []
        return [*said, *self.remarks]


def innermost(network: Any) -> nn.Module:
    """Return the network inside all adapters."""
    while isinstance(getattr(network, "network", None), nn.Module):
        network = network.network
    assert isinstance(network, nn.Module)
    return network


def begin_with(network: nn.Module, other: nn.Module, same: Mapping[int, int] | None = None) -> Taken:
    """Copy the fitting weights of another network, both without their adapters, and return what was copied.

    Args:
        same: classes of this network → the same classes of the other one; None: all are, if there are as many.

    Raises: ValueError if no weight of `BODY` fits.
    """
    here: Any = innermost(network)
    there: Any = innermost(other)
    own, given = _weights(here), _weights(there)
    fit = {n for n, weight in own.items() if n in given and given[n].shape == weight.shape}
    counts = here.num_classes, there.num_classes
    each = {number: number for number in range(counts[0] or 0)} if counts[0] == counts[1] else {}
    same = each if same is None else same
    alike = counts[0] == counts[1] and same == each
    if not alike:
        fit.discard(TABLE)
    if here.config["kind"] != there.config["kind"] or not any(n.startswith(BODY) for n in fit):
        raise ValueError(
            f"nothing fits: a {_text(there.config)} there, a {_text(here.config)} here; leave the network out and it "
            "is that of the other run"
        )
    remarks = _other_options(here.config, there.config)
    with torch.no_grad():
        both = all("r_embedder" in network._modules for network in (here, there))
        if both and here.second != there.second:
            fit -= {name for name in own if name.startswith(TIME)}
        for name in fit:
            own[name].copy_(given[name])
        if both and here.second != there.second:
            remarks.append(_second_time(here, there))
        if not both and "r_embedder" in there._modules:
            remarks.append(_one_embedding(own, there))
        if not alike:
            remarks.append(_classes(here, there, own, given, same))
    count = sum(weight.numel() for weight in own.values())
    return Taken(
        taken=tuple(sorted(fit)),
        fresh=tuple(name for name in own if name not in fit),
        left=tuple(name for name in given if name not in fit),
        share=sum(own[name].numel() for name in fit) / count,
        remarks=tuple(remarks),
    )


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters())


def _second_time(here: Any, there: Any) -> str:
    """Let the embedding of the second time be the constant that the other one adds on the diagonal."""
    if there.second != "span":
        return "its second time is r there and t − r here: the embedding of the second time starts anew"
    output = here.r_embedder.mlp[-1]
    zero = torch.zeros(1, dtype=output.bias.dtype, device=output.bias.device)
    output.weight.zero_()
    output.bias.copy_(there.r_embedder.to(output.bias.device)(zero)[0])
    return "its second time is the span there and the landing here: on the diagonal both say the same"


def _one_embedding(own: dict[str, Tensor], there: Any) -> str:
    """Add the constant of the second time on the diagonal to the embedding of the time, the only one here."""
    if there.second != "span":
        return "its second time is r there, which has no embedding here: it begins as something else"
    zero = torch.zeros(1, dtype=own[BIAS].dtype, device=own[BIAS].device)
    own[BIAS] += there.r_embedder.to(own[BIAS].device)(zero)[0]
    return "its second time has no embedding here: on the diagonal both say the same"


def _classes(
    here: Any, there: Any, own: dict[str, Tensor], given: dict[str, Tensor], same: Mapping[int, int]
) -> str:
    """Copy the embeddings of the null class and of the classes that both networks have."""
    if there.num_classes is None:
        own[TABLE][-1] = 0
        return f"no classes there, {here.num_classes} here: without a label it begins as the other"
    null = given[TABLE][-1]
    if here.num_classes is None:
        own[BIAS] += null.to(own[BIAS])
        if f"{HEAD}bias" in own:  # the head reads the embedded times, which now carry more
            own[f"{HEAD}bias"] -= own[f"{HEAD}weight"] @ null.to(own[BIAS])
        return f"{there.num_classes} classes there, none here: it begins as the other without a label"
    own[TABLE][-1] = null.to(own[TABLE])
    for number, known in same.items():
        own[TABLE][number] = given[TABLE][known].to(own[TABLE])
    some = f" and {len(same)} class{'es' * (len(same) > 1)} of the same name are" if same else " is"
    rest = "the other classes" if same else "the classes"
    return (
        f"{there.num_classes} classes there, {here.num_classes} here: 'no class'{some} taken, {rest} are new"
    )


def _other_options(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Remarks on different options that weights do not show."""
    odd = [name for name in here if name not in FREE and name in there and here[name] != there[name]]
    return [
        f"{name} is {there[name]} there and {here[name]} here: it begins as something else" for name in odd
    ]


def _text(config: dict[str, Any]) -> str:
    return f"{config['kind']} of width {config['width']}"


def _grouped(names: tuple[str, ...]) -> str:
    """The parts of a network that parameters belong to."""
    parts = dict.fromkeys(".".join(name.split(".")[: 2 if name.startswith(BODY) else 1]) for name in names)
    shown = list(parts)
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
