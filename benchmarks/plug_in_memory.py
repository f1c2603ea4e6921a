"""Peak memory of the plug-in velocity: the Gram form, B² + B·D numbers, against the naive form, B·B·D numbers.

    uv run python benchmarks/plug_in_memory.py --write

Each form runs in a process of its own at B = 512, D = 4,096; the growth of the peak resident set over what the inputs
take is reported, beside what the sizes say. The results of both forms are compared on a smaller batch.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import torch

from flowleap import methods
from flowleap.paths import LinearPath
from flowleap.velocities import PlugIn


def gram(batch: int, dims: int) -> torch.Tensor:
    """The velocity as the library computes it."""
    point = points(batch, dims)
    return PlugIn(1.0)(point)


def naive(batch: int, dims: int) -> torch.Tensor:
    """The velocity from the definition: all pairs of rows and dimensions at once."""
    point, path = points(batch, dims), LinearPath()
    alpha, sigma = path.alpha(point.t), path.sigma(point.t)
    noise = (point.x_t[:, None] - alpha[:, None, None] * point.x[None]) / sigma[:, None, None]
    weight = torch.softmax(-0.5 * noise.square().sum(2), dim=1)
    velocity = -point.x[None] + noise
    return (weight[:, :, None] * velocity).sum(1)


FORMS = {"gram": gram, "naive": naive}


def points(batch: int, dims: int):
    """A batch of one class with times all over (0, 1)."""
    random = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(batch, dims, generator=random) for _ in range(2))
    t = torch.linspace(0.02, 0.98, batch)
    return methods.flow_matching().point(x, noise, t, t, t)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(form: str, batch: int, dims: int) -> None:
    """Print the growth of the peak over a first small call, in MiB."""
    FORMS[form](8, dims)
    points(batch, dims)
    before = peak_mib()
    FORMS[form](batch, dims)
    print(peak_mib() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--dims", type=int, default=4096)
    parser.add_argument("--write", action="store_true", help="write benchmarks/plug_in_memory.md")
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.batch, args.dims)
        return
    difference = float((gram(48, 64) - naive(48, 64)).abs().max())
    b, d = args.batch, args.dims
    sizes = {"gram": b * b + b * d, "naive": b * b * d}
    lines = ["| form | numbers (sizes) | MiB (sizes) | MiB measured |", "|---|---:|---:|---:|"]
    for form in FORMS:
        command = [sys.executable, __file__, "--child", form, "--batch", str(b), "--dims", str(d)]
        measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        lines.append(f"| {form} | {sizes[form]:,} | {sizes[form] * 4 / 2**20:.0f} | {measured:.0f} |")
    text = [
        "# Memory of the plug-in velocity",
        "",
        "Made by `uv run python benchmarks/plug_in_memory.py --write`.",
        f"B = {b}, D = {d}, fp32. One number of each kind is one tensor of the form's largest size; several are alive "
        f"at the peak. Largest difference of the two forms at B = 48, D = 64: {difference:.1e}.",
        "",
        *lines,
    ]
    print("\n".join(text))
    if args.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
