"""Upload an exported folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flowleap.importers.hub import offline

ID = re.compile(r"[\w.-]+/[\w.-]+")


def api() -> Any:
    """Return the interface of the hub.

    Raises: ValueError without the package huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError("the hub needs huggingface_hub: pip install 'flowleap[hub]'") from error
    return HfApi()


def check(name: str) -> None:
    """Ask the hub, before any work, whether a model of this name can be made.

    Raises: ValueError for a name that is no id, or that exists; OSError where the hub cannot be reached.
    """
    if ID.fullmatch(name) is None:
        raise ValueError(f"--push-to-hub {name}: an id such as your-name/digits is expected")
    if offline():
        raise ValueError(
            f"--push-to-hub {name}: HF_HUB_OFFLINE is set, which forbids it: leave one of them out"
        )
    if _asked(lambda: api().repo_exists(name), name):
        raise ValueError(
            f"--push-to-hub {name}: the hub has a model of this name, and it is left as it is; choose another name, or "
            f"export without this option and upload the folder: hf upload {name} DIR"
        )


def push(folder: Path, name: str, private: bool) -> str:
    """Make a model on the hub, upload a folder as one commit, and return its address.

    Raises: ValueError where the name has been taken; OSError where the hub refuses it or cannot be reached.
    """
    hub = api()
    address = _asked(lambda: hub.create_repo(name, private=private, exist_ok=False), name)
    _asked(
        lambda: hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Upload by flowleap"),
        name,
    )
    return str(address)


def _asked(ask: Any, name: str) -> Any:
    """Return what the hub answers; errors of its client become one line.

    Raises: ValueError for a name that exists, OSError for anything else.
    """
    try:
        return ask()
    except Exception as error:  # of several libraries, with long texts
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 409:
            raise ValueError(
                f"--push-to-hub {name}: the hub has a model of this name: choose another one"
            ) from error
        if status in (401, 403):
            raise OSError(
                f"--push-to-hub {name}: the hub does not let you in: log in with hf auth login"
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"--push-to-hub {name}: the Hugging Face hub did not take it ({reason[:200]})"
        ) from error
