"""What a look at the layers of a model cannot tell, and a pass over some rows can.

Operations in place, random numbers drawn by a layer that owns parameters, layers with more than one input, packed sequences,
operations whose rounding ties records together, exceptions that weights can bring about, and layers that normalise too few values
together.  `securefl.privacy.mixing` looks for forward passes and losses that mix records.
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

from securefl.privacy.mixing import made_up, refuse_mixed_gradients, repeated, squares
from securefl.privacy.models import ModelUnsupported, first_sentence

SMALLEST_GROUP = 3
"""Fewest values that a layer may normalise together: of one it makes 0, of two ±1, whatever the record."""


def try_model(
    model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> None:
    """One forward and backward pass of DP-SGD on a copy of ``model``, and forward passes with extreme weights.

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
    with _refused(model), warnings.catch_warnings(), refuse_packed(trial):
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        found = loss(GradSampleModule(trial, loss_reduction="mean")(x), y)
        refuse_operations(model, found)
        found.backward()  # type: ignore[no-untyped-call]
    refuse_raising(model, loss, x, y)


@contextmanager
def _refused(model: nn.Module) -> Iterator[None]:
    """What Opacus cannot do is told in our words."""
    try:
        yield
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


def refuse_operations(model: nn.Module, output: torch.Tensor) -> None:
    """Refuse operations that round a record's values by what others hold, in whichever record.

    `torch.prod`: the way through its gradient is another one if any of its values is 0.  Compiled code, and without MKL sin, cos
    and tan: they take the way for large values where any of a register's 4 to 16 is large.

    Raises:
        ModelUnsupported: where ``output`` went through one.
    """
    bad = {
        ("ProdBackward", "CumprodBackward"): "torch.prod and cumprod round a record's gradient by what others hold; "
        "write factor * factor, or exp of a sum of logarithms",
        ("CompiledFunction",): "compiled functions may round a record's values by what others hold; leave torch.compile out",
    }
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        bad["SinBackward", "CosBackward", "TanBackward"] = (
            "this build of torch has no MKL, and may round sin, cos and tan of a record by what others hold"
        )
    waiting, seen = [output.grad_fn], set[object]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for names, why in bad.items():
            if node.name().startswith(names):
                raise ModelUnsupported(f"DP-SGD cannot train {type(model).__name__}: {why}")
        waiting += [following for following, _ in node.next_functions]


def refuse_raising(
    model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> None:
    """Refuse model and loss that raise where weights are large or not a number: whether a site fails would tell of its records.

    Raises:
        ModelUnsupported: with the error.
    """
    for tried in _extreme(model):
        try:
            with torch.no_grad(), repeated(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss(tried(x), y)
        except Exception as error:
            raise ModelUnsupported(
                f"DP-SGD cannot train {type(model).__name__} with this loss: with extreme weights one of them raises "
                f"({first_sentence(str(error))}), so a server that makes up weights would learn which records a site has: check no "
                "values within them, and take a loss on logits (BCEWithLogitsLoss for BCELoss)"
            ) from error


def _extreme(model: nn.Module) -> Iterator[nn.Module]:
    """Copies in training: weights not a number, large and positive, large and negative, and large of either sign."""
    made = made_up(model).train()
    for value in (math.nan, 1e38, -1e38, None):
        tried = copy.deepcopy(made)
        with torch.no_grad():
            for p in tried.parameters():
                p.copy_(p.sign() * 1e38) if value is None else p.fill_(value)
        yield tried


def try_without_loss(model: nn.Module, x: torch.Tensor) -> None:
    """What can be tried of a model by itself, with weights that come from nobody; in float64 where the model takes that.

    Nothing is tried of a model that does not take ``x`` as it is, or whose output has no line a record.

    Args:
        model: it is left as it was.
        x: features of a few records, shape (rows, …).

    Raises:
        ModelUnsupported: for operations and gradients that tie records together.
    """
    try:
        made = made_up(model)
    except Exception as error:
        why = first_sentence(str(error))
        raise ModelUnsupported(f"{type(model).__name__} cannot be copied ({why}): keep no outputs in its attributes") from error
    x = _of_two_lengths(torch.nan_to_num(x))
    for tried, rows in ((copy.deepcopy(made).double(), x.double() if x.is_floating_point() else x), (made, x)):
        with refuse_packed(tried):
            try:
                with repeated():
                    found = squares(copy.deepcopy(tried).eval()(rows), len(rows))
            except ModelUnsupported:
                raise
            except Exception:  # noqa: BLE001, S112  (the loop calls it in a way of its own)
                continue
            refuse_operations(model, found)
            with _refused(model):
                refuse_mixed_gradients(tried, rows)
            return


def _of_two_lengths(x: torch.Tensor) -> torch.Tensor:
    """The rows, one of which ends at once in zeros, as the padding of sequences is: models that sort do so by length."""
    x = x.clone()
    if len(x) > 1 and x.ndim > 1:
        x[1, 1:] = 0
    return x


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
