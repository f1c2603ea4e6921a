"""Settings that all tests share."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # parallel workers, and the commands they start, share the cores

import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples on every run and no stopwatch: torch's first call of a kind may take seconds.
settings.register_profile("flowleap", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile("flowleap")
