"""Flows whose maps and velocities are known exactly: every method is tested against them.

| oracle      | data                        | knows                                         |
|-------------|-----------------------------|-----------------------------------------------|
| Gaussian    | N(mean, std² I)             | map, velocity, posterior mean, on any path    |
| TwoPoints   | ±1, equally likely          | map (inverting a monotone CDF), velocity      |
| FiniteData  | rows of a set               | velocity (plug-in over the whole set)         |

`FlowMap.of(oracle, parameterization)` turns a map into a perfect network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowleap.paths import LinearPath, Path
from flowleap.tensors import Image, Label, Time, like

__all__ = ["FiniteData", "Gaussian", "TwoPoints"]


@dataclass(frozen=True)
class Gaussian:
    """x ~ N(m, c² I): v = α'm + (s'/s)(z − αm), X_{t→r} = α_r m + (s_r/s_t)(z − α_t m), s² = α²c² + σ²κ².

    Args:
        mean: m, a number or a tensor that broadcasts over one row.
        std: c ≥ 0.
        path: any path.

    Exact for: every path and dimension.
    """

    mean: float | Tensor = 0.0
    std: float = 1.0
    path: Path = LinearPath()

    def scale(self, t: Time) -> Tensor:
        """Return s_t, the standard deviation of x_t, (batch,)."""
        signal = self.path.alpha(t) * self.std
        return (signal.square() + (self.path.sigma(t) * self.path.noise_scale).square()).sqrt()

    def __call__(self, x: Image, t: Time, r: Time, label: Label = None) -> Image:
        """Return X_{t→r}(x)."""
        centered = x - like(self.path.alpha(t), x) * self.mean
        return like(self.path.alpha(r), x) * self.mean + like(self.scale(r) / self.scale(t), x) * centered

    def velocity(self, x: Image, t: Time, label: Label = None) -> Image:
        """Return the marginal velocity E[dx_t/dt | x_t = x]."""
        path = self.path
        spread = path.alpha(t) * path.d_alpha(t) * self.std**2
        rate = (spread + path.sigma(t) * path.d_sigma(t) * path.noise_scale**2) / self.scale(t).square()
        centered = x - like(path.alpha(t), x) * self.mean
        return like(path.d_alpha(t), x) * self.mean + like(rate, x) * centered

    def posterior_mean(self, x: Image, t: Time) -> Image:
        """Return E[x_0 | x_t = x] = m + (α c²/s²)(x − α m)."""
        gain = self.path.alpha(t) * self.std**2 / self.scale(t).square()
        return self.mean + like(gain, x) * (x - like(self.path.alpha(t), x) * self.mean)

    def velocity_variance(self, t: Time) -> Tensor:
        """Return Var(v | x_t) = c²κ²(ασ' − σα')²/s² of the conditional velocity, per dimension, (batch,)."""
        path = self.path
        w = path.alpha(t) * path.d_sigma(t) - path.sigma(t) * path.d_alpha(t)
        return (self.std * path.noise_scale * w / self.scale(t)).square()


@dataclass(frozen=True)
class TwoPoints:
    """x = ±1 in every dimension independently: X_{t→r} keeps the cumulative probability of each coordinate.

    P(x_t ≤ z) = ½ Φ((z − α)/κσ) + ½ Φ((z + α)/κσ); v = α' m + (σ'/σ)(z − α m), m = tanh(αz/(κσ)²).

    Exact for: float64 and r ≥ 0.05 on the linear path, at points that carry probability: between the modes, where
    P(0 < x_t < z) < 1e-12, the position is lost in the rounding of the survival function.
    """

    path: Path = LinearPath()

    def __call__(self, x: Image, t: Time, r: Time, label: Label = None) -> Image:
        """Return X_{t→r}(x), differentiable once in x, t and r (one Newton step about the solution carries it)."""
        a_t, s_t = (like(v, x) for v in (self.path.alpha(t), self.path.sigma(t) * self.path.noise_scale))
        a_r, s_r = (like(v, x) for v in (self.path.alpha(r), self.path.sigma(r) * self.path.noise_scale))
        side = torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x)).detach()
        level = _log_survival(side * x, a_t, s_t)
        root = _invert(level.detach(), a_r.detach(), s_r.detach())
        slope = _log_survival_slope(root, a_r.detach(), s_r.detach())
        return side * (root - (_log_survival(root, a_r, s_r) - level) / slope)

    def velocity(self, x: Image, t: Time, label: Label = None) -> Image:
        """Return the marginal velocity E[dx_t/dt | x_t = x]."""
        return self.path.velocity_from_mean(x, t, self.posterior_mean(x, t))

    def posterior_mean(self, x: Image, t: Time) -> Image:
        """Return E[x_0 | x_t = x] = tanh(αx/(κσ)²)."""
        return torch.tanh(
            like(self.path.alpha(t) / (self.path.sigma(t) * self.path.noise_scale).square(), x) * x
        )


def _log_survival(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return ln P(x_t > z), kept in logarithms because z ≥ 0 may lie far in the tail."""
    upper = torch.special.log_ndtr((alpha - z) / sigma)
    lower = torch.special.log_ndtr((-alpha - z) / sigma)
    return torch.logaddexp(upper, lower)


def _log_survival_slope(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    density = torch.logaddexp(-0.5 * ((z - alpha) / sigma).square(), -0.5 * ((z + alpha) / sigma).square())
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=z.dtype)) + torch.log(sigma)
    return -torch.exp(density - constant - _log_survival(z, alpha, sigma))


def _invert(level: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Solve ln P(x_r > z) = level for z ≥ 0 by bisection, then polish by Newton."""
    low, high = torch.zeros_like(level), (alpha + 40 * sigma).expand_as(level).clone()
    for _ in range(60):
        middle = (low + high) / 2
        above = _log_survival(middle, alpha, sigma) > level
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    z = (low + high) / 2
    for _ in range(3):
        z = z - (_log_survival(z, alpha, sigma) - level) / _log_survival_slope(z, alpha, sigma)
    return z


@dataclass(frozen=True)
class FiniteData:
    """x uniform over the rows of a data set: the velocity of its posterior mean, masked to the rows' own class.

    Args:
        data: (size, *dims). label: (size,) or None for one class.

    Exact for: the empirical distribution; equals the plug-in velocity when the batch is the whole set.
    """

    data: Image
    label: Label = None
    path: Path = LinearPath()

    def velocity(self, x: Image, t: Time, label: Label = None) -> Image:
        """Return E[dx_t/dt | x_t = x], given the class where a label is given."""
        member = None if label is None or self.label is None else label[:, None] == self.label[None, :]
        return self.path.velocity_from_mean(x, t, self.path.posterior_mean(x, t, self.data, member))
