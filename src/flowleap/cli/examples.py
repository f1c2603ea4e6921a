"""The examples at the end of each help text."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "flowleap train meanflow --data photos/ --minutes 30",
        "flowleap sample runs/photos-meanflow-seed0 --num 64 --out grid.png",
        "flowleap --install-completion",
    ),
    "train": (
        "flowleap train",
        "flowleap train --data photos/ --minutes 30",
        "flowleap train meanflow --data two-moons --steps 3000 --set times.diagonal=0.5",
        "flowleap train --track tensorboard --sample-every 200 --validation-labels 3,7",
        "flowleap train --resume --out runs/digits-esc-seed0",
    ),
    "recipes": ("flowleap recipes", "flowleap recipes esc-b2 --json"),
    "sample": (
        "flowleap sample runs/digits-esc-seed0",
        "flowleap sample runs/digits-esc-seed0 --label 7 --num 64 --out sevens.png",
        "flowleap sample runs/digits-esc-seed0 --steps 4 --num 1000 --out digits.npz --json",
    ),
    "evaluate": (
        "flowleap evaluate runs/digits-esc-seed0 --steps 1,2,4 --json",
        "flowleap evaluate digits.npz --reference digits --features digits",
    ),
    "compare": ("flowleap compare --methods esc,meanflow,shortcut --data digits --budget 3000steps",),
    "ablate": (
        "flowleap ablate esc --drop plug-in,gradual-end --data digits --seeds 3",
        "flowleap ablate meanflow --over path=linear,trigonometric --over times.diagonal=0.25,0.5,0.75",
    ),
    "ema": (
        "flowleap train esc --set optimizer.widths=0.05,0.1 --out runs/averages",
        "flowleap ema runs/averages --width 0.07",
    ),
    "report": (
        "flowleap report runs/digits-esc-seed0",
        "flowleap report runs/digits-esc-seed0 runs/digits-meanflow-seed0 --out both.html",
    ),
    "diagnose": ("flowleap diagnose runs/digits-esc-seed0 --json",),
    "app": ("flowleap app", "flowleap app runs/digits-esc-seed0 runs/digits-meanflow-seed0 --port 0"),
    "import": (
        "flowleap import esc-b2.pt --out runs/esc-b2",
        "flowleap import OWNER/NAME:file.safetensors --layout sit --out runs/sit",
    ),
    "export diffusers": (
        "flowleap export diffusers runs/digits-esc-seed0 digits-pipeline",
        "flowleap export diffusers RUN DIR --push-to-hub your-name/digits --private --license mit",
    ),
    "cite": ("flowleap cite esc meanflow",),
    "export": (
        "flowleap export diffusers runs/digits-esc-seed0 digits-pipeline",
        "flowleap export onnx runs/digits-esc-seed0 digits.onnx",
        "flowleap export web runs/digits-esc-seed0 page",
    ),
    "export onnx": (
        "flowleap export onnx runs/digits-esc-seed0 digits.onnx",
        "flowleap export onnx runs/digits-esc-seed0 small.onnx --steps 1,2,4 --precision int8 --output uint8",
    ),
    "export web": (
        "flowleap export web runs/digits-esc-seed0 page",
        "flowleap export web runs/digits-esc-seed0 page --runtime onnxruntime-web-1.30.0.tgz",
    ),
    "data": (
        "flowleap data check photos/ --out sheet.png",
        "flowleap data stats digits --features digits --out reference.npz",
    ),
    "data stats": ("flowleap data stats digits --features digits --out reference.npz",),
    "data check": ("flowleap data check photos/ --size 64 --out sheet.png",),
    "data encode": ("flowleap data encode photos/ --vae stabilityai/sd-vae-ft-ema --out photos-latents",),
    "data encoder": ("flowleap data encoder photos/ --size 32 --out photos-features.npz",),
    "data classifier": ("flowleap data classifier photos/ --size 32 --out photos-features.npz",),
    "methods": ("flowleap methods list", "flowleap methods diff meanflow esc"),
    "methods list": ("flowleap methods list --json",),
    "methods show": ("flowleap methods show meanflow esc",),
    "methods table": ("flowleap methods table meanflow esc --markdown",),
    "methods diff": ("flowleap methods diff meanflow esc",),
}
"""Commands by the name of the command whose help shows them; "" is flowleap itself."""
