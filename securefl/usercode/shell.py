"""A model without layers: names, shapes and values of its parameters, which is all that a sum needs of it.

What it does not protect: that these are the parameters of the job's code; its child is held to them when it starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import nn

from securefl.encode import all_finite
from securefl.errors import UserError
from securefl.usercode.frames import fault

MOST_VALUES = 1 << 28
"""Most parameters of a model that is taken from a child's word."""
ORDER = "parameters"
"""Key of a model file's metadata: names of the parameters in their order, as JSON."""

Shapes = Sequence[tuple[str, tuple[int, ...]]]


def model_file(model: nn.Module) -> bytes:
    """Names, shapes and values of a model's trainable parameters, as safetensors: what a bundle holds of the model at the start."""
    named = {name: p.detach().float().numpy(force=True) for name, p in model.named_parameters() if p.requires_grad}
    return bytes(save(named, metadata={ORDER: json.dumps(list(named))}))


def shell_of(shapes: Shapes) -> nn.Module:
    """A module with parameters of these names and shapes, zero, and nothing else.

    Raises:
        CodeFault: ``code-parameters`` where no module has them in this order.
    """
    root = nn.Module()
    for name, shape in shapes:
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not isinstance(getattr(owner, part, None), nn.Module):
                _add(owner.add_module, name, part, nn.Module())
            owner = getattr(owner, part)
        _add(owner.register_parameter, name, last, nn.Parameter(torch.zeros(shape)))
    if [name for name, _ in root.named_parameters()] != [name for name, _ in shapes]:
        raise fault("code-parameters", "the parameters' names are in no order that a module has")
    return root


def _add(how: Any, name: str, part: str, value: object) -> None:
    try:
        how(part, value)
    except (KeyError, TypeError, AttributeError):
        raise fault("code-parameters", f"no parameter can be named {name[:60]!r}") from None


def told(facts: Mapping[str, Any]) -> Shapes:
    """Names and shapes that a child tells.

    Raises:
        CodeFault: ``code-parameters`` for what are none, none twice, and not too many.
    """
    listed = facts.get("parameters")
    found = list[tuple[str, tuple[int, ...]]]()
    for item in listed if isinstance(listed, list) else ():
        match item:
            case [str(name), [*sizes]] if name.isprintable() and all(type(size) is int and 0 < size < 2**40 for size in sizes):
                found.append((name, tuple(sizes)))
            case _:
                raise fault("code-parameters", "a parameter without a name or a shape")
    if not found or len({name for name, _ in found}) < len(found) or count(found) > MOST_VALUES:
        raise fault("code-parameters", f"{len(found)} parameters of {count(found)} values: each once, at most {MOST_VALUES} in all")
    return found


def of_file(content: bytes) -> tuple[Shapes, NDArray[np.float32]]:
    """Names and shapes, and all values one after the other, of a file that `model_file` wrote.

    Raises:
        UserError: for another.
    """
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        order = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][ORDER])
        values = [tensors[name] for name in order]
        sound = len(order) == len(tensors) and all(value.dtype == np.float32 for value in values) and bool(values)
    except (SafetensorError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError("the model at the start is no file of model_file: float32 tensors, and their order")
    vector = np.concatenate([value.reshape(-1) for value in values])
    if not all_finite(vector):
        raise UserError("the model at the start has a value that is not finite")
    return [(name, value.shape) for name, value in zip(order, values, strict=True)], vector


def count(shapes: Shapes) -> int:
    """How many values there are."""
    return sum(math.prod(shape) for _, shape in shapes)
