"""Files and folders below a folder of images that are not used: hidden and system names, other kinds of files, and
folders and pictures that flowleap made.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from flowleap.data.classes import listed
from flowleap.formatting import plural

SYSTEM = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "__macosx",
        "__pycache__",
        "lost+found",
        "network trash folder",
        "recycled",
        "recycler",
        "system volume information",
        "temporary items",
    }
)
"""Folders of operating systems and storage devices, in lower case."""
LITTER = frozenset({"desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"})
"""Files of operating systems, in lower case."""
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
"""Formats that Pillow registers but cannot read without other programs."""
MADE = {
    "config.json": ("run", {"format", "config", "dataset"}),
    "plan.json": ("comparison", {"format", "request", "rows"}),
    "latents.json": ("cache of latents", {"format", "contents", "checksums"}),
}
"""Folders that flowleap makes: a file in each, its name in messages, and the keys in that file."""


@cache
def kinds() -> frozenset[str]:
    """The file suffixes of the image formats that the installed Pillow reads, in lower case."""
    from PIL import Image

    known = Image.registered_extensions()  # with those of the plugins that are installed
    return frozenset(
        ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES
    )


def suffix(name: str) -> str:
    """The suffix of a file name, in lower case.

    >>> suffix("a.tar.GZ"), suffix("README")
    ('.gz', '')
    """
    return os.path.splitext(name)[1].lower()


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one of an operating system.

    >>> [hidden(name) for name in (".ipynb_checkpoints", "__MACOSX", "._a.jpg", "cats")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in SYSTEM | LITTER


def made(folder: Path, names: Collection[str]) -> str | None:
    """The kind of a folder that flowleap made, with files of these names; None for others."""
    for name, (called, keys) in MADE.items():
        if name in names:
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(content, dict) and keys <= content.keys():
                return called
    return None


@dataclass
class Skipped:
    """Files and folders that were not used.

    Args:
        hidden: names of hidden folders and images and of system folders, with their counts.
        made: folders that flowleap made, and their kinds.
        kinds: suffixes that are none of `kinds()`, with their counts.
        broken: links to missing files, and the like.
        folders: the sub-folders that were searched.
        loose: images beside class folders.
        drawn: pictures that flowleap drew.
    """

    hidden: Counter[str] = field(default_factory=Counter)
    made: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    def hide(self, name: str, *, folder: bool) -> None:
        """Count a hidden name; files only if they may be images."""
        if folder or suffix(name) in kinds():
            self.hidden[name] += 1

    def notes(self, taken: Iterable[str] = ()) -> list[str]:
        """Messages for the user.

        Args:
            taken: the sub-folders with images.
        """
        said = []
        if self.hidden:
            said.append(
                f"skipped: {plural(self.hidden.total(), 'hidden or system name')} ({listed([*self.hidden])})"
            )
        if self.made:
            folders = [f"{name}, a {kind}" for name, kind in self.made.items()]
            said.append(f"skipped: folders that flowleap made ({listed(folders)})")
        if self.drawn:
            said.append(drawn_by_flowleap(self.drawn))
        if self.kinds:
            each = [f"{n:,} {kind or 'without ending'}" for kind, n in self.kinds.most_common()]
            said.append(
                f"skipped: {plural(self.kinds.total(), 'file')} of kinds that are not read as images ({listed(each)}); "
                "convert images among them to PNG or JPEG"
            )
        if self.broken:
            said.append(f"skipped: {plural(len(self.broken), 'name')} without a file ({listed(self.broken)})")
        used = {*taken, *(path.partition("/")[0] for path in self.made)}
        if empty := [name for name in self.folders if name not in used]:
            said.append(f"sub-folders without images: {listed(empty)}")
        return said


def drawn_by_flowleap(names: Sequence[str]) -> str:
    """A message on pictures that are left out because flowleap drew them."""
    return f"skipped: pictures that flowleap drew ({listed(names)})"
