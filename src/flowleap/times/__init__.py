"""Joint laws of the times (t, s, r), r ≤ s ≤ t: departure t, intermediate time s, landing r.

| law        | t, r                                                        | s    | used by                    |
|------------|-------------------------------------------------------------|------|----------------------------|
| OneTime    | t = r from one law                                          | t    | flow matching, diffusion   |
| SortedPair | max and min of two draws; a share of rows r := t            | → t  | MeanFlow, iMF              |
| Gradual    | SortedPair, with r := t_min at first, ever more rarely      | → t  | ESC                        |
| Jumps      | SortedPair, its rows r = t with a law of their own, a share of jumps to r = 0, from t = 1 | → t | DE-CM |
| Split      | those of SortedPair or Jumps                                | between | PSD, α-Flow, SoFlow     |
| Gap        | t − r from one law, r from another, truncated; a share of rows r = t | → t | TVM              |
| DyadicGrid | t a multiple of the jump d = 2^−b, r = t − d                | t−d/2| shortcut                   |
| Curriculum | t a multiple of d = 2^−b, r = 0, ever finer                 | t − d| consistency training       |
| Adjacent   | t a multiple of h = 1/N, r = 0                              | t − h| consistency distillation   |
| Halving    | t a multiple of d = 2^−b, r = t − d, ever coarser           | t−d/2| progressive distillation   |
| ToData     | a share of rows: t a multiple of 1/N, r = 0; the others r = t | r  | live reflow                |
| Trajectories | a share of rows: t, r multiples of 1/N; the others r = t  | t−n/N| CTM                        |
| Intervals  | the intervals of a grid of few steps                        | r    | AMED                       |
| Denoising  | t from one law, r = 0                                       | r    | SiD                        |
| NoiseToData | t = 1, r = 0; groups of rows are compared                  | r    | energy distance, W-Flow, drifting |
| FullJump   | t from one law, r = 0; a share of rows may have r = t       | → t  | sCT                        |
| NoiseGrid  | t of a grid of noise levels, ever finer, r = t_min          | next | consistency training, iCT  |
| Ratio      | t a noise level, r = 0                                      | → t in stages | ECT               |
| Particles  | t uniform, r uniform below; groups of rows share them       | t − small step of σ/α | IMM       |
| Truncation | t from a boundary on, a share of rows on it, r = 0          | ratio · t | TCM                   |

A law draws rows in the order in which points carry them: the `num_jumps` rows with r < t first, then the rows r = t.
The times of a row depend on its place in that order and on the numbers drawn for it, not on other rows.
Marginal laws are `Uniform`, `LogitNormal`, `LogNormalAngle` and `NoiseLevels` on [0, 1] and `LogNormal` for the
variance-exploding path.
"""

from flowleap.interfaces import Draw, TimeLaw
from flowleap.times.continuous import Denoising, FullJump, Gradual, OneTime, SortedPair
from flowleap.times.dyadic import Curriculum, DyadicGrid, Halving
from flowleap.times.equal import Adjacent, Intervals, ToData, Trajectories
from flowleap.times.full import NoiseToData
from flowleap.times.gap import Gap
from flowleap.times.grid import spaced, stage
from flowleap.times.jumps import Jumps, Split
from flowleap.times.laws import Law, LogitNormal, LogNormal, LogNormalAngle, NoiseLevels, Uniform
from flowleap.times.noise_grid import NoiseGrid
from flowleap.times.particles import Particles
from flowleap.times.ratio import Ratio
from flowleap.times.truncated import StudentT, Truncation

__all__ = [
    "Adjacent",
    "Curriculum",
    "Denoising",
    "Draw",
    "DyadicGrid",
    "FullJump",
    "Gap",
    "Gradual",
    "Halving",
    "Intervals",
    "Jumps",
    "Law",
    "LogNormal",
    "LogNormalAngle",
    "LogitNormal",
    "NoiseGrid",
    "NoiseLevels",
    "NoiseToData",
    "OneTime",
    "Particles",
    "Ratio",
    "SortedPair",
    "Split",
    "StudentT",
    "TimeLaw",
    "ToData",
    "Trajectories",
    "Truncation",
    "Uniform",
    "spaced",
    "stage",
]
