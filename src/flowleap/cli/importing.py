"""flowleap import: published weights as a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from flowleap.cli import options
from flowleap.cli.group import echo, waiting

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE|OWNER/NAME[:FILE]",
        help="A .pt, .pth, .safetensors or .npz; or a model of the Hugging Face hub, where huggingface_hub is there.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="RUN", help="Where to write: the run folder.")]
LayoutName = Annotated[
    Literal["auto", "esc", "sit", "dit", "shortcut"],
    typer.Option(
        help="Whose network it is: ESC (ExplicitShortCut), SiT, DiT, or shortcut-models. SiT and DiT have the same "
        "tensors, so auto asks which.",
    ),
]
Weights = Annotated[
    Literal["ema", "raw"],
    typer.Option(help="Which weights: the running average in the file, or those of the last step."),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="N|none",
        help="none: no labels, it is given its null class always. A number is only checked.",
        show_default="by the table of labels",
    ),
]
Heads = Annotated[
    int | None, typer.Option(min=1, help="Attention heads.", show_default="those published at its width")
]
Size = Annotated[
    int | None,
    typer.Option(min=1, help="Height and width of what it takes.", show_default="by its positions, or 32"),
]
Kind = Annotated[
    Literal["auto", "latents", "image"],
    typer.Option(help="What it makes; auto takes four channels for latents of an image decoder."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="The data: a name or a place of what it was trained on, if available; samples are compared with it.",
    ),
]


def import_(
    file: File,
    out: Out,
    layout: LayoutName = "auto",
    weights: Weights = "ema",
    classes: Classes = None,
    heads: Heads = None,
    image_size: Size = None,
    kind: Kind = "auto",
    data: Data = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Import published weights as a run, to sample from it, measure it, or let it teach.

    ESC, SiT and DiT from their PyTorch files or safetensors; shortcut-models from an array dictionary, a .npz with
    names such as DiTBlock_0/Dense_0/kernel. Of a pickle only tensors, plain values and argparse.Namespace are
    read, and nothing in it is run. What cannot be represented is refused with the reason.
    """
    from flowleap import importers

    with waiting(f"reading {file}"):
        made = importers.import_weights(
            file,
            out,
            layout=layout,
            weights=weights,
            classes=classes,
            heads=heads,
            image_size=image_size,
            kind=kind,
            data=data,
            overwrite=overwrite,
        )
    echo(made.text)
    options = f" --steps {made.steps}" if made.steps > 1 else ""
    options += " --weights raw" if made.weights == "raw" else ""
    echo(f"{out}: sample with: flowleap sample {shlex.quote(str(out))}{options}")
