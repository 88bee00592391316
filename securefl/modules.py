"""Fresh copies of a module, one for each site and round: what `copy.deepcopy` gives, in a tenth of its time for plain modules.

A copy that nobody holds any more is given again, set to the next vector, where nothing tells it from a new one.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from protocols.errors import Misuse
from securefl import recycled
from securefl.models import from_vector, to_vector
from securefl.recycled import Lent, Recycled

_ATOMS = (type(None), bool, int, float, str)
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__setattr__")


class Copier:
    """Makes exact copies of a module as it is now.

    A module is copied by hand where all that it holds is tensors without gradient, memory or attributes in common, submodules, and
    constants; anything else (hooks, tied weights, a way of its own to be copied) is left to `copy.deepcopy`.

    It is for one thread: another could ask for a copy while one is being given again (`securefl.recycled`).

    Args:
        module: what is copied; it must not change.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._mould = _mould(module, [0]) if _plain(module) else None
        trained = [p for p in module.parameters() if p.requires_grad]
        self._at_once = self._mould is not None and bool(trained) and all(p.dtype is torch.float32 and p.is_cpu for p in trained)
        self._again = self._at_once and len(trained) == len([*module.parameters(), *module.buffers()])
        self._last: Recycled | None = None
        self._idle = list[Recycled]()

    def __call__(self, vector: NDArray[np.float32] | None = None) -> nn.Module:
        """A copy; with a ``vector`` of shape (d,), one whose trainable parameters hold a copy of it, as `from_vector` sets them.

        Raises:
            UserError: where there is a vector and the module has no trainable parameter.
        """
        if vector is not None and self._again:
            self._last = self._loaded(vector)
            return self._last.model
        if vector is not None and self._at_once:
            return self._cast(np.array(vector, dtype=np.float32))
        new = copy.deepcopy(self._module) if self._mould is None else self._mould.cast(None)
        if vector is not None:
            from_vector(new, vector)
        return new

    def lend(self, vector: NDArray[np.float32]) -> Lent:
        """As a call, of a copy that goes to `take` when nobody uses it any more: so several are out at a time."""
        if not self._again:
            return Lent(self(vector))
        known = self._loaded(vector)
        return Lent(known.model, known)

    def take(self, lent: Lent) -> NDArray[np.float32]:
        """As `read`, of a copy that was lent and is not used any more."""
        known, model = lent.known, lent.model
        del lent.model
        if known is None:
            return to_vector(model)
        del model
        if not known.come_back():
            return self.read(known.model)
        self._idle.append(known)
        return known.flat

    def read(self, model: nn.Module) -> NDArray[np.float32]:
        """The trainable parameters of a copy, as `to_vector`: shape (d,), possibly in its memory, so to be read at once."""
        known = recycled.known(model)
        return known.flat if known is not None and known.in_place() else to_vector(model)

    def _loaded(self, vector: NDArray[np.float32]) -> Recycled:
        """A copy that nobody holds, or else a new one."""
        last, self._last = self._last, None
        for idle in (self._idle.pop() if self._idle else None, last):
            if idle is not None and idle.load(vector):
                return idle
        flat = np.array(vector, dtype=np.float32)
        new = Recycled(self._cast(flat), flat)
        new.remember()
        return new

    def _cast(self, flat: NDArray[np.float32]) -> nn.Module:
        """A new copy whose parameters lie in ``flat``."""
        if self._mould is None:
            raise Misuse("a module that is left to copy.deepcopy has no mould")
        return self._mould.cast(torch.from_numpy(flat))


def _plain(module: nn.Module) -> bool:
    modules = list(module.modules())
    children = [child for m in modules for child in vars(m)["_modules"].values() if child is not None]
    tensors = [t for m in modules for kept in ("_parameters", "_buffers") for t in vars(m)[kept].values() if t is not None]
    return (
        len(children) == len(modules) - 1
        and all(_plain_module(m) for m in modules)
        and all(_plain_tensor(t) for t in tensors)
        and len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    )


def _plain_module(module: nn.Module) -> bool:
    kind = type(module)
    usual = all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in _OWN)
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return usual and not slots and all(_plain_value(k, v) for k, v in vars(module).items())


def _plain_value(name: str, value: Any) -> bool:
    if name in ("_parameters", "_buffers", "_modules"):
        return type(value) in (dict, OrderedDict)
    if type(value) in (set, tuple):
        return all(type(v) in _ATOMS for v in value)
    return type(value) in _ATOMS or (type(value) in (dict, OrderedDict) and not value)


def _plain_tensor(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (nn.Parameter, torch.Tensor)
        and tensor.is_leaf
        and tensor.grad is None
        and not vars(tensor)
        and not tensor._backward_hooks  # noqa: SLF001
        and tensor.device.type != "meta"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_complex())
        and tensor.numel() > 0
        and tensor.is_contiguous()
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A parameter, and where a vector of all trainable parameters holds it; nowhere if it is frozen."""

    parameter: nn.Parameter
    shape: torch.Size
    stride: tuple[int, ...]
    at: int | None

    def cast(self, flat: torch.Tensor | None) -> nn.Parameter:
        if flat is None or self.at is None:
            return nn.Parameter(self.parameter.detach().clone(), self.parameter.requires_grad)
        return nn.Parameter(flat.as_strided(self.shape, self.stride, self.at).data)  # .data: changes are counted for each by itself


@dataclass(frozen=True, slots=True, eq=False)
class _Mould:
    """What a module holds, sorted by how it is copied."""

    kind: type[nn.Module]
    constants: dict[str, Any]
    empty: tuple[tuple[str, type], ...]
    sets: tuple[tuple[str, set[Any]], ...]
    parameters: tuple[tuple[str, _Place | None], ...]
    buffers: tuple[tuple[str, torch.Tensor | None], ...]
    inner: tuple[tuple[str, _Mould | None], ...]

    def cast(self, flat: torch.Tensor | None) -> nn.Module:
        new: nn.Module = object.__new__(self.kind)
        kept = vars(new)
        kept.update(self.constants)
        for name, container in self.empty:
            kept[name] = container()
        for name, values in self.sets:
            kept[name] = values.copy()
        kept["_parameters"].update([(name, None if p is None else p.cast(flat)) for name, p in self.parameters])
        kept["_buffers"].update([(name, None if b is None else _copy_buffer(b)) for name, b in self.buffers])
        kept["_modules"].update([(name, None if m is None else m.cast(flat)) for name, m in self.inner])
        return new


def _mould(module: nn.Module, used: list[int]) -> _Mould:
    """The mould of a plain module; ``used`` counts the places in a vector as they are given out, in the order of `parameters`."""
    kept = vars(module)
    containers = {name: value for name, value in kept.items() if isinstance(value, dict)}
    sets = {name: value for name, value in kept.items() if isinstance(value, set)}
    return _Mould(
        type(module),
        {name: value for name, value in kept.items() if name not in containers and name not in sets},
        tuple((name, type(value)) for name, value in containers.items()),
        tuple(sets.items()),
        tuple((name, None if p is None else _place(p, used)) for name, p in kept["_parameters"].items()),
        tuple(kept["_buffers"].items()),
        tuple((name, None if m is None else _mould(m, used)) for name, m in kept["_modules"].items()),
    )


def _place(parameter: nn.Parameter, used: list[int]) -> _Place:
    at = used[0] if parameter.requires_grad else None
    used[0] += parameter.numel() if parameter.requires_grad else 0
    return _Place(parameter, parameter.shape, parameter.stride(), at)


def _copy_buffer(buffer: torch.Tensor) -> torch.Tensor:
    return buffer.detach().clone().requires_grad_(buffer.requires_grad)
