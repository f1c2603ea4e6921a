"""Networks in folders and on the Hugging Face hub, by the mixin of huggingface_hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from torch import nn

from flowleap.files import read_tensors

PIPELINE = Path("network", "config.json")
"""In the folder of a pipeline, see `flowleap export diffusers`."""


class Published(nn.Module):
    """Base class of networks that are saved to folders and the hub, and loaded again, without what their output means.

    The methods are those of `PyTorchModelHubMixin`, which is imported when the first is called.
    """

    config: dict[str, Any]

    @classmethod
    def from_pretrained(cls, place: str | Path, **options: Any) -> Self:
        """Load a network from a folder, or from the hub by its id: one that `save_pretrained` wrote, or a pipeline.

        Args:
            options: of `PyTorchModelHubMixin.from_pretrained`, such as revision.

        Raises: ValueError without huggingface_hub, or for a pipeline of another network.
        """
        own_class: Any = cls
        kind, folder = _on_hub(own_class), Path(place)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            own = {name: options[name] for name in ("revision", "token", "cache_dir") if name in options}
            folder = Path(snapshot_download(str(place), **own))
        if not (folder / PIPELINE).is_file():
            loaded: Self = kind.from_pretrained(folder, **options)
            return loaded
        config = json.loads((folder / PIPELINE).read_text(encoding="utf-8"))["architecture"]
        inner, prefix = _innermost(config)
        if inner["kind"] != cls.__name__:
            raise ValueError(
                f"{place} holds a {inner['kind']}: load it with networks.{inner['kind']}.from_pretrained"
            )
        network: Self = kind(**{name: value for name, value in inner.items() if name != "kind"})
        tensors = read_tensors(folder / PIPELINE.parent / "diffusion_pytorch_model.safetensors")
        network.load_state_dict({name: tensors[prefix + name] for name in network.state_dict()})
        return network.eval()

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write config.json, model.safetensors and a model card into a folder; options as of the mixin."""
        self._of_hub().save_pretrained(folder, **options)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload the network to the hub, and return the address of the commit; options as of the mixin."""
        return str(self._of_hub().push_to_hub(name, **options))

    def _of_hub(self) -> Any:
        """Return a copy that has the methods of the mixin."""
        kind: Any = type(self)
        copy = _on_hub(kind)(**{name: value for name, value in self.config.items() if name != "kind"})
        copy.load_state_dict(self.state_dict())
        return copy


def _innermost(config: Mapping[str, Any], prefix: str = "network.") -> tuple[Mapping[str, Any], str]:
    """Return the options of the network inside all adapters, and how the names of its weights begin."""
    if "network" not in config:
        return config, prefix
    return _innermost(config["network"], f"{prefix}network.")


@cache
def _on_hub(kind: type[nn.Module]) -> Any:
    """Return a class of networks with the mixin, which has the same name.

    Raises: ValueError without huggingface_hub.
    """
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError as error:
        raise ValueError("folders and the hub need huggingface_hub: pip install 'flowleap[hub]'") from error
    if issubclass(kind, PyTorchModelHubMixin):
        return kind
    return type(kind.__name__, (PyTorchModelHubMixin, kind), {"__module__": kind.__module__})
