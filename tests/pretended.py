"""A pretended accelerator: its tensors say that they lie elsewhere and are computed on the CPU.

What would make the CPU wait for a GPU is noted, and what a GPU refuses, tensors of two devices in one operation, fails.
"""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
"""What the tensors say: of all devices without a machine, torch differentiates on this one alone."""
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2, aten.bincount,
    aten.unique_consecutive, aten.unique_dim, aten.isin,
}  # fmt: skip
"""Operations whose result, or its size, the CPU must know; `isin` sorts and selects."""
COPIES = {aten._to_copy, aten.copy_}


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device; `here` holds its values."""

    here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = Elsewhere(self.here.clone()).requires_grad_(self.requires_grad)
        made._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = made
        return made


class Accelerator(TorchDispatchMode):
    """A context in which DEVICE is the pretended accelerator; `waits` lists the operations that the CPU waited in."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.pinned: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        if packet is aten.is_pinned:
            return self.is_pinned(args[0])
        if packet is aten._pin_memory or kwargs.pop("pin_memory", False):
            made = args[0].clone() if packet is aten._pin_memory else func(*args, **kwargs)
            self.pinned.append(made)
            return made
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
        if there or kwargs.get("device") == DEVICE:
            reason = self.reason(packet, args, kwargs, leaves)
            if reason:
                place = [f"{f.filename.split('/')[-1]}:{f.lineno}" for f in traceback.extract_stack()]
                own = [each for each in place if not each.startswith("pretended")][-4:]
                self.waits.append(f"{packet.__name__} ({reason}) at {' > '.join(own)}")
        return _computed(func, args, kwargs)

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies in pinned memory."""
        return any(tensor.untyped_storage()._cdata == each.untyped_storage()._cdata for each in self.pinned)

    def reason(self, packet: Any, args: Any, kwargs: Any, leaves: list[torch.Tensor]) -> str | None:
        """Return why the CPU would wait in an operation that touches the device, None where it would not."""
        if packet in READS:
            return "its result decides what the CPU does"
        if packet in (aten.index, aten.index_put, aten.index_put_):
            places = [each for each in args[1] if each is not None]
            if any(each.dtype == torch.bool for each in places):
                return "a mask is counted"
            if any(not isinstance(each, Elsewhere) for each in places):
                return "its places are copied from the CPU"
        if packet is aten.repeat_interleave and len(leaves) == 2:
            return "its size is a sum on the device"
        if packet not in COPIES:
            return None
        source = args[0] if packet is aten._to_copy else args[1]
        to = kwargs.get("device", source.device) if packet is aten._to_copy else args[0].device
        if to == source.device or (source.ndim == 0 and packet is aten.copy_):
            return None
        blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and args[2:] == (True,)))
        host = source if to == DEVICE else None if packet is aten._to_copy else args[0]
        if host is None and not blocking:  # torch pins what it makes for it
            return None
        if blocking or host is None or not self.is_pinned(host):
            return "to the CPU" if to != DEVICE else "from the CPU, not from pinned memory"
        return None


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operation on the CPU; its result is elsewhere where its tensors are, or its `device` says so."""
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(leaf, Elsewhere) for leaf in leaves)
    packet = func.overloadpacket
    if there and packet not in {*COPIES, aten.index, aten.index_put, aten.index_put_}:
        strangers = [leaf for leaf in leaves if not isinstance(leaf, Elsewhere) and leaf.ndim]
        assert not strangers, f"{packet.__name__} of tensors on two devices"
    device = kwargs.get("device")
    there = device == DEVICE if device is not None else there
    if packet is aten.copy_:
        there = isinstance(args[0], Elsewhere)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    bare = tree_map_only(Elsewhere, lambda each: each.here, (args, kwargs))
    found = func(*bare[0], **bare[1])
    if found is None or (func._schema.is_mutable and args and not isinstance(found, tuple)):
        return args[0] if isinstance(found, torch.Tensor) else found
    return tree_map_only(torch.Tensor, Elsewhere, found) if there else found
