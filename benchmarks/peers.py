"""What a training step of other implementations costs on the network of this library, beside its own.

    git clone https://github.com/EDAPINENUT/ExplicitShortCut ../ExplicitShortCut      # outside this repository
    git clone https://github.com/haidog-yaqub/MeanFlow ../MeanFlow
    uv run --with rectified-flow-pytorch==0.14.0 python benchmarks/peers.py --threads 2 --write \\
        --explicit-shortcut ../ExplicitShortCut --meanflow-pytorch ../MeanFlow

Each loss is called as its own training calls it, with one and the same transformer (DiT), batch and optimizer: loss,
backward, clipping, AdamW, average of the weights; one step of each in turn, in an order that rotates. What is not there
is left out, with the reason. Attention is fused except where a derivative of the network is taken, which needs it
unfused. Settings are those of the published runs, with jumps on a quarter of the rows where a loss has that setting.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import measuring
import torch
from measuring import Spread, Training
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowleap import clock, networks, pictures, runs

CLASSES = 10
JUMPS = 0.25
"""Share of the rows that jump, r < t."""
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""The loss of a network for images and labels."""


@dataclass(frozen=True)
class Row:
    """A loss of an implementation; "" is ours.

    Args:
        like: our row that does the same.
        jumps: the share of the batches that jump where a batch jumps as a whole, else None.
    """

    source: str
    name: str
    like: str
    loss: Loss
    jumps: float | None = None


def velocity_loss(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    """Flow matching, as short as it can be written: ‖u(x_t, t, t) − (ε − x)‖²."""
    t, noise = torch.rand(len(x), device=x.device), torch.randn_like(x)
    at = t.view(-1, 1, 1, 1)
    return (network((1 - at) * x + at * noise, t, t, label) - (noise - x)).square().mean()


class Asked(nn.Module):
    """The network as other implementations ask it, without fused attention where a derivative is taken."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def asked(
        self, x: Tensor, t: Tensor, r: Tensor, label: Tensor | None, *, unfused: bool = False
    ) -> Tensor:
        if unfused or forward_ad.unpack_dual(x).tangent is not None:
            with sdpa_kernel(SDPBackend.MATH):
                return self.network(x, t, r, label)
        return self.network(x, t, r, label)


class Spans(Asked):
    """As rectified-flow-pytorch asks for a mean velocity: at t, over the time t − r."""

    def forward(self, x: Tensor, t: Tensor, span: Tensor, label: Tensor) -> Tensor:
        return self.asked(x, t, t - span, label)


class Ends(Asked):
    """As its SoFlow asks: from t to s."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        return self.asked(x, t, s, cond)


class Shortcuts(Asked):
    """As ExplicitShortCut asks: r before t, and its learned weight beside the answer."""

    num_classes = CLASSES

    def forward(
        self, x: Tensor, r: Tensor, t: Tensor, y: Tensor, return_logvar: bool = False, **others: Any
    ) -> Any:
        u = self.asked(x, t, r, y)
        return (u, self.network.log_variance(t, t)) if return_logvar else u


class Pairs(Asked):
    """As haidog-yaqub/MeanFlow asks: for u and v, here of one head; its derivative is of reverse mode, taken twice."""

    def forward(
        self, x: Tensor, t: Tensor, r: Tensor, y: Tensor, w: Tensor, return_v: bool = True, **others: Any
    ) -> Any:
        u = self.asked(x, t, r, y, unfused=not return_v)
        return (u, u) if return_v else u


def rectified_flow(args: argparse.Namespace) -> list[Row]:
    """MeanFlow and SoFlow of the package rectified-flow-pytorch.

    Raises: ImportError, PackageNotFoundError where it is not installed.
    """
    source = f"rectified-flow-pytorch {metadata.version('rectified-flow-pytorch')}"
    mean_flow = importlib.import_module("rectified_flow_pytorch.mean_flow").MeanFlow
    so_flow = importlib.import_module("rectified_flow_pytorch.soflow").SoFlow

    def called(make: Callable[[nn.Module], nn.Module]) -> Loss:
        made: dict[nn.Module, nn.Module] = {}

        def loss(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
            if network not in made:
                made[network] = make(network).to(x.device)
            return made[network](x, cond=label)

        return loss

    def jumping(share: float) -> Loss:
        make = partial(mean_flow, accept_cond=True, prob_default_flow_obj=1 - share)
        return called(lambda network: make(Spans(network)))

    soft = called(lambda network: so_flow(Ends(network), accept_cond=True))
    return [
        Row(source, "MeanFlow", "meanflow", jumping(1.0), jumps=JUMPS),
        Row(source, "SoFlow", "meanflow", soft),
    ]


def commit(place: Path) -> str:
    """Return the short commit of a clone."""
    done = subprocess.run(
        ["git", "-C", place, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or "no commit"


def module_of(place: Path | None, option: str, name: str) -> ModuleType:
    """Import a module of a clone.

    Raises: ImportError where there is no clone, or where it lacks a package.
    """
    if place is None:
        raise ImportError(f"give its clone by {option}")
    sys.path.insert(0, str(place))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(place))


def explicit_shortcut(args: argparse.Namespace) -> list[Row]:
    """MeanFlow and ESC of ExplicitShortCut, without guidance and with ω = 1, κ = 1/2 everywhere.

    Raises: ImportError as `module_of`.
    """
    losses = module_of(args.explicit_shortcut, "--explicit-shortcut", "loss")
    source = f"ExplicitShortCut {commit(args.explicit_shortcut)}"

    def called(kind: Any, guided: bool, **options: Any) -> Loss:
        window = {"cfg_min_t": 0.0, "cfg_max_t": 1.0} if guided else {"cfg_min_t": 1.0, "cfg_max_t": 0.0}
        options |= {"loss_type": "adaptive", "ratio_r_not_equal_t": JUMPS, "cfg_kappa": 0.5, **window}
        criterion, targets = kind(**options), {}

        def loss(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
            asked = Shortcuts(network)
            if network not in targets:
                targets[network] = like(network)
            target = targets[network]
            with torch.no_grad():  # its loop copies the weights after every step
                torch._foreach_copy_(list(target.parameters()), list(network.parameters()))
            given = {"y": label, "step_r": 1.0, "global_step": 500_000}
            return criterion(asked, Shortcuts(target), x, given)[0].mean()

        return loss

    learned = {"vplug_select_prob": 0.5, "variational_adaptive_weight": True}
    return [
        Row(source, "MeanFlow", "meanflow", called(losses.MeanFlowLoss, False)),
        Row(source, "MeanFlow, guided", "meanflow, guided", called(losses.MeanFlowLoss, True)),
        Row(source, "ESC", "esc", called(losses.ESCLoss, False, **learned)),
        Row(source, "ESC, guided", "esc, guided", called(losses.ESCLoss, True, **learned)),
    ]


def meanflow_pytorch(args: argparse.Namespace) -> list[Row]:
    """MeanFlow of haidog-yaqub/MeanFlow, with and without guidance; every row jumps there, by its own setting.

    Raises: ImportError as `module_of`.
    """
    kind = module_of(args.meanflow_pytorch, "--meanflow-pytorch", "meanflow").MeanFlow
    source = f"haidog-yaqub/MeanFlow {commit(args.meanflow_pytorch)}"

    def called(**options: Any) -> Loss:
        criterion = kind(channels=1, image_size=2 * args.side, num_classes=CLASSES, **options)
        return lambda network, x, label: criterion.loss(Pairs(network), x, label)[0]

    return [
        Row(source, "MeanFlow", "meanflow", called(mode="meanflow", cfg_scale=None)),
        Row(source, "improved MeanFlow, guided", "meanflow, guided", called()),
    ]


PEERS = {
    "rectified-flow-pytorch": rectified_flow,
    "ExplicitShortCut": explicit_shortcut,
    "haidog-yaqub/MeanFlow": meanflow_pytorch,
}
GUIDED = ("guidance", '{"type": "Guidance", "omega": 1.0, "kappa": 0.5}')
OURS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "flow matching": ("flow_matching", []),
    "meanflow": ("meanflow", []),
    "meanflow, guided": ("meanflow", [GUIDED]),
    "esc": ("esc", []),
    "esc, guided": ("esc", [GUIDED]),
}


def like(network: nn.Module) -> nn.Module:
    """Return a network of the same kind, with weights of its own."""
    made = networks.build(dict(network.config))  # type: ignore[arg-type]
    return made.to(next(network.parameters()).device)


class Bare:
    """Training with a loss and nothing else: loss, backward, clipping, AdamW, average of the weights."""

    def __init__(self, loss: Loss, args: argparse.Namespace) -> None:
        self.loss, self.size = loss, args.batch
        side, heads = 2 * args.side, max(1, args.width // 64)
        made = networks.DiT(
            (1, side, side),
            CLASSES,
            patch=2,
            width=args.width,
            depth=args.depth,
            heads=heads,
            log_variance=True,
        )
        self.network = made.to(args.device)
        self.weights = list(self.network.parameters())
        self.average = [weight.detach().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, 1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        data = measuring.noise_images(side, classes=CLASSES)
        assert isinstance(data.x, Tensor) and data.label is not None
        self.x, self.label = data.x.to(args.device), data.label.to(args.device)

    def step(self) -> None:
        """Make a step on rows drawn at random."""
        rows = torch.randint(len(self.x), (self.size,), device=self.x.device)
        loss = self.loss(self.network, self.x[rows], self.label[rows])
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1e-4)


def ours(name: str, args: argparse.Namespace) -> Training:
    """Return a training of this library, as its loop runs it."""
    method, settings = OURS[name]
    images = measuring.noise_images(2 * args.side, classes=CLASSES)
    sizes = {"patch": 2, "width": args.width, "depth": args.depth, "heads": max(1, args.width // 64)}
    settings = [(f"network.{key}", str(size)) for key, size in sizes.items()] + settings
    if not any(key == "guidance" for key, _ in settings):
        settings.append(("label_dropout", "0.1"))
    config = runs.configure(
        method, images, settings=settings, steps=measuring.STEPS, batch=args.batch, device=args.device
    )
    return Training(config, images)


def there(args: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """Return the losses that can be imported, and why others cannot."""
    found, missing = [], {}
    for name, rows in PEERS.items():
        try:
            found += rows(args)
        except (ImportError, metadata.PackageNotFoundError) as error:
            missing[name] = (
                f"{error}" if isinstance(error, ImportError) and error.name is None else f"{error!r}"
            )
    return found, missing


def measure(rows: list[Row], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each round of ours, of bare flow matching, and of each row."""
    works: dict[str, Callable[[], None]] = {name: ours(name, args).step for name in OURS}
    works[BARE] = Bare(velocity_loss, args).step
    works |= {called(row): Bare(row.loss, args).step for row in rows}
    device = torch.device(args.device)
    taken = measuring.interleaved(works, args.rounds, args.warmup, lambda: clock.now(device))
    seconds = {
        name: [moment.work if args.busy else moment.wall for moment in moments]
        for name, moments in taken.items()
    }
    for row in rows:  # where a whole batch jumps, or none of its rows does
        if row.jumps is not None:
            jumping = zip(seconds[called(row)], seconds[BARE], strict=True)
            seconds[called(row)] = [row.jumps * one + (1 - row.jumps) * other for one, other in jumping]
    return seconds


BARE = "flow matching, loss and optimizer alone"


def called(row: Row) -> str:
    return f"{row.source}: {row.name}"


def lines_of(rows: list[Row], found: dict[str, Spread]) -> list[str]:
    """Return the table of what was measured."""
    base = found["flow matching"].median
    head = ["", "ms per step", "ratio to flow matching", "ratio to ours"]
    cells = [[f"flowleap: {name}", *numbers(found[name], base), ""] for name in (*OURS, BARE)]
    for row in rows:
        ratio = found[called(row)].over(found[row.like].median).text()
        cells.append([called(row), *numbers(found[called(row)], base), f"{ratio} × {row.like}"])
    return measuring.table(head, cells)


def numbers(spread: Spread, base: float) -> tuple[str, str]:
    return f"{1000 * spread.median:.1f}", spread.over(base).text()


def draw(found: dict[str, Spread], path: Path) -> None:
    """Draw the ratios to flow matching with their quartiles, ours in another color."""
    base = found["flow matching"].median
    figure, (axis,) = measuring.axes(8.2, 1.0 + 0.26 * len(found))
    for index, (name, spread) in enumerate(found.items()):
        low, median, high = spread.over(base)
        color = pictures.BLUE if name in (*OURS, BARE) else pictures.COLORS[1]
        axis.plot([low, high], [index, index], color=color, alpha=0.4, linewidth=4)
        axis.plot(median, index, "o", color=color)
    axis.set_yticks(range(len(found)), found)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("time of a training step / our flow-matching step", color=pictures.INK)
    figure.savefig(path)


NOTES = (
    "One transformer, batch, precision and optimizer for all; medians of rounds of one step of each in turn, with "
    "quartiles. Ours are whole steps of the training loop, with draws, batches and its log; of the others the loss, "
    "backward, clipping, AdamW and an average of the weights alone are counted, which favors them. Jumps (r < t) have "
    "a quarter of the rows, guidance ω = 1 and κ = 1/2 everywhere; in haidog-yaqub/MeanFlow all rows jump, and its "
    "guidance is its own. Batches of the MeanFlow of rectified-flow-pytorch jump as a whole or not at all: a quarter "
    "of its step that jumps and three quarters of the short flow-matching step are given.",
    "",
)


def main() -> None:
    parser = measuring.parser(__doc__, rounds=20)
    parser.add_argument("--explicit-shortcut", type=Path, metavar="CLONE")
    parser.add_argument("--meanflow-pytorch", type=Path, metavar="CLONE")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--side", type=int, default=8, help="tokens per side (8: 64 tokens)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=2)
    args = measuring.parsed(
        parser, {"rounds": 1, "warmup": 0, "width": 32, "depth": 1, "side": 2, "batch": 32}
    )
    rows, missing = there(args)
    seconds = measure(rows, args)
    found = {name: measuring.spread(values) for name, values in seconds.items()}
    lines = [
        *NOTES,
        f"DiT {args.depth} × {args.width}, {args.side**2} tokens, batch {args.batch}, fp32, {args.rounds} rounds.",
        "",
        *lines_of(rows, found),
        *(f"\nNot measured: {name}: {reason}." for name, reason in missing.items()),
    ]
    content = {"seconds": {name: spread._asdict() for name, spread in found.items()}, "missing": missing}
    measuring.publish(args, "A training step of other implementations", lines, content, partial(draw, found))


if __name__ == "__main__":
    main()
