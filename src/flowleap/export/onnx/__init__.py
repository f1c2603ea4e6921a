"""A trained run as one ONNX graph, from noise to images.

| input        | type    | shape               | where                                                             |
|--------------|---------|---------------------|-------------------------------------------------------------------|
| noise        | float32 | (batch, C, H, W)    | always; standard normal, the graph scales it                      |
| label        | int64   | (batch,)            | the model has classes; their number stands for "no class"         |
| guidance     | float32 | (batch,)            | the network takes the scale of guidance as an input               |
| times        | float32 | (steps + 1,)        | graphs for several steps; falling, from the start of sampling     |

| output       | type    | shape               | values                                                            |
|--------------|---------|---------------------|-------------------------------------------------------------------|
| image        | float32 | (batch, C, H, W)    | in [-1, 1]; latents and points are not clamped                    |
| image        | uint8   | (batch, H, W, C)    | with output="uint8": round(127.5 (x + 1)), one channel for gray   |

The noise of points has the shape (batch, dimensions), and that of decoded latents the shape of the latents.

A graph for several steps has one copy of the network in an ONNX Loop, so that it takes any number of steps. The entry
`flowleap` of the metadata is a JSON object, see `exporting.about`.
"""

from flowleap.export.onnx.exporting import Exported, export
from flowleap.export.onnx.parity import Comparison, compare

__all__ = ["Comparison", "Exported", "compare", "export"]
