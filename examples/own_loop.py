"""Bring your own loop: MeanFlow on two moons in thirty lines, without the trainer.

    uv run python examples/own_loop.py

Prints the Fréchet distance of one-step samples before and after training, and draws them to two_moons.png.
"""

import torch

from flowleap import Batch, data, evaluation, methods, networks, pictures, samplers

STEPS, BATCH, SEED = 1500, 256, 0


def main() -> None:
    moons = data.load("two-moons")
    objective = methods.meanflow().for_run(STEPS)
    torch.manual_seed(SEED)
    network = networks.MLP(2, width=128, depth=3)
    flow = objective.flow_map(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    noise = samplers.noise(SEED, range(2000), moons.shape)

    def distance() -> float:
        with torch.no_grad():
            points = samplers.chain(flow, noise, steps=1)
        made, real = (evaluation.statistics(x.double()) for x in (points, moons.x))
        return evaluation.frechet(made, real)

    print(f"one-step distance before training: {distance():.3f}")
    for step in range(STEPS):
        rows = objective.batching.indices(None, len(moons), BATCH, step, SEED)
        loss = objective(flow, frozen=flow, batch=Batch(moons.x[rows]), step=step, key=SEED)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    print(f"one-step distance after training: {distance():.3f}")

    with torch.no_grad():
        panels = {f"NFE {n}": samplers.chain(flow, noise, steps=n) for n in (1, 4)}
    pictures.scatter(panels, "two_moons.png", real=moons.x[:2000])


if __name__ == "__main__":
    main()
