"""Per-sample distances and weights: (regression, point) → (batch,). All arithmetic is in fp32 or wider.

| loss            | formula, Δ = prediction − target                  | source                               |
|-----------------|---------------------------------------------------|--------------------------------------|
| Squared         | ‖Δ‖²                                              | —                                    |
| PseudoHuber     | √(‖Δ‖² + c²) − c                                  | Song and Dhariwal 2023 (iCT)         |
| AdaptivePower   | ‖Δ‖² / sg(‖Δ‖² + c)^p                             | Geng et al. 2025 (MeanFlow)          |
| LearnedVariance | e^{−ℓ} m + ℓ, m any of the above, ℓ(t, r) learned | Karras et al. 2023 (EDM2); ESC       |
| LearnedCauchy   | ln(e^{−ℓ} m + c) + ℓ, ℓ(t, r) learned             | Lee et al. 2025 (DMF)                |
| Norm            | ‖Δ‖                                               | Geng et al. 2024 (ECT)               |
| Weighted        | w m, m any of these, w by name                    | iCT, sCT, α-Flow, TEMF               |
| ShortJumpsFirst | β(t − r, progress) m, m any of these              | Kim et al. 2025                      |
| StepQuotient    | m of Δ divided by the step t → s                  | Luo et al. 2025 (SoFlow)             |
| Perceptual      | Σ_l mean Σ_c w_lc (â_lc − b̂_lc)², of features     | Zhang et al. 2018 (LPIPS)            |
| WithPerceptual  | m + w d/sg(d + c), d of the implied image         | Lu et al. 2026 (pMF)                 |
| ScoreIdentity   | w ⟨G, (D_T − x) − α G⟩, G = D_T − D_ψ             | Zhou et al. 2024 (SiD)               |
| MomentMatching  | w MMD² of the points of a group of rows           | Zhou et al. 2025 (IMM)               |
| Drift           | ½‖V‖², V a field between two laws, see `drift`    | drifting; W-Flow; energy distance    |
| VelocityHead    | m of F and m of a velocity head, m any of these   | Geng et al. 2025 (iMF)               |
| Boundary        | rows on a boundary weighed as a set of their own  | Lee et al. 2024 (TCM)                |

`template` says the metric and the weight in words, of its fields and of what `inner` says.
`reduce` says whether ‖Δ‖² sums or averages over the dimensions of a row: c changes its meaning by a factor D.
"""

from flowleap.interfaces import Loss
from flowleap.losses.distances import AdaptivePower, Norm, PseudoHuber, Squared
from flowleap.losses.drift import Drift, Energy, Field, Kernel, Sinkhorn
from flowleap.losses.heads import VelocityHead
from flowleap.losses.jumps import ShortJumpsFirst, StepQuotient
from flowleap.losses.perceptual import Perceptual, WithPerceptual
from flowleap.losses.score_identity import ScoreIdentity
from flowleap.losses.sets import MomentMatching
from flowleap.losses.weights import WEIGHTS, Boundary, LearnedCauchy, LearnedVariance, Weighted

__all__ = [
    "WEIGHTS",
    "AdaptivePower",
    "Boundary",
    "Drift",
    "Energy",
    "Field",
    "Kernel",
    "LearnedCauchy",
    "LearnedVariance",
    "Loss",
    "MomentMatching",
    "Norm",
    "Perceptual",
    "PseudoHuber",
    "ScoreIdentity",
    "ShortJumpsFirst",
    "Sinkhorn",
    "Squared",
    "StepQuotient",
    "VelocityHead",
    "Weighted",
    "WithPerceptual",
]
