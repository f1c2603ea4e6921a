"""A trained run as a folder of static files that generates images in a browser.

| file                             | what                                                                     |
|----------------------------------|--------------------------------------------------------------------------|
| index.html                       | the page, with its style and its script inside                           |
| model.onnx                       | the graph, see `flowleap.export.onnx`                                    |
| onnxruntime.js, onnxruntime.wasm | ONNX Runtime Web, see `flowleap.export.runtime`                          |
| LICENSES.txt                     | the licenses of ONNX Runtime                                             |

The page fetches these files and nothing else. The noise of image i of a seed is that of `flowleap sample` (up to
rounding, below 1e-6), so that a seed means the same image here and there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowleap.export import onnx, runtime
from flowleap.export.onnx import Exported
from flowleap.export.onnx.exporting import Plan
from flowleap.export.source import needs, replaceable
from flowleap.files import new_folder
from flowleap.formatting import plural
from flowleap.provenance import version
from flowleap.reports import document
from flowleap.runs import Run
from flowleap.streams import ESCAPE

GENERATOR = "flowleap export web"
PAGE = Path(__file__).parent / "page"
MODEL = "model.onnx"
CHIPS = 12
"""Up to so many classes are shown as buttons, more as a list."""
SMOOTH = 64
"""Images from this width on are shown smoothed, smaller ones as squares."""
LEAST = 16
"""Numbers in a noise from which on the page draws it as torch does."""
STREAM_KEY = zlib.crc32(b"sample")
"""The number of the stream of `samplers.noise`, see `randomness.key_of`."""


@dataclass(frozen=True)
class Page:
    """A page that was written: its folder, its graph, and the bytes of its files without those of the runtime."""

    folder: Path
    exported: Exported
    size: int


def write(
    run: Run,
    out: Path,
    *,
    title: str | None = None,
    steps: Sequence[int] = (1, 4),
    given: Path | None = None,
    build: runtime.Build = runtime.CPU,
    **graph: Any,
) -> Page:
    """Write a run as a page that generates in a browser.

    Args:
        run: as `export.source.finished` reads it.
        out: the folder, which is replaced where it exists.
        title: None for the name of the data and the number of steps. steps: the two numbers of them that are
            compared.
        given: where the runtime is, see `runtime.found`. build: which build of it.
        graph: options of `export.onnx.export`: precision, decode, vae, guidance.

    Raises: ValueError for samples that are no images in gray or in color, or other than two numbers of steps;
        as `runtime.found` and `export.onnx.export`; all before anything is written.
    """
    needs("onnxruntime", "web")
    replaceable(out, runtime.BINARY, "a page of flowleap")
    _check(run, steps, bool(graph.get("decode")))
    held = runtime.found(build, given)
    with new_folder(out) as folder:
        for name, content in held.items():
            (folder / name).write_bytes(content)
        (folder / "LICENSES.txt").write_text(runtime.licenses(), encoding="utf-8")
        exported = onnx.export(run, folder / MODEL, steps=steps, **graph)
        wasm = len(held[runtime.BINARY])
        about = described(exported, build, {MODEL: exported.size, runtime.BINARY: wasm})
        text = page(run, about, title, runtime.version_of(held))
        size = (folder / "index.html").write_bytes(text.encode("utf-8", ESCAPE))
    return Page(out, exported, exported.size + size)


def _check(run: Run, steps: Sequence[int], decoded: bool) -> None:
    if len(set(steps)) != 2:
        raise ValueError(
            f"steps={','.join(map(str, steps))}: the page compares two numbers of steps, as in 1,4"
        )
    if run.kind == "latents" and not decoded:
        raise ValueError(f"the samples of {run.folder} are latents, and the page shows images: add --decode")
    if run.kind == "points":
        raise ValueError(f"the samples of {run.folder} are points, and the page shows images")
    channels = run.shape[0]
    if run.kind == "image" and channels not in (1, 3):
        raise ValueError(
            f"the images of {run.folder} have {plural(channels, 'channel')}, and the page shows those with 1 or 3"
        )
    if math.prod(run.shape) < LEAST:
        raise ValueError(f"the images of {run.folder} have fewer than {LEAST} numbers, too few for the page")


def described(exported: Exported, build: runtime.Build, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return what the page knows of its graph, plain data: the metadata of the graph, and

    files: the files that are fetched, and their bytes. library: the script of the runtime. providers: where it
    computes, in the order in which they are tried. command: `flowleap sample` for the images of the page. noise: how it
    is drawn.
    """
    return exported.about | {
        "files": [{"name": name, "bytes": size} for name, size in sizes.items()],
        "library": f"./{runtime.SCRIPT}",
        "providers": list(build.providers),
        "command": command(exported.plan),
        "noise": {
            "stream": STREAM_KEY,
            "drawn": "image i of a seed has the noise of torch.randn on the CPU (Mersenne Twister, Box and Muller) "
            "whose generator is seeded by numpy.random.SeedSequence([seed, stream, i])",
        },
    }


def command(plan: Plan) -> str:
    """Return the command that makes the images of the page in few steps, without seed and labels.

    The run has its name alone: where it lies on this machine is nothing to publish.
    """
    run, few = plan.run, plan.steps[0]
    words = ["flowleap", "sample", f"runs/{run.folder.resolve().name}"]
    kind = run.weights.partition("@")[0]
    if not kind.startswith("ema"):
        words += ["--weights", kind if kind.startswith("width") else kind.partition("-")[0]]
    if few > 1:
        words += ["--steps", str(few)]
        fresh = run.config.objective.sampling.renoise != run.objective.sampling.renoise
        words += ["--renoise", f"{run.objective.sampling.renoise:g}"] * fresh
    if plan.guidance is not None:
        words += ["--guidance", f"{plan.guidance:g}"]
    return shlex.join(words)


def page(run: Run, about: Mapping[str, Any], title: str | None, library: str) -> str:
    """Return the text of the page; all text of users is escaped.

    Args:
        about: as `described`. title: None for the name of the data and the number of steps. library: the version of
            the runtime.
    """
    style = document.theme() + (PAGE / "style.css").read_text("utf-8")
    script = "\n".join([*(_source(name) for name in ("noise.js", "page.js")), document.theme_script()])
    few, more = sorted(map(int, about["times"]))
    image, classes = about["image"], about["classes"]
    return document.environment(PAGE).get_template("index.html.jinja").render(
        title=title or f"{data_of(run)} in {'one step' if few == 1 else plural(few, 'step')}",
        subtitle=" · ".join(
            [run.config.method, *([f"{len(classes):,} classes"] if classes else []), f"{image[1]} × {image[2]} pixels"]
        ),
        lead=lead(about, few),
        few=few, more=more, shape=about["shape"], image=image, classes=classes, chips=CHIPS,
        guided=about["guidance"] is not None and run.flow.guidance_input,
        look="pixels" if image[2] < SMOOTH else "",
        facts=facts(run, about),
        size=_megabytes(sum(file["bytes"] for file in about["files"])),
        about=embedded(about),
        style=style, script=script, hashes={"style": _digest(style), "script": _digest(script)},
        generator=GENERATOR, version=version("flowleap"), runtime=library,
    )  # fmt: skip


def lead(about: Mapping[str, Any], few: int) -> str:
    """Return what the page does, in two sentences."""
    once = "one evaluation of a network" if few == 1 else f"{few} evaluations of a network"
    return f"From noise to an image in {once}, computed in your browser. Nothing is sent anywhere."


def data_of(run: Run) -> str:
    """Return the name of the data of a run, without the folder they lie in and the type of the file."""
    return re.sub(r"\.npz(\.xz)?$", "", Path(run.config.data.name or "images").name)


def facts(run: Run, about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of what is known of the run."""
    trained = sum(weight.numel() for weight in run.network.parameters())
    found = [
        ("method", run.config.method),
        ("data", data_of(run)),
        ("weights", run.weights),
        ("network", f"{run.config.network['kind']}, {trained:,} parameters"),
        ("model file", f"{_megabytes(about['files'][0]['bytes'])}, {about['precision']}"),
        ("sampler", f"{about['sampler']}, times from {about['start']:g} to {about['end']:g}"),
    ]
    if about["guidance"] is not None:
        found.append(("guidance", f"{about['guidance']:g}"))
    return [*found, ("noise", about["noise"]["drawn"])]


def embedded(value: Any) -> str:
    """Return plain data as JSON that may stand inside of a script element, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _source(name: str) -> str:
    return (PAGE / name).read_text("utf-8")


def _digest(text: str) -> str:
    """Return what lets a page use this text as its style or script, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
