"""Import published weights as a run folder, which can be sampled, evaluated and used as a teacher like any run.

    imported = import_weights("0600000.pt", "runs/esc-b2")      # the layout is recognized
    run = runs.load_run(imported.folder)

Only tensors and plain values are read, see `importers.files`; layouts, and what they mean, are in `importers.layouts`.
Times and signs are converted at the border, by adapters of `networks`; the transformer is ours. Computed in float32,
also where the published code computes in bfloat16.

| layout   | network here                 | method           | decoded by                       | latents ÷ |
|----------|------------------------------|------------------|----------------------------------|-----------|
| esc      | DiT                          | esc, meanflow    | stabilityai/sd-vae-ft-ema        | 0.18125   |
| sit      | Reversed(DiT)                | flow_matching    | stabilityai/sd-vae-ft-ema        | 0.18215   |
| dit      | Timestep(DiT)                | diffusion        | stabilityai/sd-vae-ft-ema or mse | 0.18215   |
| shortcut | StepToken(Reversed(DiT))     | shortcut_repo    | stabilityai/sd-vae-ft-mse        | 0.18215   |

What sampling here does otherwise than the published code: guidance acts on all channels, where SiT and DiT leave the
fourth without; a DiT is sampled by DDIM without noise of its own, so its learned variance is not used.
"""

from flowleap.importers.files import ALLOWED, Contents, read
from flowleap.importers.folder import Imported, import_weights
from flowleap.importers.layouts import LAYOUTS, Geometry, geometry, layout_of, parameters, sets_of, shapes

__all__ = [
    "ALLOWED",
    "LAYOUTS",
    "Contents",
    "Geometry",
    "Imported",
    "geometry",
    "import_weights",
    "layout_of",
    "parameters",
    "read",
    "sets_of",
    "shapes",
]
