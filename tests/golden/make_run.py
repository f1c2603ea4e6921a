"""Make a run of the present version for tests/test_old_runs.py: `python tests/golden/make_run.py NAME METHOD`.

Done once for each format of run folders. The run stops after step 7 of 12; `end` holds the weights that it comes to
when it is resumed, and samples of these.
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from flowleap import runs

PLACE = Path(__file__).resolve().parent / "runs"
STOP, STEPS = 7, 12


def make(name: str, method: str) -> None:
    """Train a tiny network on digits for 12 steps, and keep the folder as it was after 7."""
    place, end = PLACE / name / "run", PLACE / name / "end"
    small = [("network.width", "4"), ("network.depth", "1"), ("network.heads", "1")]
    options = {"batch": 16, "ema": (0.9,), "seed": 3, "device": "cpu", "threads": 1, "log_every": 1}
    quiet = {"checkpoint_every": STOP, "sample_every": 0, "eval_num": 0, "watch_share": 0.0}
    config = runs.configure(method, "digits", settings=small, steps=STEPS, **options, **quiet)
    runs.train(config, place)
    end.mkdir()
    for file in ("network.safetensors", "ema.safetensors"):
        shutil.copy(place / file, end / file)
    run, noise, label = runs.load_run(place), torch.randn(4, 1, 8, 8), torch.arange(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = {
            f"steps_{steps}": run.objective.sample(run.flow, noise, steps, label=label).numpy()
            for steps in (1, 2)
        }
    np.savez(end / "samples.npz", noise=noise.numpy(), label=label.numpy(), **made)

    checkpoint = f"step-{STOP:08d}"
    for path in place.iterdir():
        if path.name not in ("checkpoints", "config.json", "environment.json", "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (place / "checkpoints").iterdir():
        if path.is_dir() and path.name != checkpoint:
            shutil.rmtree(path)
    environment = json.loads((place / "environment.json").read_text(encoding="utf-8"))
    environment["sittings"][0] |= {"command": f"flowleap train {method}", "git": None, "platform": "Linux"}
    (place / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    (place / "checkpoints" / "latest").write_text(checkpoint + "\n", encoding="utf-8")
    lines = (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= STOP]
    (place / "metrics.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(*sys.argv[1:])
