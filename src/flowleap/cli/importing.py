"""flowleap import: published weights as a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, waiting

File = Annotated[
    str,
    Argument(
        metavar="FILE|OWNER/NAME[:FILE]",
        help="A .pt, .pth, .safetensors or .npz; or a model of the Hugging Face hub (needs huggingface_hub).",
    ),
]
Out = Annotated[Path, Option(metavar="RUN", help="Where to write: the run folder.")]
LayoutName = Annotated[
    Literal["auto", "esc", "sit", "dit", "shortcut"],
    Option(
        help="The published code: ESC (ExplicitShortCut), SiT, DiT, or shortcut-models. SiT and DiT have the same "
        "tensors, so auto cannot tell them apart.",
    ),
]
Weights = Annotated[
    Literal["ema", "raw"],
    Option(help="Which weights: the running average in the file (ema), or those of the last step (raw)."),
]
Classes = Annotated[
    str | None,
    Option(
        metavar="N|none",
        help="Number of classes, which is only checked; none: without labels, always the null class.",
        show_default="that of the label embedding",
    ),
]
Heads = Annotated[
    int | None, Option(min=1, help="Attention heads.", show_default="those published for its width")
]
Size = Annotated[
    int | None,
    Option(min=1, help="Height and width of its input.", show_default="by its position embedding, or 32"),
]
Kind = Annotated[
    Literal["auto", "latents", "image"],
    Option(help="Kind of the samples; auto: latents if they have four channels, else images."),
]
Data = Annotated[
    str | None,
    Option(
        metavar="NAME|PATH",
        help="The data: a name or path of what it was trained on, if available, for `flowleap evaluate`.",
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
    """Import published weights as a run folder, to sample from, evaluate, or use as a teacher.

    ESC, SiT and DiT: PyTorch files or safetensors. shortcut-models: an .npz of arrays with names such as
    DiTBlock_0/Dense_0/kernel. From a pickle only tensors, plain values and argparse.Namespace are read; none of its
    code is run. Networks that cannot be represented exactly are refused with the reason.
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
