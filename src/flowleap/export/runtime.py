"""onnxruntime-web, which computes a graph in a browser: which files of it a page needs, and where they are found.

They have 14 MB, too many for the repository. In this order they are taken from the place that a user names, from this
package, in whose wheel they are where it was built after `python -m flowleap.export.runtime`, or from the cache folder
of the user, where npm puts them at the first export. Their version and checksum are fixed here, so that a page is
always what its tests saw, and no code of another origin enters it.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from flowleap.export.npm import Package, files_of
from flowleap.files import new_folder

PACKAGE = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
SCRIPT, BINARY = "onnxruntime.js", "onnxruntime.wasm"
"""Their names in a page. Every web server knows the type of .js, and some do not that of .mjs."""
SHIPPED = Path(__file__).parent / "page" / "runtime"
"""The folder of this package that holds them where the wheel was built with them."""
LICENSES = ("LICENSE", "ThirdPartyNotices.txt")


@dataclass(frozen=True)
class Build:
    """A build of the runtime: its files in the package by the names they have in a page, and where it computes."""

    names: dict[str, str]
    providers: tuple[str, ...]


CPU = Build({"dist/ort.wasm.bundle.min.mjs": SCRIPT, "dist/ort-wasm-simd-threaded.wasm": BINARY}, ("wasm",))
GPU = Build(
    {"dist/ort.webgpu.bundle.min.mjs": SCRIPT, "dist/ort-wasm-simd-threaded.asyncify.wasm": BINARY},
    ("webgpu", "wasm"),
)


def found(build: Build = CPU, given: Path | None = None) -> dict[str, bytes]:
    """Return the files of a build by their names in a page.

    Args:
        given: the archive that `npm pack` wrote, or the folder that it was unpacked to.

    Raises: OSError, ValueError where they are not there and cannot be brought, saying what to do.
    Warns: where the place that was given holds another version.
    """
    if given is not None:
        held = files_of(given, build.names)
        if version_of(held) != PACKAGE.version:
            warnings.warn(
                f"{given} is onnxruntime-web {version_of(held)}, and the page is tested with {PACKAGE.version}",
                stacklevel=2,
            )
        return held
    if build == CPU and (SHIPPED / SCRIPT).is_file():
        return files_of(SHIPPED, {name: name for name in build.names.values()})
    return files_of(PACKAGE.packed(), build.names)


def version_of(held: dict[str, bytes]) -> str:
    """Return the version that the script of the runtime says in its first lines, "?" where it says none."""
    said = re.search(rb"ONNX Runtime Web v([\w.-]+)", held[SCRIPT][:400])
    return said[1].decode() if said else "?"


def licenses() -> str:
    """Return the license of ONNX Runtime, and those of the code inside of it, which its Python package holds."""
    place = files("onnxruntime")
    return "\n\n".join(place.joinpath(name).read_bytes().decode("utf-8", "replace") for name in LICENSES)


def main() -> None:
    """Put the files into this package, so that a wheel that is built next holds them."""
    try:
        held = files_of(PACKAGE.packed(), CPU.names)
    except OSError as error:
        sys.exit(str(error))
    with new_folder(SHIPPED) as folder:
        (folder / "LICENSES.txt").write_text(licenses(), encoding="utf-8")
        for name, content in held.items():
            (folder / name).write_bytes(content)
    print(f"{SHIPPED}: onnxruntime-web {PACKAGE.version}")


if __name__ == "__main__":
    main()
