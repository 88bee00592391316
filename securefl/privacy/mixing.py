"""What a record does to the gradients of the others: nothing, or no clip bounds what it does to their sum.

Found on a few rows, before training: a model whose output for one record changes with another, in its batch or in the one before,
a loss that is no mean of one term a record, and layers that see something else than records, or records in another order.

What it does not find: weights that a loss has taken from the data before, a loss that changes while it trains, and a training
loop of the user's own.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from protocols.rand import Replay
from securefl.privacy.draws import secret_draws
from securefl.privacy.models import ModelUnsupported
from securefl.privacy.noise import gaussian

TRIED = 4
"""Rows that a loss is tried on, alone and together."""
_CLOSE = 1e-3
"""Relative difference of two gradients that rounding explains."""


def refuse_mixing(model: nn.Module, x: torch.Tensor) -> None:
    """Refuse a model whose output for a record changes with another, in its batch or the one before: no clip bounds what one does.

    Each record is replaced in turn, and the outputs for all others are held against what they were, with the same random numbers:
    with the model's own weights and with others, as zeros would hide what comes before them.

    Args:
        model: the model, as it is trained; it is left as it was.
        x: records, shape (rows, …), at least one.

    Raises:
        ModelUnsupported: where an output differs.
    """
    x = x if len(x) > 1 else torch.cat([x, x])
    changed = x * 2 + 1 if x.is_floating_point() else x.roll(1, 0)
    for tried in (copy.deepcopy(model).train(), _stirred(model).train()):
        whole = _outputs(tried, x)
        for row in range(len(x)):
            other = x.clone()
            other[row] = changed[row]
            if not _alike(whole, _outputs(tried, other), [at for at in range(len(x)) if at != row]):
                raise ModelUnsupported(
                    f"{type(model).__name__} mixes the records of a batch: the output for one changes with the record beside it, "
                    "and ε would not hold; scale records before training, not in the model"
                )
        if not _alike(_outputs(tried, x, x), _outputs(tried, changed, x), [*range(len(x))]):
            raise ModelUnsupported(
                f"{type(model).__name__} remembers the records of a batch: the output for one changes with the batch before, "
                "and ε would not hold; scale records before training, not in the model"
            )


@contextmanager
def repeated(name: str = "trial") -> Iterator[None]:
    """A trial run that is thrown away: all of one name draw the same, and leave all generators as they were."""
    with secret_draws(Replay(name)()):
        yield


def _outputs(model: nn.Module, *batches: torch.Tensor) -> list[torch.Tensor]:
    """What a copy of the model gives for the last of several batches: the tensors that have a line a record."""
    model = copy.deepcopy(model)
    for batch in batches:
        with repeated(), torch.no_grad():
            found = model(batch)
    return [value for value in _tensors(found) if value.ndim and len(value) == len(batches[-1])]


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors in an output, which may be a tuple, a list or a table of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _alike(one: list[torch.Tensor], two: list[torch.Tensor], rows: list[int]) -> bool:
    """Whether these rows of all tensors are the same but for rounding."""
    return len(one) == len(two) and all(
        a.shape == b.shape and torch.allclose(a[rows], b[rows], rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(one, two, strict=True)
    )


def refuse_mixing_loss(
    model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], x: torch.Tensor, y: torch.Tensor
) -> None:
    """Refuse a loss whose gradient over a batch is not the mean of those of its records.

    The gradient of a record alone is what training clips only if the others of its batch don't change it: a maximum or a mean over
    the batch, weights by how often a class comes, or a sum for a mean change all of them together, each by less than the clip.

    Args:
        model: takes ``x``; it is left as it was, and tried with other weights, as zeros would hide what a loss does.
        loss: loss of a batch, from the model's output and labels.
        x: features of up to `TRIED` records, shape (rows, …), best of different labels.
        y: their labels, shape (rows, …).

    Raises:
        ModelUnsupported: naming the loss, with both gradients' lengths.
    """
    model = _stirred(model).eval()
    own = [p for p in model.parameters() if p.requires_grad]

    def gradient(rows: list[int]) -> torch.Tensor:
        with repeated():
            found = torch.autograd.grad(loss(model(x[rows]), y[rows]), own, allow_unused=True, materialize_grads=True)
        return torch.cat([g.detach().reshape(-1) for g in found])

    alone = [gradient([row]) for row in range(len(x))]
    together = [(0, 0), *((0, row) for row in range(1, len(x))), tuple(range(len(x)))]
    for rows in together:
        mean, batch = torch.stack([alone[row] for row in rows]).mean(0), gradient([*rows])
        size = max(float(alone[row].norm()) for row in rows)
        if not float((batch - mean).norm()) <= _CLOSE * size + 1e-9:  # not a number is refused as well
            name = getattr(loss, "__qualname__", type(loss).__name__)
            raise ModelUnsupported(
                f"{name} is no mean of one term a record: over {len(rows)} records its gradient has length {batch.norm():.4g}, "
                f"the mean of theirs {mean.norm():.4g}; a record would change those of others, and ε would not hold: take the mean "
                "over rows (reduction='mean'), with nothing in a row's term that comes from the batch"
            )


def refuse_mixed_gradients(model: nn.Module, x: torch.Tensor) -> None:
    """Refuse a model whose gradients, one a record as Opacus takes them, change with the records beside it.

    What Opacus takes for records is dimension 0 of what each layer gets.  With time there, or with records in another order than
    in the batch, the gradient that is clipped would be put together from several records'.

    Args:
        model: takes ``x``, and gives tensors with a line a record; it is left as it was.  Where it draws random numbers other than
            for dropout, only the number of gradients is looked at.
        x: features of some records, shape (rows, …).

    Raises:
        ModelUnsupported: naming the parameter, or the model.
    """
    calm, rows = _without_dropout(model), [*range(len(x))] if len(x) > 1 else [0, 0]
    for batch in (x, x.flip(0)):
        together, alone = _each(calm, batch[rows]), torch.cat([_each(calm, batch[[row]]) for row in rows])
        apart, size = (together - alone).norm(dim=1).max(), alone.norm(dim=1).max()
        if bool(torch.isfinite(size)) and not float(apart) <= _CLOSE * float(size) + 1e-9 and not _draws(calm, batch):
            raise ModelUnsupported(
                f"DP-SGD cannot train {type(model).__name__}: a record's gradient in its layers changes with the records beside "
                "it, and ε would not hold: keep records in dimension 0 of every layer's input, in the order of the batch"
            )


def squares(output: object, rows: int) -> torch.Tensor:
    """A stand-in for a loss: a mean of one term a record, of the tensors in an output that have a line a record.

    Raises:
        ValueError: where there is no such tensor.
    """
    given = [o for o in _tensors(output) if o.requires_grad and o.is_floating_point() and o.ndim and len(o) == rows]
    if not given:
        raise ValueError("the output has no line a record")
    return torch.stack([(o - 1).square().reshape(rows, -1).mean(dim=1) for o in given]).sum(dim=0).mean()


def _each(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gradients of these records by Opacus, shape (rows, d), float64."""
    from opacus import GradSampleModule  # noqa: PLC0415  (loads in 3 s)

    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="mean")
    with repeated(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        squares(wrapped(x), len(x)).backward()  # type: ignore[no-untyped-call]
    found = []
    for name, p in wrapped._module.named_parameters():  # noqa: SLF001  (names without Opacus' own)
        if not p.requires_grad:
            continue
        sample = p.grad_sample if p.grad_sample is not None else p.new_zeros(len(x), *p.shape)
        if not isinstance(sample, torch.Tensor) or len(sample) != len(x):
            given = len(sample) if isinstance(sample, torch.Tensor) else "lists of"
            raise ModelUnsupported(
                f"DP-SGD cannot train {type(model).__name__}: {name} has {given} gradients for {len(x)} records: "
                "keep records in dimension 0 of every layer's input, and of the model's"
            )
        found.append(sample.detach().reshape(len(x), -1).to(torch.float64))
    return torch.cat(found, dim=1)


def _without_dropout(model: nn.Module) -> nn.Module:
    """A copy whose dropout does nothing, though layers that own parameters are in training, as Opacus wants them."""
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if any(p.requires_grad for p in layer.parameters(recurse=False)):
            layer.training = True
    return model


def _draws(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether the output for the same rows is another one with other random numbers."""

    def found(name: str) -> list[torch.Tensor]:
        with repeated(name), torch.no_grad():
            return [o for o in _tensors(copy.deepcopy(model)(x)) if o.ndim and len(o) == len(x)]

    return not _alike(found("one"), found("another"), [*range(len(x))])


def made_up(model: nn.Module) -> nn.Module:
    """A copy with weights that come from nobody, and keep the scale of what passes through (He et al. 2015, arXiv 1502.01852)."""
    model, rand = copy.deepcopy(model), Replay("made up")()
    with torch.no_grad():
        for name, p in model.named_parameters():
            wide = p.ndim > 1
            std = math.sqrt(2 / max(math.prod(p.shape[1:]), 1)) if wide else 0.1
            p.copy_(gaussian(rand, name, p.shape, std) + (0.0 if wide else 0.5))
    return model


def _stirred(model: nn.Module) -> nn.Module:
    """A copy with weights that differ from each other and from zero, by about a tenth."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.sin(torch.arange(1, p.numel() + 1, dtype=p.dtype, device=p.device)).reshape(p.shape))
    return model
