"""Train a run, and publish it on the Hugging Face hub at its end where that is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowleap import processes, runs
from flowleap.export import hub, source
from flowleap.runs import RunResult
from flowleap.runs.starting import Prepared
from flowleap.training import folder

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = "diffusers"
"""The folder in that of the run that is uploaded."""


@dataclass(frozen=True)
class Publication:
    """The model on the hub that a run becomes, by its id.

    Raises: ValueError for a private one without an id.
    """

    name: str | None = None
    private: bool = False

    def __post_init__(self) -> None:
        if self.private and self.name is None:
            raise ValueError("--private: only a model on the hub is private: give --push-to-hub OWNER/NAME")

    def check(self, ready: Prepared) -> None:
        """Refuse what could not be published, before the run is trained.

        Raises: ValueError for a run that cannot be a pipeline of diffusers, and as `hub.check`.
        """
        if self.name is None:
            return
        exporting = source.needed("flowleap.export.diffusers", "diffusers 0.42 or newer", "diffusers")
        known = None if ready.dataset is None else ready.dataset.kind
        kind = known or folder.read(Path(ready.out or "."))["dataset"]["kind"]  # of a run that is continued
        reason = exporting.refusal(kind, ready.config.objective, ready.config.network)
        if reason is not None:
            raise ValueError(
                f"--push-to-hub {self.name}: the run cannot be a pipeline of diffusers: {reason}"
            )
        processes.from_first(lambda: hub.check(self.name or ""))

    def upload(self, place: Path) -> str:
        """Export a finished run into its folder, upload that, and return the address.

        Raises: OSError where the hub does not take it, with the command that uploads it later.
        """
        exporting = source.needed("flowleap.export.diffusers", "diffusers 0.42 or newer", "diffusers")
        run, name = source.finished(place), self.name or ""
        try:
            exporting.export(run, place / FOLDER, run.decoder(), name=name)
            return hub.push(place / FOLDER, name, self.private)
        except OSError as error:
            command = f"flowleap export diffusers {shlex.quote(str(place))} DIR --push-to-hub {name}"
            raise OSError(f"{error}; the run is whole, upload it later with: {command}") from error


def train(
    ready: Prepared,
    publication: Publication,
    say: Callable[[str], None],
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> RunResult:
    """Train a run, and publish it where it came to its end.

    Raises: as `runs.train`; ValueError and OSError as `Publication`.
    """
    publication.check(ready)
    result = runs.train(
        ready.config, ready.out, resume=resume, overwrite=overwrite, dataset=ready.dataset, console=console
    )
    if publication.name is not None and result.signal is None and not result.failed and processes.first():
        say(f"{publication.upload(result.folder)}: uploaded {result.folder / FOLDER}")
    return result
