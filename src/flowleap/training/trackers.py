"""Send the log of a run to experiment trackers, through Accelerate; none by default, `--track tensorboard,wandb`.

| what              | when                     | TensorBoard | Weights & Biases | trackio | MLflow    |
|-------------------|--------------------------|-------------|------------------|---------|-----------|
| config            | at the start             | text        | config           | config  | params    |
| metrics, quality  | as they are logged       | scalars     | scalars          | scalars | metrics   |
| samples           | with each picture        | image       | image            | image   | artifact  |
| table             | at the end               | text        | table            | scalars | artifact  |

A resumed run goes on in the same place: trackers.json in its folder holds the id that each tracker knows it by. Where
a tracker fails, a warning says so, and it is sent nothing more; training goes on.
"""

from __future__ import annotations

import json
import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from flowleap import evaluation, processes
from flowleap.files import replace_file
from flowleap.suggest import suggest

PROJECT = "flowleap"
"""The project, or experiment, of all runs."""
IDS = "trackers.json"


@dataclass
class Tracker(ABC):
    """What sends the log of a run to one service.

    Args:
        place: the run folder. step: how many steps are done already.
        id: the one that an earlier start was given, None at the first.
    """

    place: Path
    step: int
    id: str | None = None
    package: ClassVar[str]

    def __post_init__(self) -> None:
        self.resumed = self.id is not None
        self.id = self.id or uuid.uuid4().hex
        self.run = self.begun()
        self.run.start()

    @abstractmethod
    def begun(self) -> Any:
        """Return the tracker of Accelerate."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Send the settings of the run by their dotted paths."""
        self.run.store_init_configuration(dict(values))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers by their names."""
        self.run.log(dict(values), step=step)

    @abstractmethod
    def picture(self, path: Path, step: int) -> None:
        """Send a picture of samples."""

    def table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Send the final table of quality and time."""
        numbers = {
            f"table/{name} at {row['steps']} steps": value
            for row in rows
            for name, value in row.items()
            if isinstance(value, int | float) and name != "steps"
        }
        self.scalars(finite(numbers), step)


class TensorBoard(Tracker):
    """Event files in the folder tensorboard/ of the run; what was sent after its last checkpoint is sent anew."""

    package = "tensorboard"

    def begun(self) -> Any:
        from accelerate.tracking import TensorBoardTracker

        purged = self.step + 1 if self.resumed else None
        return TensorBoardTracker(self.package, self.place, purge_step=purged)

    def config(self, values: Mapping[str, Any]) -> None:
        self.run.log({"config": "\n".join(f"    {name}: {value}" for name, value in values.items())}, step=0)

    def picture(self, path: Path, step: int) -> None:
        import numpy
        from PIL import Image

        pixels = numpy.asarray(Image.open(path).convert("RGB"))[None]
        self.run.log_images({"samples": pixels}, step, dataformats="NHWC")

    def table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        self.run.log({"table": markdown(rows)}, step=step)
        super().table(rows, step)


class WandB(Tracker):
    """A run of the project flowleap at Weights & Biases; `wandb login` first, or WANDB_MODE=offline."""

    package = "wandb"

    def begun(self) -> Any:
        from accelerate.tracking import WandBTracker

        return WandBTracker(PROJECT, id=self.id, name=self.place.name, dir=str(self.place), resume="allow")

    def picture(self, path: Path, step: int) -> None:
        from PIL import Image

        self.run.log_images({"samples": [Image.open(path)]}, step)

    def table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        columns = list(rows[0])
        data = [[str(row[name]) for name in columns] for row in rows]
        self.run.log_table("table", columns=columns, data=data, step=step)
        super().table(rows, step)


class Trackio(Tracker):
    """A run of the project flowleap of trackio, on this machine."""

    package = "trackio"

    def begun(self) -> Any:
        from accelerate.tracking import TrackioTracker

        return TrackioTracker(PROJECT, name=f"{self.place.name}-{self.id}", resume="allow")

    def picture(self, path: Path, step: int) -> None:
        import trackio  # type: ignore[import-not-found, unused-ignore]

        self.run.log({"samples": trackio.Image(str(path))}, step=step)


class MLflow(Tracker):
    """A run of the experiment flowleap of MLflow; the server is that of MLFLOW_TRACKING_URI."""

    package = "mlflow"

    def begun(self) -> Any:
        from accelerate.tracking import MLflowTracker

        return MLflowTracker(PROJECT, run_id=self.id if self.resumed else None, run_name=self.place.name)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.id = self.run.tracker.info.run_id  # it gives ids itself

    def picture(self, path: Path, step: int) -> None:
        self.run.log_artifact(str(path), "samples")

    def table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        self.run.log_artifact(str(self.place / "table.md"))
        super().table(rows, step)


KINDS: dict[str, type[Tracker]] = {kind.package: kind for kind in (TensorBoard, WandB, Trackio, MLflow)}


def check(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is not known, or whose package is not installed."""
    for name in names:
        if name not in KINDS:
            raise ValueError(f"--track {name}: there is no such tracker{suggest(name, list(KINDS))}")
        if find_spec(name) is None:
            raise ValueError(f"--track {name} needs the package {name}: pip install {name}; or leave it out")


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers, without NaN and infinity.

    >>> finite({"loss": 0.5, "norm": None, "error": float("nan"), "weights": "ema"})
    {'loss': 0.5}
    """
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the final table as Markdown."""
    return evaluation.quality_table.markdown(
        [dict(row) for row in rows], evaluation.quality_table.notes(rows)
    )


@dataclass
class Trackers:
    """The trackers of a run, of its first process; what one of them raises is said, and it is sent nothing more.

    Args:
        names: of `KINDS`. place: the run folder. step: how many steps are done already. warn: given what failed.
    """

    names: Sequence[str]
    place: Path
    step: int
    warn: Callable[[str], None]
    running: dict[str, Tracker] = field(default_factory=dict)

    def start(self, config: Mapping[str, Any]) -> None:
        """Start every tracker, or go on with it, and send the settings of the run."""
        if not processes.first() or not self.names:
            return
        path = self.place / IDS
        known = self.known(path)
        for name in self.names:
            try:
                self.running[name] = KINDS[name](self.place, self.step, known.get(name))
            except Exception as error:
                self.failed(name, error)
        ids = {name: tracker.id for name, tracker in self.running.items()}
        try:
            replace_file(path, json.dumps(known | ids, indent=2) + "\n")
        except OSError as error:
            self.warn(
                f"{path} could not be written, a resumed run will be a new one for its trackers: {error}"
            )
        for name in [name for name in self.running if name not in known]:
            self.tell(name, lambda tracker: tracker.config(config))

    def known(self, path: Path) -> dict[str, str]:
        """Return the ids that an earlier start wrote; none, with a warning, where the file cannot be read."""
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return {str(name): str(id) for name, id in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            self.warn(f"{path} cannot be read ({error}): trackers begin a new run")
            return {}

    def log(self, row: Mapping[str, Any], kind: str = "train", suffix: str = "") -> None:
        """Send the numbers of a row of metrics.jsonl or quality.jsonl, as train/loss."""
        step = row["step"]
        numbers = {f"{kind}/{name}{suffix}": value for name, value in finite(row).items() if name != "step"}
        self.all(lambda tracker: tracker.scalars(numbers, step))

    def quality(self, row: Mapping[str, Any]) -> None:
        """Send the distance of an online evaluation."""
        kept = {name: row[name] for name in ("step", "distance")}
        self.log(kept, "quality", f" at {row['steps']} steps, {row['weights'].partition('@')[0]}")

    def picture(self, path: Path, step: int) -> None:
        """Send a picture of samples."""
        self.all(lambda tracker: tracker.picture(path, step))

    def table(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Send the final table, if there is one."""
        if rows:
            self.all(lambda tracker: tracker.table(rows, step))

    def finish(self) -> None:
        """End all trackers."""
        self.all(lambda tracker: tracker.run.finish())
        self.running.clear()

    def all(self, do: Callable[[Tracker], None]) -> None:
        """Do something with every tracker."""
        for name in list(self.running):
            self.tell(name, do)

    def tell(self, name: str, do: Callable[[Tracker], None]) -> None:
        """Do something with a tracker; it is left alone from then on where it fails."""
        try:
            do(self.running[name])
        except Exception as error:
            self.failed(name, error)

    def failed(self, name: str, error: Exception) -> None:
        """Say that a tracker failed, and leave it alone."""
        self.running.pop(name, None)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self.warn(f"the tracker {name} failed and is sent nothing more, training goes on: {reason}")
