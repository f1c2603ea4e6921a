"""What encoding costs beside the bare autoencoder: one interleaved run over the same images.

    uv run --extra latents python benchmarks/encode.py            # on an otherwise idle machine
    uv run --extra latents python benchmarks/encode.py --write
    uv run --extra latents python benchmarks/encode.py --device cuda --size 256 --width 128 --num 5000 --batch 64

`flowleap data encode` reads PNG files, encodes plain and mirrored, checks and writes shards; the bare loop calls
`encode` of the same AutoencoderKL on images that lie in memory, in the same batches, and keeps nothing. It has the
stages of that of Stable Diffusion, and random weights; `--width 128` gives it that one's width too. `--write` puts the
numbers into benchmarks/encode.md.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from measuring import interleaved
from PIL import Image

import flowleap
from flowleap import autoencoders, data
from flowleap.clock import Moment
from flowleap.data.latent_cache import Cache


def build(folder: Path, width: int) -> None:
    """Write an AutoencoderKL of random weights with the stages of Stable Diffusion's."""
    import diffusers

    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=min(32, width),
    ).save_pretrained(folder)


def draw(folder: Path, num: int, size: int) -> None:
    """Write PNG files of smooth random images in two classes."""
    g = torch.Generator().manual_seed(0)
    for index in range(num):
        small = torch.rand(1, 3, 8, 8, generator=g)
        large = torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(0, 1)[0]
        path = folder / str(index % 2) / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * large).byte().permute(1, 2, 0).numpy()).save(path)


def now() -> Moment:
    """Return the readings of the wall clock and of the processor clock of all threads."""
    return Moment(time.perf_counter(), time.process_time())


def measure(args: argparse.Namespace, place: Path) -> dict[str, list[Moment]]:
    """Time both ways of encoding."""
    build(place / "vae", args.width)
    draw(place / "images", args.num, args.size)
    vae = autoencoders.load(place / "vae", args.device, args.precision)
    images = data.open_images(place / "images")
    held = torch.cat(list(images.batches(args.batch)))
    contents = autoencoders.planned({"all": images}, vae, source="images", shard=args.shard)

    def whole() -> None:
        shutil.rmtree(place / "cache", ignore_errors=True)
        cache = Cache.begin(place / "cache", contents)
        assert autoencoders.encode(cache, {"all": images}, vae, batch=args.batch)

    def bare() -> None:
        dtype = autoencoders.PRECISIONS[args.precision]
        with torch.no_grad():
            for part in held.split(args.batch):
                part = part.to(args.device, dtype)
                vae.module.encode(part)
                vae.module.encode(part.flip(-1))
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    return interleaved({"whole": whole, "bare": bare}, args.rounds, now=now)


def report(args: argparse.Namespace, taken: dict[str, list[Moment]], command: str) -> str:
    """Return what was measured, as Markdown."""
    whole, bare = (
        [args.num / statistics.median(column) for column in zip(*taken[name], strict=True)]
        for name in ("whole", "bare")
    )
    ratios = [b / w for (w, _), (b, _) in zip(taken["whole"], taken["bare"], strict=True)]
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    machine = f"{where}, {torch.get_num_threads()} threads ({platform.machine()}), torch {torch.__version__}"
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return "\n".join(
        [
            "# Encoding beside the bare autoencoder",
            "",
            f"Made by `{command}`. Images per second, each encoded plain and mirrored: reading PNG files, encoding, "
            "checking and writing the cache against a loop of `AutoencoderKL.encode` on images that lie in memory. The "
            "autoencoder has random weights, which cost the same. The ratio, of one interleaved run, is the result.",
            "",
            "| images | width | precision | `data encode` | bare | ratio of medians | of processor time | asked |",
            "|---|---:|---|---:|---:|---:|---:|---:|",
            f"| {args.num} of {args.size} × {args.size}, batches of {args.batch} | {args.width} | {args.precision} | "
            f"{whole[0]:.2f}/s | {bare[0]:.2f}/s | {whole[0] / bare[0]:.3f} | {whole[1] / bare[1]:.3f} | ≥ 0.9 |",
            "",
            f"Ratio round by round: {each}. {args.rounds} rounds, {machine}, flowleap {flowleap.__version__}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num", type=int, default=48)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--shard", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--write", action="store_true", help="write benchmarks/encode.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(args, Path(folder))
    given = [f"--{name} {value}" for name, value in vars(args).items() if value != parser.get_default(name)]
    words = [part for part in given if not part.startswith("--write")]
    text = report(args, taken, " ".join(["uv run --extra latents python benchmarks/encode.py", *words]))
    print(text)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
