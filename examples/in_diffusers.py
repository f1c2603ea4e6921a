"""Use a trained model in diffusers: train, export, and make images with the three lines that need no flowleap.

    uv run python examples/in_diffusers.py

The pipeline is written to digits-pipeline, its images at one and at four steps to in_diffusers.png.
"""

from __future__ import annotations

from pathlib import Path

import flowleap
from flowleap import pictures
from flowleap.export import diffusers, source

STEPS = 3000
FOLDER = Path("digits-pipeline")


def main() -> None:
    result = flowleap.train("esc", "digits", steps=STEPS, out="runs/in-diffusers", overwrite=True)
    diffusers.export(source.finished(result.folder), FOLDER)

    # from here on without flowleap: the folder holds the code, the weights and a model card
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    images = pipe(class_labels=["7"] * 8, seed=1).images
    print(f"{len(images)} images of {images[0].size} pixels, of class {pipe.config.id2label['7']}")

    tensors = {n: pipe(40, n, seed=0, output_type="pt").images * 2 - 1 for n in (1, 4)}
    pictures.save(pictures.figure(tensors, columns=10), "in_diffusers.png")


if __name__ == "__main__":
    main()
