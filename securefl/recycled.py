"""One copy of a plain module, used by one party after another: new parameters are one run of bytes written, and read as such.

It is given again only where nothing tells it from a new copy.  Nobody holds the module, a part of it, or memory that it shares:
references are counted.  Every attribute, parameter, hook and mode is the one that it began with.

Channel assumed: none; all parties lie in one process and train one after another, in one thread.

What it does not protect: anything.
"""

from __future__ import annotations

import sys
import weakref
from itertools import chain
from operator import attrgetter, call, is_
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

_shared = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001  (without it no copy is used twice)

_HOOKS = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
_TRAINED = attrgetter("requires_grad")
_KNOWN: weakref.WeakValueDictionary[int, Recycled] = weakref.WeakValueDictionary()
"""By the number of its module, which lives as long."""


def known(model: nn.Module) -> Recycled | None:
    """What knows a module that is given again and again; None of another."""
    return _KNOWN.get(id(model))


class Lent:
    """A model that is out, and what takes it back; nothing else may hold the model when it is taken."""

    __slots__ = ("known", "model")

    def __init__(self, model: nn.Module, known: Recycled | None = None) -> None:
        self.model, self.known = model, known


class Recycled:
    """A copy of a plain module without buffers, all of whose parameters are trained and lie in one vector.

    Call `remember` when only this object holds the module.

    Args:
        model: the module.
        flat: the memory of its parameters, shape (d,).
    """

    def __init__(self, model: nn.Module, flat: NDArray[np.float32]) -> None:
        self.model, self.flat = model, flat
        modules, self._parameters = tuple(model.modules()), tuple(model.parameters())
        own = [vars(module) for module in modules]
        inner = [value for kept in own for value in kept.values() if isinstance(value, dict)]
        self._tree = [kept[name] for kept in own for name in ("_parameters", "_modules")]
        self._full = [*own, *[kept for kept in inner if kept]]
        self._empty = [*[kept for kept in inner if not kept], *map(vars, self._parameters)]
        self._sets = [value for kept in own for value in kept.values() if isinstance(value, set)]
        self._arrays = tuple(p.detach().numpy() for p in self._parameters)
        self._objects = (*modules, *self._parameters, *self._arrays)
        self._kinds, self._members = [*map(type, self._objects)], [{*values} for values in self._sets]
        self._held, self._branches = _values(self._full), _values(self._tree)
        self._names = [*chain(*self._full)]
        self._looks = [look for p in self._parameters for look in (p.data_ptr, p.stride, p.size)]
        self._places, self._counts, self._returned = self._where(), list[int](), False
        _KNOWN[id(model)] = self

    def remember(self) -> None:
        """Count references, to compare with later."""
        self._counts = self._count()

    def load(self, vector: NDArray[np.float32]) -> bool:
        """Set the parameters to a vector, if the module is as a new copy would be; whether it is."""
        if vector.shape != self.flat.shape or not (self._returned or self.come_back()):
            return False
        self._returned = False
        for parameter in self._parameters:
            parameter.grad = None
        self.flat[:] = vector
        return True

    def come_back(self) -> bool:
        """Whether the module is as a new copy would be: it stays so until `load`, as nobody holds it."""
        self._returned = self._counts == self._count() and self._as_new()
        return self._returned

    def in_place(self) -> bool:
        """Whether the module's parameters are those that it began with, where they were."""
        return _same(_values(self._tree), self._branches) and self._where() == self._places

    def arrays(self) -> list[NDArray[np.float32]] | None:
        """The parameters as arrays in their memory, if they are in place."""
        return [array.view() for array in self._arrays] if self.in_place() else None

    def _as_new(self) -> bool:
        """Whether every module and parameter holds what it held in the beginning, values and gradients apart."""
        return (
            not any(self._empty)
            and _same(_values(self._full), self._held)
            and [*chain(*self._full)] == self._names
            and self._sets == self._members
            and _same([*map(type, self._objects)], self._kinds)
            and not any(chain.from_iterable(map(_HOOKS, self._parameters)))
            and self._where() == self._places
        )

    def _where(self) -> list[object]:
        """Where the parameters lie, and how, and whether they are trained."""
        return [*map(call, self._looks), *map(_TRAINED, self._parameters)]

    def _count(self) -> list[int]:
        """Who holds modules, parameters and arrays, weakly or not, torch's graphs among them, and who shares their memory."""
        if _shared is None:
            return [-len(self._counts)]
        return [
            *map(sys.getrefcount, self._objects),
            *map(weakref.getweakrefcount, self._objects),
            _shared(self._parameters[0].untyped_storage()._cdata),  # noqa: SLF001
        ]


def _same(found: list[Any], known: list[Any]) -> bool:
    """Whether these are the very objects that are known."""
    return len(found) == len(known) and all(map(is_, found, known))


def _values(dicts: list[dict[str, Any]]) -> list[Any]:
    return [*chain.from_iterable(map(dict.values, dicts))]
