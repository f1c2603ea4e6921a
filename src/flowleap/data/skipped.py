"""What lies below a folder of images and is no image of it: hidden names, folders of the system, files of other kinds,
and what flowleap made.
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

__all__ = ["Skipped", "drawn_by_flowleap", "hidden", "kinds", "made", "suffix"]

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
"""Folders that operating systems and storage devices leave, in small letters."""
LITTER = frozenset({"desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"})
"""Files that they leave, which nobody takes for images."""
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF")
"""Formats that Pillow knows but does not read by itself."""
MADE = {
    "config.json": ("run", {"format", "config", "dataset"}),
    "plan.json": ("comparison", {"format", "request", "rows"}),
    "latents.json": ("cache of latents", {"format", "contents", "checksums"}),
}
"""What flowleap makes folders of: the file that each of them has, what it is called, and the keys in that file."""


@cache
def kinds() -> frozenset[str]:
    """The endings of the files that the Pillow of this machine reads as pictures, in small letters."""
    from PIL import Image

    known = Image.registered_extensions()  # with those of the plugins that are installed
    return frozenset(
        ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES
    )


def suffix(name: str) -> str:
    """The ending of the name of a file, in small letters.

    >>> suffix("a.tar.GZ"), suffix("README")
    ('.gz', '')
    """
    return os.path.splitext(name)[1].lower()


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves.

    >>> [hidden(name) for name in (".ipynb_checkpoints", "__MACOSX", "._a.jpg", "cats")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in SYSTEM | LITTER


def made(folder: Path, names: Collection[str]) -> str | None:
    """What a folder with files of these names is called that flowleap made; None for any other."""
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
    """What was not taken of what lies below a folder.

    Args:
        hidden: the names of hidden folders and images, and of folders of the system, and how often they occur.
        made: the folders that flowleap made, and what they are.
        kinds: how many files have each ending that is none of `kinds`.
        broken: links to files that are not there, and the like.
        folders: the sub-folders that were looked through.
        loose: images that lie beside class folders, in no class.
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
        """Count a hidden name; files only where they might be images."""
        if folder or suffix(name) in kinds():
            self.hidden[name] += 1

    def notes(self, taken: Iterable[str] = ()) -> list[str]:
        """What is to be said of it.

        Args:
            taken: the sub-folders that images were found in.
        """
        said = []
        if self.hidden:
            said.append(
                f"skipped: {_many(self.hidden.total(), 'hidden or system name')} ({listed([*self.hidden])})"
            )
        if self.made:
            folders = [f"{name}, a {kind}" for name, kind in self.made.items()]
            said.append(f"skipped: folders that flowleap made ({listed(folders)})")
        if self.drawn:
            said.append(drawn_by_flowleap(self.drawn))
        if self.kinds:
            each = [f"{n:,} {kind or 'without ending'}" for kind, n in self.kinds.most_common()]
            said.append(
                f"skipped: {_many(self.kinds.total(), 'file')} of kinds that are not read as images ({listed(each)}); "
                "convert images among them to PNG or JPEG"
            )
        if self.broken:
            said.append(f"skipped: {_many(len(self.broken), 'name')} without a file ({listed(self.broken)})")
        used = {*taken, *(path.partition("/")[0] for path in self.made)}
        if empty := [name for name in self.folders if name not in used]:
            said.append(f"sub-folders without images: {listed(empty)}")
        return said


def drawn_by_flowleap(names: Sequence[str]) -> str:
    """Say which pictures are left out because flowleap drew them."""
    return f"skipped: pictures that flowleap drew ({listed(names)})"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
