"""Download files of the Hugging Face hub, by the package huggingface_hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./-]+))?")
SUFFIXES = (".pt", ".pth", ".safetensors", ".npz")


def is_id(text: str) -> bool:
    """Whether a text has the form OWNER/NAME or OWNER/NAME:FILE; check first that it is no local file."""
    return ID.fullmatch(text) is not None and not text.startswith((".", "/")) and ".." not in text


def fetch(text: str) -> Path:
    """Download the weights of OWNER/NAME, or OWNER/NAME:FILE, into the cache of the hub; return the path.

    Raises: ValueError without the package, and unless there is exactly one file of weights; OSError if the hub cannot
        be reached.
    """
    match = ID.fullmatch(text)
    assert match is not None
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            f"{text}: there is no such file. If it is a model of the Hugging Face hub, install huggingface_hub, which "
            "fetches it: pip install 'flowleap[hub]'"
        ) from error
    repository, name = match["repository"], match["file"]
    try:
        names = [name] if name else files_of(repository)
    except Exception as error:  # of several libraries, with long texts
        raise OSError(_unreachable(text, error)) from error
    weights = [found for found in names if found.endswith(SUFFIXES)]
    if len(weights) != 1:
        several = f"it holds {', '.join(weights)}" if weights else f"none ends in {', '.join(SUFFIXES)}"
        raise ValueError(
            f"{text}: {several}; name one file of weights, as in {repository}:{(weights or ['FILE'])[0]}"
        )
    try:
        return Path(huggingface_hub.hf_hub_download(repository, weights[0]))
    except Exception as error:
        raise OSError(_unreachable(text, error)) from error


def files_of(repository: str) -> list[str]:
    """Return the names of the files of a model; with HF_HUB_OFFLINE those that were downloaded before."""
    import huggingface_hub

    if not offline():
        return list(huggingface_hub.HfApi().list_repo_files(repository))
    folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE asks for no connection to the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _unreachable(text: str, error: Exception) -> str:
    if offline():
        return f"{text}: no such file here, and not in the cache of the hub, which alone is read with HF_HUB_OFFLINE"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{text}: no such file here, and the Hugging Face hub did not provide it ({reason})"
