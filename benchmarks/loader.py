"""How fast images are read from a disk for training, and in how much memory.

    uv run python benchmarks/loader.py            # on an otherwise idle machine
    uv run python benchmarks/loader.py --write

Speed: a folder of 10,000 files is read in random order, in rounds that alternate between the bare work (open, decode,
cut to a square, resize, as Pillow does it, in this process and nothing else) and the loader of training (batches of a
run, read ahead by W processes, as floats in the process that trains). The ratio is loader / (W × bare), the median over
rounds; the two of a round are seconds apart, so that what else the machine does meets both. On a machine that is busy
with other things the processes of the loader share its cores with them and with one another, so the same is also given
in processor time: that of the bare work for an image over that of a reading process, which is the ratio where every
process has a core.

Memory: the peak of resident memory of a process that lists a folder, looks at all headers, makes the checksum and reads
batches, in a process of its own for each number of files; and that of its largest reading process. Files are hard links
to some hundreds or thousands of different ones, which the loader cannot know.

`--write` puts the tables into benchmarks/loader.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import flowleap
from flowleap import data, methods
from flowleap.data import Preprocessing, opening
from flowleap.data.batching import Shuffled
from flowleap.data.workers import default_workers
from flowleap.training.loop import Reads

KINDS = {"PNG 64 × 64": (".png", (64, 64)), "JPEG 640 × 480": (".jpg", (640, 480))}
DIFFERENT, BATCH, SIDE = 1000, 100, 64


def photo(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Large structure, small structure and noise: files as large as those of photos."""
    made = np.zeros((size[1], size[0], 3))
    for grid, strength in ((4, 90), (16, 40)):
        small = Image.fromarray(rng.integers(0, 256, (grid, grid, 3), dtype=np.uint8))
        made += strength / 128 * (np.asarray(small.resize(size, Image.Resampling.BICUBIC), float) - 128)
    return Image.fromarray((made + rng.normal(128, 6, made.shape)).clip(0, 255).astype(np.uint8))


def make(root: Path, suffix: str, size: tuple[int, int], count: int, different: int = DIFFERENT) -> Path:
    """A folder of `count` files, of which `different` are written and the rest are links to them."""
    rng = np.random.default_rng(0)
    for index in range(count):
        place = root / f"class{index % 10}"
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{index:06d}{suffix}"
        if index < different:
            photo(rng, size).save(file, quality=90)
        else:
            twin = index % different
            os.link(root / f"class{twin % 10}" / f"{twin:06d}{suffix}", file)
    return root


def bare(files: list[str]) -> float:
    """Images per second of decoding and resizing, and nothing else."""
    begin = time.perf_counter()
    for file in files:
        with Image.open(file) as image:
            width, height = image.size
            if image.format == "JPEG":
                scale = 3.0 * SIDE / min(width, height)
                image.draft(None, (int(width * scale), int(height * scale)))
            made = image.convert("RGB")
            side = min(made.size)
            left, upper = (made.width - side) // 2, (made.height - side) // 2
            if side != SIDE or made.size != (side, side):
                made = made.crop((left, upper, left + side, upper + side))
                made = made.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            np.array(made)
    return len(files) / (time.perf_counter() - begin)


def speed(root: Path, workers: int, rounds: int, images: int) -> dict[str, float]:
    """Both rates and their ratio, by rounds."""
    dataset = data.load(root, preprocessing=Preprocessing(size=SIDE, memory=0.0))
    files, reads = [str(file) for file in sorted(root.rglob("*.*"))], batches(dataset)
    steps = images // BATCH
    alone, loaded, ratios, spent = [], [], [], 0.0
    before = children()
    with data.reading_ahead(dataset, reads, rounds * (steps + 4 * workers) + 1, workers) as reading:
        step = 0
        for _ in range(rounds):
            rows = Shuffled().indices(None, len(dataset), images, step, 0)
            begin = time.process_time()
            alone.append(bare([files[row] for row in rows.tolist()]))
            spent += time.process_time() - begin
            for _ in range(4 * workers):  # what was read while the bare work was done
                reading.take(reads.rows(step), step, 0)
                step += 1
            begin = time.perf_counter()
            for _ in range(steps):
                reading.take(reads.rows(step), step, 0)
                step += 1
            loaded.append(steps * BATCH / (time.perf_counter() - begin))
            ratios.append(loaded[-1] / (workers * alone[-1]))
    read = (step + 2 * workers) * BATCH  # two batches were waiting in each process
    return {
        "processor": (spent / (rounds * images)) / ((children() - before) / read),
        "bare": statistics.median(alone),
        "loader": statistics.median(loaded),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def children() -> float:
    """The processor time of all processes that this one began and that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def batches(dataset: data.Dataset) -> Reads:
    """Whole shuffled batches."""
    return Reads(None, len(dataset), methods.get("flow_matching"), BATCH, 0)


def memory(root: Path) -> dict[str, float]:
    """Peak resident memory of this process and of the largest one that read for it, in MB, and the seconds to open."""
    before = peak()
    begin = time.perf_counter()
    dataset = opening.from_path(root, preprocessing=Preprocessing(size=SIDE, memory=0.0))
    opened = time.perf_counter() - begin
    assert dataset.checksum
    reads = batches(dataset)
    with data.reading_ahead(dataset, reads, 100, default_workers()) as reading:
        for step in range(50):
            reading.take(reads.rows(step), step, 0)
    return {
        "files": len(dataset),
        "imports": before,
        "peak": peak(),
        "reader": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "seconds": opened,
    }


def peak() -> float:
    """The most memory that this program had resident, in MB; getrusage may tell that of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(args: argparse.Namespace, root: Path) -> list[str]:
    """Both tables, as Markdown."""
    lines = [
        "| files | workers | bare work, one process | loader | loader / (workers × bare) | lowest – highest "
        "| in processor time |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (suffix, size) in KINDS.items():
        place = make(
            root / suffix[1:], suffix, size, args.count, 2 * DIFFERENT if suffix == ".png" else DIFFERENT // 5
        )
        images = args.images if suffix == ".png" else args.images // 5
        found = speed(place, args.workers, args.rounds, images)
        lines.append(
            f"| {args.count:,} × {name} | {args.workers} "
            f"| {found['bare']:,.0f} images/s | {found['loader']:,.0f} images/s "
            f"| **{found['ratio']:.2f}** | {found['lowest']:.2f} – {found['highest']:.2f} | {found['processor']:.2f} |"
        )
        print(lines[-1], flush=True)
    lines += [
        "",
        "| files | peak memory | after the imports | of a reading process | seconds to open |",
        "|---:|---:|---:|---:|---:|",
    ]
    for count in args.counts:
        place = make(root / f"many{count}", ".png", (64, 64), count)
        done = subprocess.run(
            [sys.executable, __file__, "--memory", str(place)], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        lines.append(
            f"| {count:,} | {found['peak']:,.0f} MB | {found['imports']:,.0f} MB | {found['reader']:,.0f} MB "
            f"| {found['seconds']:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="files of the folders that are timed")
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 100_000], help="for memory")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=3000, help="of a round; a fifth for large files")
    parser.add_argument("--memory", type=Path, help="only measure the memory of reading this folder, as JSON")
    parser.add_argument("--write", action="store_true", help="put the tables into loader.md")
    args = parser.parse_args()
    if args.memory is not None:
        print(json.dumps(memory(args.memory)))
        return
    with tempfile.TemporaryDirectory() as folder:
        lines = measured(args, Path(folder))
    if args.write:
        where = Path(__file__).with_suffix(".md")
        text = where.read_text(encoding="utf-8") if where.exists() else "<!-- measured -->\n<!-- end -->\n"
        head, _, rest = text.partition("<!-- measured -->")
        tail = rest.partition("<!-- end -->")[2]
        machine = f"{os.cpu_count()} cores ({platform.machine()}), Pillow {Image.__version__}"
        load = f"load {os.getloadavg()[0]:.1f} at the end"
        about = f"flowleap {flowleap.__version__}, {machine}, torch {torch.__version__}, {load}; {args.rounds} rounds."
        body = "\n".join([about, "", *lines])
        where.write_text(f"{head}<!-- measured -->\n{body}\n<!-- end -->{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
