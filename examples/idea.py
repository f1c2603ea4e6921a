"""The one idea as a picture: one jump along a flow line equals two. Draws docs/images/idea.png.

uv run python examples/idea.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from flowleap.oracles import TwoPoints

PLACE = Path(__file__).parent.parent / "docs" / "images" / "idea.png"
INK, ONE, TWO = "#444444", "#c2410c", "#1d4ed8"
PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}


def main() -> None:
    flow = TwoPoints()  # data: -1 or 1, equally likely; its flow map is known exactly
    times = torch.linspace(1.0, 1e-3, 200, dtype=torch.float64)
    figure, axes = plt.subplots(figsize=(7.2, 3.0), layout="constrained")
    for start in torch.linspace(-2.4, 2.4, 16, dtype=torch.float64):
        line = flow(start.expand(200, 1), torch.ones_like(times), times)[:, 0]
        axes.plot(times, line, color="#9ca3af", linewidth=0.8, zorder=1)

    t, s, r = (torch.tensor([time], dtype=torch.float64) for time in (0.92, 0.55, 0.12))
    x_t = flow(torch.tensor([[0.75]], dtype=torch.float64), torch.ones(1, dtype=torch.float64), t)
    x_s = flow(x_t, t, s)
    x_r = flow(x_t, t, r)
    assert torch.allclose(x_r, flow(x_s, s, r), atol=1e-9)  # one jump equals two
    places = [(float(time), float(x)) for time, x in ((t, x_t), (s, x_s), (r, x_r))]
    for begin, end, color, bend in (
        (places[0], places[2], ONE, -0.28),
        (places[0], places[1], TWO, 0.3),
        (places[1], places[2], TWO, 0.3),
    ):
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 2.0, "shrinkA": 4, "shrinkB": 4}
        axes.annotate("", end, begin, arrowprops={**arrow, "connectionstyle": f"arc3,rad={bend}"}, zorder=3)
    for (time, x), name in zip(places, ("$x_t$", "$x_s$", "$x_r$"), strict=True):
        axes.scatter([time], [x], color=INK, s=22, zorder=4)
        axes.annotate(name, (time, x), (-4, 8), textcoords="offset points", color=INK)
    axes.text(0.55, 1.72, r"one jump: $X_{t\to r}(x_t)$", color=ONE, ha="center", bbox=PLATE)
    axes.text(0.5, -0.72, r"two jumps: $X_{s\to r}(X_{t\to s}(x_t))$", color=TWO, ha="center", bbox=PLATE)
    axes.set_xlim(1.03, -0.03)
    axes.set_ylim(-2.5, 2.5)
    axes.set_xticks([1, 0.92, 0.55, 0.12, 0], ["noise\n1", "t", "s", "r", "data\n0"])
    axes.set_yticks([-1, 1])
    axes.spines[["top", "right"]].set_visible(False)
    PLACE.parent.mkdir(exist_ok=True)
    figure.savefig(PLACE, dpi=160)
    print(f"saved {PLACE}")


if __name__ == "__main__":
    main()
