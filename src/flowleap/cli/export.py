"""flowleap export: a trained run in the formats of other libraries."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, print_json, show, waiting

if TYPE_CHECKING:
    from flowleap.export.onnx import Comparison
    from flowleap.runs import Run
    from flowleap.tables import Table

app = typer.Typer(
    no_args_is_help=True,
    help="Write a trained run in the format of another library, for use without flowleap.",
)

Latents = Annotated[
    bool, Option("--latents", help="Write a model of latents without the autoencoder that decodes them.")
]
License = Annotated[
    str | None,
    Option(
        metavar="ID",
        help="License of the weights for the model card, such as mit or cc-by-4.0.",
        show_default="unknown",
    ),
]
DataLicense = Annotated[
    str | None,
    Option(
        metavar="TEXT", help="License of the training data for the model card.", show_default="not stated"
    ),
]


@dataclass(frozen=True)
class Graph:
    """What the graph of an exported run is, for ONNX and for the page."""

    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        Option(help="How the weights are stored; the graph computes in float32."),
    ] = "fp32"
    decode: Annotated[bool, Option("--decode", help="Decode latents to images inside of the graph.")] = False
    vae: options.Vae = None
    guidance: Annotated[
        float | None,
        Option(
            metavar="W",
            help="Build this scale of classifier-free guidance into the graph, at two evaluations of the network per "
            "step. A network that was trained with --set guidance=GuidanceInput takes it as an input instead.",
            show_default="none",
        ),
    ] = None
    renoise: options.Renoise = None
    weights: options.Weights = "ema"
    imports: options.Imports = None

    def read(self, run: Path) -> Run:
        """Return the run that is exported, with the noise between steps that is asked for."""
        from flowleap.export import source

        loaded = source.finished(run, self.weights)
        return replace(loaded, objective=options.renoised(loaded.objective, self.renoise))

    def asked(self) -> dict[str, Any]:
        """Return the options of `export.onnx.export`."""
        return {name: getattr(self, name) for name in ("precision", "decode", "vae", "guidance")}


@app.callback()
def common() -> None:
    """Write a trained run in the format of another library, for use without flowleap."""


@app.command("onnx")
@options.grouped
def onnx(
    run: options.RunFolder,
    file: Annotated[Path, Argument(metavar="FILE.onnx", help="Where to write: the graph.")],
    steps: Annotated[
        str,
        Option(
            metavar="N,N,…",
            help="Numbers of sampling steps. Other than 1 alone: the step times become an input of the graph, which "
            "then takes any number of steps.",
        ),
    ] = "1",
    output: Annotated[
        Literal["float", "uint8"],
        Option(
            help="float: float32 (batch, C, H, W) in [-1, 1]; uint8: pixels (batch, H, W, C) from 0 to 255."
        ),
    ] = "float",
    opset: Annotated[int, Option(min=18, max=23, help="Version of the ONNX operators.")] = 20,
    check: Annotated[
        bool,
        Option(
            "--check/--no-check",
            help="Compare images of the graph in onnxruntime with those of torch, and measure both speeds.",
        ),
    ] = True,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    *,
    graph: Graph,
) -> None:
    """Write a run as one ONNX graph, from noise to image.

    Inputs: noise, standard normal, float32 (batch, C, H, W); label, int64 (batch,), where the model has classes; times,
    float32 (steps + 1,), with several numbers of --steps. Output: image. The metadata entry `flowleap` holds classes,
    shapes, the times of each number of steps, and the method, as JSON. Needs: pip install 'flowleap[onnx]'.
    """
    counts = options.numbers(steps, "--steps")
    options.refuse_to_overwrite(file, overwrite)

    from flowleap.export import source
    from flowleap.export.onnx import compare, export

    source.needs("onnxruntime" if check else "onnx", "onnx")
    loaded = graph.read(run)
    with waiting(f"writing {file}"):
        made = export(loaded, file, steps=counts, output=output, opset=opset, **graph.asked())
    with waiting("comparing with torch"):
        found = compare(made) if check else []
    if as_json:
        about = {"file": str(made.file), "bytes": made.size, "metadata": made.about}
        print_json({**about, "comparison": [one.as_json() for one in found]})
        return
    echo(
        f"{made.file}: {made.size / 1e6:.2f} MB, weights {loaded.weights} in {graph.precision}, opset {opset}"
    )
    if found:
        show(
            table(found), "differences between onnxruntime and torch, from the same noise; speeds on the CPU"
        )


def table(found: list[Comparison]) -> Table:
    """Return comparisons as a table."""
    from flowleap.tables import Table

    batches = list(found[0].torch)
    speeds = [f"{name}, images/s, batch {batch}" for batch in batches for name in ("onnxruntime", "torch")]
    made = Table(("steps", "largest difference", "mean difference", *speeds), text=())
    for one in found:
        taken = [kind[batch] for batch in batches for kind in (one.onnxruntime, one.torch)]
        made.add(
            str(one.steps), f"{one.largest:.1e}", f"{one.mean:.1e}", *(f"{speed:,.0f}" for speed in taken)
        )
    return made


@app.command("diffusers")
def diffusers(
    run: options.RunFolder,
    out: Annotated[Path, Argument(metavar="DIR", help="Where to write: a folder.")],
    weights: options.Weights = "ema",
    vae: options.Vae = None,
    latents: Latents = False,
    license: License = None,
    data_license: DataLicense = None,
    push_to_hub: options.PushToHub = None,
    private: options.Private = False,
    imports: options.Imports = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a run as a pipeline of diffusers, which makes the images of `flowleap sample` without flowleap.

    The folder holds all that is needed, its code included, and loads offline: DiffusionPipeline.from_pretrained(DIR,
    trust_remote_code=True). Refused are runs of points, of learned solvers (AMED), and of networks of your own.
    """
    if private and push_to_hub is None:
        raise typer.BadParameter(
            "only a model on the hub is private: give --push-to-hub", param_hint="--private"
        )
    if vae is not None and latents:
        raise typer.BadParameter("give --vae or --latents, not both", param_hint="--latents")
    options.refuse_to_overwrite(out, overwrite)
    options.import_all(imports)

    from flowleap.export import hub, source

    exporting = source.needed("flowleap.export.diffusers", "diffusers 0.42 or newer", "diffusers")
    loaded = source.finished(run, weights)
    exporting.check(loaded, out)
    if push_to_hub is not None:
        hub.check(push_to_hub)
    decoder = None if latents else loaded.decoder(vae)
    if loaded.kind == "latents" and decoder is None and not latents:
        raise ValueError(
            f"the samples of {run} are latents, and their autoencoder is not at hand: name it with --vae, or write the "
            "pipeline without one, --latents"
        )
    with waiting(f"writing {out}"):
        made = exporting.export(
            loaded, out, decoder, name=push_to_hub, license=license, data_license=data_license
        )
    address = None
    if push_to_hub is not None:
        with waiting(f"uploading {out}"):
            address = hub.push(out, push_to_hub, private)
    if as_json:
        print_json({"folder": str(out), "steps": made.steps, "difference": made.difference, "hub": address})
        return
    many = f", meant for {made.steps} steps (num_inference_steps={made.steps})" if made.steps > 1 else ""
    echo(
        f"{out}: a pipeline of diffusers, equal to flowleap sample up to {made.difference:.2g}{many}; load it with "
        f"DiffusionPipeline.from_pretrained({str(out)!r}, trust_remote_code=True)"
    )
    if address is not None:
        echo(f"{address}: uploaded {out}")


@app.command("web")
@options.grouped
def web(
    run: options.RunFolder,
    folder: Annotated[Path, Argument(metavar="DIR", help="Where to write: the folder of the page.")],
    title: Annotated[
        str | None, Option(help="The title of the page.", show_default="names the data and the steps")
    ] = None,
    steps: Annotated[
        str, Option(metavar="N,N", help="The two numbers of sampling steps that the page compares.")
    ] = "1,4",
    runtime: Annotated[
        Path | None,
        Option(
            metavar="FILE.tgz|DIR",
            help="onnxruntime-web as `npm pack` writes it, or unpacked; for machines without a network.",
            show_default="that of the installed package or of the cache folder, where npm puts it once",
        ),
    ] = None,
    webgpu: Annotated[
        bool,
        Option(
            "--webgpu", help="Compute on the GPU where the browser can; the runtime then has 27 MB, not 14."
        ),
    ] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace a folder that exists.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    *,
    graph: Graph,
) -> None:
    """Write a run as a folder of static files that generates images in a browser.

    The page shows one image in few and in more steps from the same noise, images between four noises, and 64 images.
    Its seeds mean the same images as in `flowleap sample`. It fetches the files of its folder and nothing else, so that
    any web server of static files can publish it: look at it with `python -m http.server --directory DIR`. Needs: pip
    install 'flowleap[web]'.
    """
    counts = options.numbers(steps, "--steps")
    options.refuse_to_overwrite(folder, overwrite)

    from flowleap.export import runtime as runtimes
    from flowleap.export import web as pages

    loaded = graph.read(run)
    with waiting(f"writing {folder}"):
        made = pages.write(
            loaded,
            folder,
            title=title,
            steps=counts,
            given=runtime,
            build=runtimes.GPU if webgpu else runtimes.CPU,
            **graph.asked(),
        )
    if as_json:
        print_json({"folder": str(made.folder), "bytes": made.size, "metadata": made.exported.about})
        return
    echo(
        f"{made.folder}: model and page have {made.size / 1e6:.2f} MB, beside the runtime; look at it with: python -m "
        f"http.server --directory {shlex.quote(str(made.folder))}"
    )
