"""What a look at the layers of a model cannot tell, and a pass over some rows can.

Operations in place, random numbers drawn by a layer that owns parameters, layers with more than one input, packed sequences,
products, and layers that normalise too few values together.

What it does not find: a loss or a forward pass of the user's own that mixes records; `securefl.privacy.mixing` looks for those.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.rnn import PackedSequence

from securefl.privacy.models import ModelUnsupported, first_sentence

SMALLEST_GROUP = 3
"""Fewest values that a layer may normalise together: of one it makes 0, of two ±1, whatever the record."""


def try_model(
    model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> None:
    """One forward and backward pass of DP-SGD on a copy of ``model``.

    Args:
        model: passes `check_model`, and takes ``x`` in plain training.
        loss: mean loss of a batch, from the model's output and labels.
        x: features, shape (rows, …).
        y: labels, shape (rows, …).

    Raises:
        ModelUnsupported: one line with the reason.
    """
    from opacus import GradSampleModule  # noqa: PLC0415  (loads in 3 s)

    trial = copy.deepcopy(model).train()
    try:
        with warnings.catch_warnings(), refuse_packed(trial):
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            found = loss(GradSampleModule(trial, loss_reduction="mean")(x), y)
            refuse_products(model, found)
            found.backward()  # type: ignore[no-untyped-call]
    except ModelUnsupported:
        raise
    except Exception as error:
        raise ModelUnsupported(f"DP-SGD cannot train {type(model).__name__}: {_why(error)}") from error


@contextmanager
def refuse_packed(model: nn.Module) -> Iterator[None]:
    """Within, packed sequences are refused.

    Opacus gives the gradients of a recurrent layer on them in the order of their lengths, those of other layers in that of the
    batch: one record's would be put together from several.

    Raises:
        ModelUnsupported: naming the layer.
    """

    def look(name: str, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        if any(isinstance(value, PackedSequence) for value in inputs):
            raise ModelUnsupported(
                f"DP-SGD cannot train {name or 'the model'} ({type(layer).__name__}) on packed sequences: "
                "pad them, and take the output at each record's own length"
            )

    hooks = [layer.register_forward_pre_hook(functools.partial(look, name)) for name, layer in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def refuse_products(model: nn.Module, loss: torch.Tensor) -> None:
    """Refuse `torch.prod`: the way through its gradient is another one if any of its values is 0, in whichever record.

    Raises:
        ModelUnsupported: where the loss went through one.
    """
    waiting, seen = [loss.grad_fn], set[object]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith(("ProdBackward", "CumprodBackward")):
            raise ModelUnsupported(
                f"DP-SGD cannot train {type(model).__name__}: torch.prod and cumprod round a record's gradient by what others "
                "hold; write factor * factor, or exp of a sum of logarithms"
            )
        waiting += [following for following, _ in node.next_functions]


def refuse_dead_norms(model: nn.Module, x: torch.Tensor) -> None:
    """Refuse layers that normalise so few values together that what they give says nothing of the record.

    Args:
        model: takes ``x``; it is left as it was.
        x: features of one or more rows, shape (rows, …).

    Raises:
        ModelUnsupported: naming the first such layer.
    """
    small: list[str] = []

    def look(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = _normalised_together(layer, inputs[0])
        if values < SMALLEST_GROUP:
            small.append(
                f"{name or 'the model'} ({layer}) normalises {values} of a record's values together, and so gives the same "
                f"for every record: at least {SMALLEST_GROUP} are needed, as with fewer groups or without the layer"
            )

    hooks = [
        layer.register_forward_pre_hook(functools.partial(look, name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm | _InstanceNorm)
    ]
    try:
        with torch.no_grad():
            model(x)
    except ValueError:  # torch's own refusal of such a layer, which doesn't name it
        if not small:
            raise
    finally:
        for hook in hooks:
            hook.remove()
    if small:
        raise ModelUnsupported(small[0])


def _normalised_together(layer: nn.Module, x: torch.Tensor) -> int:
    if isinstance(layer, nn.LayerNorm):
        return math.prod(layer.normalized_shape)
    if isinstance(layer, nn.GroupNorm):
        return x[0].numel() // layer.num_groups
    return x[0, 0].numel() if x.ndim > 2 else x[0].numel()  # without a dimension of records, x is (channels, length)


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "modified inplace" in text:
        return "it changes the output of a layer in place: write x = x + y for x += y, and relu(x) for relu(x, inplace=True)"
    if "random operation" in text:
        return (
            "a layer that owns parameters draws random numbers (dropout) in its forward pass, and gradients per record repeat that "
            "pass with others: keep parameters and random numbers in layers of their own"
        )
    return (
        f"one row does not pass ({first_sentence(text)}): "
        "a layer of your own that owns parameters must take one tensor and give one, with records in dimension 0"
    )
