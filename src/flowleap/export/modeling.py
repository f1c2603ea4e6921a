"""The network of a flowleap pipeline: the average velocity u(x, t, r) = (X_{t→r}(x) − x)/(r − t) of a flow map X.

x − (t − r) u(x, t, r) is the point at time r of the flow line through x at time t. Time is 0 at the data.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from flowleap.flow_map import FlowMap
from flowleap.networks.adapters import NoiseTime, Reversed, StepToken, Timestep, WithLogVariance
from flowleap.networks.dit import DiT
from flowleap.networks.truncated import Truncated
from flowleap.networks.unet import UNet
from flowleap.parameterization import (
    EDM,
    AverageVelocity,
    ConsistencyEDM,
    Endpoint,
    ImagePrediction,
    Noise,
    Preconditioned,
    Velocity,
)
from flowleap.paths import LinearPath, TrigPath, VEPath, VPPath

NETWORKS = {
    kind.__name__: kind
    for kind in (DiT, UNet, NoiseTime, Reversed, StepToken, Timestep, WithLogVariance, Truncated)
}
PATHS = {kind.__name__: kind for kind in (LinearPath, TrigPath, VPPath, VEPath)}
MEANINGS = {
    kind.__name__: kind
    for kind in (
        AverageVelocity, Velocity, Endpoint, ImagePrediction, Noise, EDM, ConsistencyEDM, Preconditioned,
    )
}  # fmt: skip


def made(config: Any, known: dict[str, Any]) -> Any:
    """Build a part from {"kind": the name of its class, option: value, …}, and the parts inside it first."""
    if not isinstance(config, dict):
        return config
    options = {name: made(value, known) for name, value in config.items() if name != "kind"}
    return known[config["kind"]](**options)


class FlowleapModel(ModelMixin, ConfigMixin):
    """A network, with the path and the parameterization that give its output a meaning.

    Args:
        architecture, path, parameterization: {"kind": the name of a class, option: value, …}.
        conditioning: the times that the network is given, see `FlowMap`.
        start: the time at which sampling begins, None for the last one of the path.
        sample_shape: of one sample, (channels, height, width).
    """

    text: ClassVar[str] = FilePath(__file__).read_text(encoding="utf-8")
    """The file of this class, which is saved beside the weights."""

    @register_to_config
    def __init__(
        self,
        architecture: dict[str, Any],
        path: dict[str, Any],
        parameterization: dict[str, Any],
        conditioning: str = "t,r",
        start: float | None = None,
        sample_shape: tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.network = made(architecture, NETWORKS)
        meaning: Any = (made(parameterization, MEANINGS), made(path, PATHS), conditioning, start)
        self.flow = FlowMap(self.network, *meaning)

    def forward(
        self,
        sample: Tensor,
        t: Tensor | float,
        r: Tensor | float,
        class_labels: Tensor | None = None,
        instantaneous: bool = False,
        return_dict: bool = True,
    ) -> Any:
        """Return u(x, t, r), like the sample: sample − (t − r) u is where the flow leads at time r.

        Args:
            sample: x, (batch, channels, height, width), at least as precise as float32 for exact steps.
            t, r: times (not timesteps), for all rows or one each; t > r.
            class_labels: (batch,) int64; where the network takes guidance as an input also (batch, 4) float32: class,
                scale, first and last guided time.
            instantaneous: whether the network is asked for the velocity at t, which is stepped with.
        """
        times = (torch.as_tensor(time, dtype=torch.float32, device=sample.device) for time in (t, r))
        now, then = (time.expand(len(sample)) for time in times)
        asked = now if instantaneous else then
        output = self.flow.output(sample, now, asked, class_labels)
        u = self.flow.velocity_of(output, sample, now, then)
        return Transformer2DModelOutput(sample=u) if return_dict else (u,)
