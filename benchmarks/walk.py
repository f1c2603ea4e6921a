"""How many functions and files of flowleap a config passes from `runs.train` to the first training step.

uv run python benchmarks/walk.py
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import flowleap
from flowleap import runs
from flowleap.training.config import TrainConfig

SOURCE = Path(flowleap.__file__).parent


class FirstStep(Exception):
    """The walk has arrived."""


def main() -> None:
    config = runs.configure("meanflow", steps=2, batch=16, threads=1, device="cpu", eval_num=0)
    passed: Counter[tuple[str, str]] = Counter()

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(SOURCE)):
            return
        if code.co_name == "draw" and "objectives" in code.co_filename:
            sys.setprofile(None)
            raise FirstStep
        given = (frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount])
        if not code.co_name.startswith(("<", "__")) and any(isinstance(one, TrainConfig) for one in given):
            passed[str(Path(code.co_filename).relative_to(SOURCE)), code.co_qualname] += 1

    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(look)
        try:
            runs.train(config, Path(folder) / "run")
        except FirstStep:
            pass
        finally:
            sys.setprofile(None)
    for (file, name), calls in passed.items():
        print(f"{file:32} {name} {'' if calls == 1 else f'× {calls}'}")
    print(f"{len(passed)} functions in {len({file for file, _ in passed})} files, {passed.total()} calls")


if __name__ == "__main__":
    main()
