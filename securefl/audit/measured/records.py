"""Sums over records: what a site hands in, by the training of a run, and how one record moves it, whoever else is in the batch.

A site's sum is that of `securefl.privacy.gradients.GradientSums`, driven by the trainer, on the model of
`securefl.audit.measured.probe`, whose gradients are its records' features, in three tensors.

Sources: sums over records as in `securefl.privacy.record`.

What it does not show: a mistake that only another model or loss brings out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from protocols.errors import Misuse
from securefl.audit.measured.probe import Probe, Tensors, tensors
from securefl.audit.measured.registry import SUMMED, Setting, flagged, measure
from securefl.audit.measured.summed import Reals, Summed, Unit, Whole, summed
from securefl.audit.verdict import Verdict, harmless
from securefl.encoding import Encoding
from securefl.errors import UserError
from securefl.privacy.party import rotation
from securefl.privacy.plain import LocalTraining
from securefl.privacy.prepared import local_training
from securefl.privacy.record import RecordLevel
from securefl.privacy.rounding import rotate_whole

STEPS = 1000
"""Steps that a site's training may take here, at least."""


def site_of(setting: Setting, size: int, *, rate: float, label: str) -> LocalTraining:
    """How a site of the mechanism draws and adds up gradients of ``size`` coordinates, for many steps."""
    return _site(setting, summed(setting).encoding, size, rate=rate, label=label)


def _site(setting: Setting, encoding: Encoding, size: int, *, rate: float, label: str) -> LocalTraining:
    if not isinstance(encoding, RecordLevel):
        raise Misuse(f"sums over records are encoded by a RecordLevel, not by a {type(encoding).__name__}")
    plan = replace(encoding.plan, size=size, rate=rate, rounds=max(STEPS, encoding.plan.rounds))
    knobs, of_sums = setting.job.privacy, replace(encoding, plan=plan)
    return local_training(knobs, noise_multiplier=None, entropy=setting.entropy(label), encoding=of_sums)


def of_records(setting: Setting, rate: float) -> Unit:
    """A unit is a record, or several of one site: its gradient in every model; what leaves is the site's sum of one step.

    Args:
        setting: the mechanism.
        rate: with which each record is drawn: 1 for certain.
    """
    turns, known = count(), dict[bytes, Whole]()

    def of_model(encoding: Encoding, part: Reals) -> Whole:
        settled = rate == 1 or not part.any()  # by the data alone: once is enough
        key = part.tobytes()
        if settled and key in known:
            return known[key]
        training: Any = _site(setting, encoding, part.shape[1], rate=rate, label=f"record {rate} {next(turns)}")
        data = TensorDataset(torch.from_numpy(part), torch.arange(len(part)))
        Probe(mean=True).train(Tensors(part.shape[1]), data, training, 1)
        found: Whole = training.take()
        if settled:
            known[key] = found
        return found

    def unit(encoding: Encoding, vector: Reals) -> Sequence[Any]:
        parts = np.split(np.atleast_2d(vector), np.cumsum(encoding.blocks)[:-1], axis=1)
        return [of_model(encoding, part.copy()) for part in parts]

    return unit


def _kinds(made: Summed) -> dict[str, Reals]:
    """Gradients of length 1 in every model: over all tensors, over each of them, and in one coordinate of each."""
    size = made.encoding.blocks[0]
    out = {"all tensors": np.where(np.arange(size) % 2, -1.0, 1.0)}
    for name, place in tensors(size).items():
        for what, width in ((f"the {name}", place), (f"one value of the {name}", slice(place.start, place.start + 1))):
            out[what] = np.zeros(size)
            out[what][width] = 1.0
    whole = {name: np.tile(shape / np.linalg.norm(shape), len(made.encoding.blocks)) for name, shape in out.items()}
    return {name: np.asarray(shape, np.float64) for name, shape in whole.items()}


@measure(
    "record-clip",
    16,
    "a record of 10⁶, 2, 1 and ½ clips in a site's sum, over all tensors and in each, alone and beside others",
    how="the sum in whole numbers with the record, less that without it, must be what the record is alone, in every place, and no "
    "longer than the bound in whole numbers; never wrong",
    on=SUMMED,
)
def alone(setting: Setting) -> Verdict:
    """What a record adds must follow from it alone: not from other records, the size of the batch, or the order of floats."""
    made, worst = summed(setting), 0.0
    bound, others = getattr(made.plan, "fixed", 0), made.others
    if others is None:
        raise Misuse("a party is the unit")
    without = made.unit(made.encoding, others)
    for name, shape in _kinds(made).items():
        for length in (1e6, 2.0, 1.0, 0.5):
            record = shape * length * made.encoding.clip
            try:
                pair = made.unit(made.encoding, record), made.unit(made.encoding, np.concatenate([others, record[None]]))
            except (UserError, Misuse) as error:
                return flagged("record-clip", f"{name}: a record of {length:g} clips has no whole numbers: {error}")
            for lone, beside, rest in zip(*pair, without, strict=True):
                norm = float(np.linalg.norm(np.asarray(lone, np.float64)))
                worst = max(worst, norm / bound)
                if norm > bound:
                    return flagged("record-clip", f"{name}: a record of {length:g} clips is {norm / bound:.5g} of its bound long")
                if (beside - rest != lone).any():
                    return flagged("record-clip", f"{name}: what {length:g} clips add depends on others in the batch")
    return harmless(f"a record adds the same whatever else is in the batch, {worst:.6f} of its bound in whole numbers at most")


@measure(
    "record-rounding",
    16,
    "rounding that repeats with and without a record, whatever its length, beside others",
    how="noise repeats and cancels; each value must move by less than a step from what the record is before rounding, as ⌊s + U⌋ "
    "with one U does; never wrong",
    on=SUMMED,
)
def rounding(setting: Setting) -> Verdict:
    """A rounding whose randomness follows from the data, as one that is repeated until a norm is kept."""
    made, encoding, furthest = summed(setting), summed(setting).encoding, 0.0
    if not isinstance(encoding, RecordLevel):
        raise Misuse("sums over records are encoded by a RecordLevel")
    for number in range(20 if setting.quick else 200):
        occasion = made.occasion("rounding", number)
        for name, shape in _kinds(made).items() if number < 3 else [("all tensors", _kinds(made)["all tensors"])]:
            record = shape * made.encoding.clip * (1.0, 1e-3)[number % 2]
            given: Sequence[Any] = made.unit(encoding, record)
            exact = [rotate_whole(part, rotation(occasion)) * 2.0**-encoding.plan.shift for part in given]
            off = float(np.abs(made.moved(occasion, record) - np.concatenate(exact)).max())
            furthest = max(furthest, off)
            if off >= 1:
                return flagged("record-rounding", f"{name}: a value moves by {off:.3g} steps more than the record is")
    return harmless(f"no value moves by more than {furthest:.4f} steps beyond what the record is: its rounding knows no data")
