"""What measuring costs beside what it measures, as ratios of one interleaved run.

    uv run --extra fid python benchmarks/evaluation.py            # on an otherwise idle machine
    uv run --extra fid python benchmarks/evaluation.py --write

1. An evaluation of 1,000 digit samples at 1, 2, 4 and 128 steps, everything included (reference, judge, intervals,
   kernel distance, precision, …), against the 135 bare network calls per sample that it needs.
2. Images per second through feature networks with float64 statistics, against the bare network in the same batches.
3. Extra memory of streaming statistics over 50,000 rows of 2,048 features.

`--write` puts the numbers into benchmarks/evaluation.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import interleaved

import flowleap
from flowleap import data, evaluation, methods, networks
from flowleap.evaluation import inception as inception_room
from flowleap.evaluation.moments import Moments

NUM, BATCH, STEPS = 1000, 250, (1, 2, 4, 128)
Work = Callable[[], object]

MEMORY = """
import threading, time, torch
from flowleap.evaluation.moments import Moments
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20
rows = torch.randn(250, 2048, generator=torch.Generator().manual_seed(0))
rows @ rows.T
before, seen, done = held(), [], threading.Event()
def watch():
    while not done.wait(0.002):
        seen.append(held())
thread = threading.Thread(target=watch)
thread.start()
moments = Moments()
for _ in range(200):
    moments.add(rows)
assert moments.statistics().count == 50_000
done.set(), thread.join()
print(max(seen) - before)
"""


def medians(works: dict[str, Work], rounds: int) -> dict[str, float]:
    """Return the median seconds of each work."""
    taken = interleaved(works, rounds)
    return {name: statistics.median(one.wall for one in moments) for name, moments in taken.items()}


def digits(rounds: int) -> tuple[float, float]:
    """Return the seconds of an evaluation and of the network calls in it."""
    torch.manual_seed(0)
    digits = data.load("digits")
    objective = methods.meanflow().for_run(1000)
    network = networks.DiT((1, 8, 8), classes=10, patch=2, width=64, depth=4, heads=4).eval()
    flow = objective.flow_map(network)
    x, t = torch.randn(BATCH, 1, 8, 8), torch.ones(BATCH)
    label = evaluation.cycle(BATCH, 10)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(sum(STEPS) * NUM // BATCH):
                network(x, t, t, label)

    works = {
        "evaluation": lambda: evaluation.evaluate(flow, objective, digits, STEPS, num=NUM, batch=BATCH),
        "bare": bare,
    }
    found = medians(works, rounds)
    return found["evaluation"], found["bare"]


def extraction(features: evaluation.Features, images: torch.Tensor, rounds: int) -> tuple[float, float]:
    """Return the images per second with statistics and without."""

    def measured() -> None:
        moments = Moments()
        for rows, _ in features.stream(images):
            moments.add(rows)
        if moments.count > rows.shape[1]:
            moments.statistics()

    def bare() -> None:
        with torch.no_grad():
            for part in images.split(features.batch):
                features.extract(part)

    found = medians({"measured": measured, "bare": bare}, rounds)
    return len(images) / found["measured"], len(images) / found["bare"]


def report(rounds: int) -> str:
    """Measure everything and return it as Markdown."""
    whole, bare = digits(rounds)
    lines = [
        f"| 1,000 digits at 1, 2, 4, 128 steps | {whole:.1f} s | {bare:.1f} s | {whole / bare:.3f} | ≤ 1.1 |"
    ]
    images = torch.rand(2000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for title, features, samples in (
        ("classifier (224 features), 2,000 images", evaluation.named("mnist"), images),
        ("Inception (2,048 features), 64 images", inception(), images[:64].repeat(1, 3, 1, 1)),
    ):
        with_statistics, without = extraction(features, samples, rounds)
        speeds = f"{with_statistics:.0f} images/s | {without:.0f} images/s"
        lines.append(f"| {title} | {speeds} | {with_statistics / without:.3f} | ≥ 0.95 |")
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    lines.append(f"| memory of 50,000 × 2,048 statistics | {float(done.stdout):.0f} MiB | – | – | < 2 GB |")
    head = ["| what | with measuring | bare | ratio | asked |", "|---|---:|---:|---:|---:|"]
    machine = f"{torch.get_num_threads()} CPU threads ({platform.machine()}), torch {torch.__version__}"
    return "\n".join(
        [
            "# What measuring costs",
            "",
            "Made by `uv run --extra fid python benchmarks/evaluation.py --write`. Medians of interleaved rounds; "
            "ratios, not seconds, are the result. The evaluation includes fitting the judge and the statistics of the "
            "reference, intervals, kernel distance, precision and recall, and the distance of two halves. Inception "
            "has its architecture but random weights here, which cost the same. CUDA: not measured.",
            "",
            f"{rounds} rounds, {machine}, flowleap {flowleap.__version__}",
            "",
            *head,
            *lines,
            "",
        ]
    )


def inception() -> evaluation.Features:
    """Return Inception features with random weights, which cost what trained ones cost."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Keep the weights it starts from."""

    with tempfile.TemporaryDirectory() as folder:
        nothing, path = Path(folder) / "nothing.pth", Path(folder) / "random.pth"
        torch.save({}, nothing)
        torch.save(
            Untrained("untrained", ["2048"], feature_extractor_weights_path=nothing).state_dict(), path
        )
        return inception_room.load("adm", path, unverified=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write benchmarks/evaluation.md")
    args = parser.parse_args()
    text = report(args.rounds)
    print(text)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
