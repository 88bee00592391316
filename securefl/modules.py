"""Fresh copies of a module, one for each site and round: what `copy.deepcopy` gives, in a tenth of its time for plain modules."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_ATOMS = (type(None), bool, int, float, str)
_OWN = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__new__", "__setattr__")


def copier(module: nn.Module) -> Callable[[], nn.Module]:
    """Makes exact copies of ``module`` as it is now and as long as it does not change.

    A module is copied by hand where all that it holds is tensors without gradient, memory or attributes in common, submodules, and
    constants; anything else (hooks, tied weights, a way of its own to be copied) is left to `copy.deepcopy`.
    """
    return (lambda: _copy(module)) if _plain(module) else (lambda: copy.deepcopy(module))


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


def _copy(module: nn.Module) -> nn.Module:
    new = object.__new__(type(module))
    kept = vars(new)
    for name, value in vars(module).items():
        kept[name] = value.copy() if isinstance(value, dict | set) else value
    for copied, inner in ((_copy_parameter, "_parameters"), (_copy_buffer, "_buffers"), (_copy, "_modules")):
        kept[inner].update({name: copied(value) for name, value in kept[inner].items() if value is not None})
    return new


def _copy_parameter(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def _copy_buffer(buffer: torch.Tensor) -> torch.Tensor:
    return buffer.detach().clone().requires_grad_(buffer.requires_grad)
