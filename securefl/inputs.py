"""What a user hands to `Runner`, looked through before anything is trained: every refusal is one line that names the site.

Rows and features are counted from 0.  Values are looked at where they are used as they are: a local flow of the user's own may
mend or scale its rows, and a trainer may have a training loop, a loss or metrics of its own.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset, TensorDataset

from securefl.aggregator import ServerAggregator
from securefl.data_knobs import DataKnobs
from securefl.errors import UserError
from securefl.job import Job
from securefl.privacy.batches import BLOCK, Batch, beside, count_rows, in_blocks, take
from securefl.privacy.mixing import TRIED, refuse_mixing, refuse_mixing_loss
from securefl.privacy.trials import refuse_dead_norms, try_model, try_without_loss
from securefl.round import named
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer

Sites = Mapping[str, tuple[Fold, ...]]
_Labels = tuple[int, bool, str]
"""Largest label, whether only whole numbers go, and both in words; the smallest is 0."""
BELONG_TO_THE_COMMAND: dict[str, tuple[str, ...]] = {
    "data": tuple(DataKnobs.model_fields),
    "privacy": ("ledger", "ledger_data"),
    "model": ("name", "hidden", "private"),
    "simulation": ("seed", "baselines"),
}
"""Keys of a job that ``securefl run`` acts upon, and a `Runner` does not."""


def refuse_kinds(job: object, trainer: object, server: object) -> None:
    """Refuse a job, trainer or server step of another kind, such as a class for an instance of it."""
    for what, value, kind, hint in (
        ("job", job, Job, 'Job.parse({"privacy": {…}}) or Job.load(path)'),
        ("trainer", trainer, ClientTrainer, "an instance, ClientTrainer(…) or of a subclass"),
        ("server", server, ServerAggregator, "an instance, ServerAggregator(…) or of a subclass"),
    ):
        if value is not None and not isinstance(value, kind):
            given = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
            raise UserError(f"{what} must be a {kind.__name__}, not {given}: give {hint}")
    for own in (trainer, server):
        if own is not None and not hasattr(own, "learning_rate"):
            raise UserError(f"{type(own).__name__}.__init__ must call super().__init__()")


def refuse_own_steps(job: Job | None, trainer: ClientTrainer | None, flow: object | None) -> None:
    """Refuse an optimizer or a local flow of the user's own where the server takes every step, along the sum over all sites."""
    if job is None or not job.privacy.summed:
        return
    if flow is not None:
        raise UserError(f"{job.privacy.mechanism} sums gradients record by record: a local flow of your own gives updates")
    if trainer is not None and type(trainer).optimizer is not ClientTrainer.optimizer:
        raise UserError(
            f"{type(trainer).__name__}.optimizer would not be used: with {job.privacy.mechanism} the server steps along the sum "
            "over all sites; momentum and the like belong into the step of a ServerAggregator"
        )


def module_of(model: object) -> nn.Module:
    """A module, or what a callable without arguments makes.

    Raises:
        UserError: for something else, or a parameter or buffer that is not finite.
    """
    if isinstance(model, Mapping):
        raise UserError('a model for each site needs shared="…": a pattern of the names of parameters that they have in common')
    if not isinstance(model, nn.Module):
        try:
            made = model()  # type: ignore[operator]
        except TypeError as error:
            raise UserError(f"model must be a torch module, or make one when it is called without arguments: {error}") from error
        if not isinstance(made, nn.Module):
            raise UserError(f"model must be a torch module, or make one when it is called; it made a {type(made).__name__}")
        model = made
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if not is_lazy(values) and not torch.isfinite(values).all():
            raise UserError(f"the model's {name} is not finite: training starts from finite numbers")
    return model


def effective(job: Job, trainer: ClientTrainer | None, server: ServerAggregator | None, *, own_dropouts: bool) -> Job:
    """The job as it runs with these objects: what they have of their own stands in it, and nothing in it goes unheard.

    Raises:
        UserError: for a key that would be ignored.
    """
    for section, keys in BELONG_TO_THE_COMMAND.items():
        given, default = getattr(job, section), type(getattr(job, section))()
        for key in keys:
            if getattr(given, key) != getattr(default, key):
                raise UserError(f"{section}.{key} is for securefl run: a Runner is handed its model and data; leave the key out")
    if own_dropouts and job.simulation.dropout:
        raise UserError("simulation.dropout is given, and so are dropouts of your own: leave one of them out")
    rates = {"learning_rate": trainer, "server_learning_rate": server}
    own = {key: getattr(owner, "learning_rate", None) for key, owner in rates.items() if owner is not None}
    for key, rate in own.items():
        if key in job.performance.model_fields_set and rate != getattr(job.performance, key):
            what = type(rates[key]).__name__
            raise UserError(f"performance.{key} is {getattr(job.performance, key)}, but {what} comes with {rate}: name it once")
    known = {key: rate for key, rate in own.items() if isinstance(rate, float | int) and 0 < rate <= 1e6}
    return job.model_copy(update={"performance": job.performance.model_copy(update=known)})


def folds_of(data: Mapping[str, Fold | Sequence[Fold]]) -> dict[str, tuple[Fold, ...]]:
    """The folds of every site.

    Raises:
        UserError: for something else than folds by site, unequal numbers of folds, or a training part without rows.
    """
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise UserError(f"data must map the name of every site to its Fold, not be a {type(data).__name__}")
    folds: dict[str, tuple[Fold, ...]] = {}
    for name, given in data.items():
        parts = given if isinstance(given, list | tuple) else (given,)
        odd = next((part for part in parts if not isinstance(part, Fold)), None)
        if odd is not None:
            raise UserError(f"{name}: its data must be a Fold(train, test), or a list of them, not a {type(odd).__name__}")
        folds[name] = tuple(parts)
    counts = {len(parts) for parts in folds.values()}
    if len(counts) != 1 or 0 in counts:
        raise UserError(f"every site needs the same number of folds, at least 1; they have {sorted(counts)}")
    for name, parts in folds.items():
        with named(name):
            for part in parts:
                count_rows(part.train)
    return folds


def look_through(
    sites: Sites,
    trainer: ClientTrainer,
    model: nn.Module | Mapping[str, nn.Module],
    *,
    sample_rate: float,
    private: bool,
    everybody: bool = True,
) -> None:
    """All that can be seen before training: `try_step`, then `check_rows`, with their arguments and errors.

    With models by site name it is done site by site.
    """
    if isinstance(model, Mapping):
        for name, own in model.items():
            look_through({name: sites[name]}, trainer, own, sample_rate=sample_rate, private=private, everybody=False)
        return
    outputs = try_step(sites, trainer, model, sample_rate=sample_rate, private=private)
    check_rows(sites, trainer, outputs, everybody=everybody)


def try_step(sites: Sites, trainer: ClientTrainer, model: nn.Module, *, sample_rate: float, private: bool) -> int | None:
    """A first step of training on one row of every site, on copies: do shapes and types of features and labels fit model and loss?

    Only where the trainer has no training loop of its own; with differential privacy once also as DP-SGD would do it.

    Args:
        sites: the folds of every site.
        trainer: gives the loss.
        model: the model at the start.
        sample_rate: probability with which a row is in a batch; below 1 a batch may have a single row.
        private: whether training is with differential privacy.

    Returns:
        How many outputs a row the model gives; None where nothing was tried or the output is no tensor.

    Raises:
        UserError: naming the site; `ModelUnsupported` for a model that DP-SGD cannot train.
    """
    if type(trainer).train is not ClientTrainer.train:
        return None
    trainer, outputs, tried = copy.deepcopy(trainer), None, False
    for name, parts in sites.items():
        for part in parts:
            with named(name):
                x, y = beside(model, *take(part.train, np.arange(1 if sample_rate < 1 else min(2, count_rows(part.train)))))
                _refuse_not_finite(x, y, "training", 0)
                shape = _step(trainer, copy.deepcopy(model), x, y)
                if _has_built_in_metrics(trainer):
                    trainer.scores(model, TensorDataset(x, y))
            if private and not tried:
                try_model(model, trainer.loss, x, y)
                rows = beside(model, *_different(part.train))
                if all(bool(torch.isfinite(one).all()) for one in rows):  # else `check_rows` names the row
                    refuse_mixing(model, rows[0])
                    refuse_mixing_loss(model, trainer.loss, *rows)
                    try_without_loss(model, rows[0])
            outputs, tried = (1 if len(shape) < 2 else shape[-1]) if shape is not None else None, True
    return outputs


def _different(data: Dataset[Any]) -> Batch:
    """Up to `TRIED` of the first rows, those of other labels first."""
    x, y = take(data, np.arange(min(BLOCK, count_rows(data))))
    _, first = np.unique(y.numpy(force=True).reshape(len(y), -1), axis=0, return_index=True)
    others = np.setdiff1d(np.arange(len(y)), first)
    rows = np.concatenate([np.sort(first)[: TRIED - 1], others])[:TRIED]
    return x[rows], y[rows]


def _step(trainer: ClientTrainer, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Size | None:
    parameter, model = next(model.parameters()), model.eval()
    with _blamed("the model does not take its rows", x, y, parameter.dtype):
        refuse_dead_norms(model, x)
        output = model(x)
    own = type(trainer).loss is not ClientTrainer.loss
    blame = f"{type(trainer).__name__}.loss fails on its rows" if own else "the loss does not take its rows"
    with _blamed(blame, x, y), warnings.catch_warnings():
        # Labels of another shape than the outputs would spread over them, row by row; torch only warns.
        warnings.filterwarnings("error", message="Using a target size")
        loss = trainer.loss(output, y)
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
            raise UserError(f"{type(trainer).__name__}.loss gives {given}: it must be one number that depends on the model")
    with _blamed("model and loss give no gradient for its rows", x, y):
        loss.backward()  # type: ignore[no-untyped-call]
    return output.shape if isinstance(output, torch.Tensor) else None


@contextmanager
def _blamed(what: str, x: torch.Tensor, y: torch.Tensor, wanted: torch.dtype | None = None) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        given = f"features of shape {tuple(x.shape)}, {x.dtype}, labels of shape {tuple(y.shape)}, {y.dtype}"
        other = wanted is not None and x.dtype != wanted and x.is_floating_point()
        why = f"the model is {wanted}: convert them, x.to({wanted})" if other else f"{type(error).__name__}: {_one_line(error)}"
        raise UserError(f"{what} ({given}): {why}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def hints(trainer: ClientTrainer, model: nn.Module, sites: Sites) -> list[str]:
    """What a model and a loss that pass are probably not meant to do, one line each.

    Args:
        trainer: gives the loss.
        model: the model at the start.
        sites: the folds of every site, as `try_step` has passed them.
    """
    lines = []
    parts = [part for folds in sites.values() for part in folds]
    if all(part.test is None or not len(part.test) for part in parts):  # type: ignore[arg-type]
        lines.append("no site holds out any rows: there will be no metrics; give Fold(train, test)")
    if type(trainer).train is not ClientTrainer.train:
        return lines
    last = [layer for layer in model.modules() if not any(layer.children())][-1]
    if type(trainer).loss is ClientTrainer.loss:
        if isinstance(last, nn.Sigmoid | nn.Softmax):
            lines.append(f"the model ends in {last}, and the built-in loss takes logits: leave that layer out")
        return lines
    x, y = beside(model, *take(parts[0].train, np.zeros(1, dtype=np.int64)))
    model = copy.deepcopy(model).eval()
    with torch.no_grad(), suppress(Exception):  # a loss that takes one row only says so in training
        one, again, two = (float(trainer.loss(model(a), b)) for a, b in ((x, y), (x, y), (torch.cat([x, x]), torch.cat([y, y]))))
        if one == again and not math.isclose(one, two, rel_tol=1e-3, abs_tol=1e-6):
            lines.append(
                f"{type(trainer).__name__}.loss is {two:.4g} for a row that comes twice, and {one:.4g} for it once: it should be a "
                "mean over rows (reduction='mean'), or the step grows with the batch"
            )
    return lines


def check_rows(sites: Sites, trainer: ClientTrainer, outputs: int | None, *, everybody: bool = True) -> None:
    """Refuse values that are not finite, labels that built-in loss and metrics would misread, and one class over all sites.

    With differential privacy a row that is not finite would be left out of every step.  A site with one class is normal.  A loss
    and metrics of the user's own read labels as they like.

    Args:
        sites: the folds of every site.
        trainer: what reads the labels.
        outputs: how many outputs a row the model gives, if that is known.
        everybody: whether these are all sites there are.

    Raises:
        UserError: naming site and row of the first.
    """
    allowed: dict[str, _Labels] = {}
    if type(trainer).loss is ClientTrainer.loss and outputs is not None:
        whole = f"a whole number from 0 to {outputs - 1}, as the model gives {outputs} outputs"
        allowed["training"] = (1, False, "0, 1 or between them") if outputs == 1 else (outputs - 1, True, whole)
    if _has_built_in_metrics(trainer):
        allowed["held-out"] = (1, True, "0 or 1")
    classes = set[float]()
    for name, part, what in _parts(sites):
        with named(name):
            for start, (x, y) in in_blocks(part):
                _refuse_not_finite(x, y, what, start)
                if what in allowed:
                    _refuse_labels(y, allowed[what], what, start)
                if what == "training" and len(classes) < 2:
                    classes.update(torch.unique(y.double())[:2].tolist())
    if everybody and allowed and len(classes) == 1:
        raise UserError(f"every training row of all sites has the label {classes.pop():g}: there is nothing to tell apart")


def _refuse_not_finite(x: torch.Tensor, y: torch.Tensor, what: str, start: int) -> None:
    for value, who in ((x, "feature"), (y, "label")):
        bad = torch.nonzero(~torch.isfinite(value))
        if len(bad):
            row, *place = bad[0].tolist()
            index = "" if who == "label" else f" {place[0] if len(place) == 1 else tuple(place)}"
            number = value[tuple(bad[0])].item()
            raise UserError(f"{who}{index} is {number} in {what} row {start + row}: every value must be finite")


def _refuse_labels(y: torch.Tensor, allowed: _Labels, what: str, start: int) -> None:
    largest, whole_only, text = allowed
    labels = y.double().reshape(len(y), -1)
    wrong = torch.nonzero((labels < 0) | (labels > largest) | (whole_only & (labels != labels.round())))
    if len(wrong):
        row, place = wrong[0].tolist()
        raise UserError(
            f"the label is {labels[row, place]:g} in {what} row {start + row}: it must be {text}; "
            "labels of another kind need a loss and metrics of your own"
        )


def _has_built_in_metrics(trainer: ClientTrainer) -> bool:
    return all(getattr(type(trainer), name) is getattr(ClientTrainer, name) for name in ("evaluate", "scores"))


def _parts(sites: Sites) -> Iterator[tuple[str, Dataset[Any], str]]:
    for name, folds in sites.items():
        for fold in folds:
            yield name, fold.train, "training"
            if fold.test is not None:
                yield name, fold.test, "held-out"
