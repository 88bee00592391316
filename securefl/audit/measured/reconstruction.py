"""Gradient inversion: a picture out of one update, and out of what the server sees instead.

Sources: the exact inversion of a first layer with bias after Phong et al. 2018 (weights' gradient over bias' gradient);
gradient matching after Zhu, Liu and Han 2019 (arXiv 1906.08935), with the labels read from the signs of the bias' gradient.

What it does not show: that nobody does better.  Deeper models, larger batches and many rounds need stronger attacks, which exist.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from protocols import sums
from securefl.audit.federation import federation
from securefl.audit.knowledge import observe
from securefl.audit.measured.registry import RECORDS, Setting, flagged, measure
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, harmless, stated
from securefl.data import heart
from securefl.encode import Plan, decode, encode
from securefl.job import Job
from securefl.models import to_vector
from securefl.trainer import ClientTrainer

Array = NDArray[np.float64]
PIXELS, CLASSES, PARTIES = 64, 10, 4
FIRST = 3
"""The digit of the set that is attacked; those of the other parties follow it."""
ALIKE = 0.75
"""A correlation over 64 pixels that chance reaches with probability 1e-12."""


@dataclass(frozen=True)
class View:
    """What an attack makes of one thing that a reader may have.

    Attributes:
        name: ``true``, ``clear``, ``batch``, ``masked``, ``sum`` or ``noised``.
        title: in a few words.
        pixels: the picture, shape (64,).
        likeness: correlation with the true picture.
    """

    name: str
    title: str
    pixels: Array
    likeness: float


def digits(first: int = FIRST, count: int = PARTIES) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures of 8×8 pixels in [0, 1] with their labels, shapes (count, 64) and (count,)."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (scikit-learn takes its time)

    data = load_digits()
    return (data.data[first : first + count] / 16).astype(np.float32), data.target[first : first + count].astype(np.int64)


def softmax(features: int = PIXELS, classes: int = CLASSES) -> nn.Module:
    """A softmax regression that starts from zero, as everybody knows it; logistic for one class."""
    model = nn.Linear(features, classes)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def update(setting: Setting, model: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64], *, label: str) -> Array:
    """What one local step on these records adds to the model at learning rate 1, under the mechanism, shape (d,)."""
    start = to_vector(model).astype(np.float64)
    training = setting.training(len(x), label=label, rate=1.0)
    ClientTrainer(learning_rate=1.0).train(model, TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), training, 1)
    return to_vector(model) - start


def exactly(change: Array, features: int = PIXELS) -> Array:
    """The input of a linear layer with bias, from the update of one record: a row of weights over its bias, shape (features,)."""
    outputs = len(change) // (features + 1)
    weights, bias = change[: outputs * features].reshape(outputs, features), change[outputs * features :]
    row = int(np.abs(bias).argmax())
    return np.asarray(weights[row] / (bias[row] or 1.0), np.float64)


def matched(change: Array, records: int, *, steps: int = 60) -> Array:
    """Several records of a softmax regression from the update of one step on all of them, by matching gradients.

    Labels are the classes whose bias grew.  Pictures are found by L-BFGS from grey; they come in the order of their labels.

    Args:
        change: the update, shape (650,).
        records: how many, each of another class.
        steps: iterations.

    Returns:
        The pictures, shape (records, 64).
    """
    target = torch.from_numpy(-change)
    labels = torch.from_numpy(np.sort(np.argsort(change[-CLASSES:])[-records:]))
    error = torch.full((records, CLASSES), 1 / CLASSES, dtype=torch.float64)
    error[torch.arange(records), labels] -= 1
    x = torch.full((records, PIXELS), 0.5, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([x], max_iter=steps, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-15)

    def distance() -> torch.Tensor:
        search.zero_grad()
        gradient = torch.cat([(error.T @ x / records).reshape(-1), error.mean(dim=0)])
        off = ((gradient - target) ** 2).sum() * 1e4
        off.backward()  # type: ignore[no-untyped-call]
        return off

    search.step(distance)  # type: ignore[no-untyped-call]
    return np.asarray(x.detach().numpy(), np.float64)


def likeness(one: Array, two: Array) -> float:
    """Correlation; 0.0 where one does not vary."""
    a, b = one - one.mean(), two - two.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else 0.0


def masked(plan: Plan, changes: Sequence[Array], setting: Setting) -> tuple[Array, Array]:
    """What the server sees of the first party under SecAgg, read as an update, and the mean that the sum opens."""
    vectors = [encode(plan, [x], [1], {}, setting.entropy(f"rounding {u}")()).vector for u, x in enumerate(changes)]
    scheme = sums.scheme("secagg")
    parameters = scheme.parameters(len(vectors), plan.size, plan.limit, bits=plan.bits)
    fed = federation(len(vectors), plan.size, parameters=parameters, scheme=scheme, policy=scheme.policy)
    fed = replace(fed, vectors={u: vector.copy() for u, vector in zip(fed.vectors, vectors, strict=True)})
    (sent,) = observe(fed).uploads(Target.of("secagg").uploads)[1]
    values = sent[: plan.blocks[0]].astype(np.float64)
    half = float(parameters.ring.modulus) / 2
    seen = np.where(values >= half, values - 2 * half, values) * plan.step
    mean = decode(plan, np.sum(vectors, axis=0), len(vectors)).updates[0]
    return seen, np.zeros(plan.blocks[0]) if mean is None else mean


def views(setting: Setting) -> list[View]:
    """One picture, as it is and as it comes out of everything that a reader may have."""
    x, y = digits()
    plain = Setting(_plain_job(), setting.seed)
    true = x[0].astype(np.float64)
    changes = [update(plain, softmax(), x[u : u + 1], y[u : u + 1], label=f"clear {u}") for u in range(PARTIES)]
    several = update(plain, softmax(), x[:3], y[:3], label="batch")
    place = int(np.argsort(np.argsort(y[:3]))[0])
    plan = Plan(PARTIES, (len(changes[0]),), setting.job.privacy.update_clip, 1, (), setting.job.privacy.precision)
    seen, mean = masked(plan, changes, setting)
    found = [
        ("true", "the record", true),
        ("clear", "one update, in clear", exactly(changes[0])),
        ("batch", "an update over three records, in clear", matched(several, 3)[place]),
        ("masked", "what SecAgg lets the server see", exactly(seen)),
        ("sum", f"the opened sum over {PARTIES} parties", exactly(mean)),
    ]
    if setting.private:
        noised = update(setting, softmax(), x[:1], y[:1], label="noised")
        found.append(("noised", f"one update with noise, ε = {setting.claimed:g}", exactly(noised)))
    return [View(name, title, pixels, likeness(pixels, true)) for name, title, pixels in found]


def patient() -> tuple[list[str], Array, Array] | None:
    """A row of the heart data, as it is and as one clear update of a logistic regression gives it; None where there are no data.

    Returns:
        Names of the features, the row, and what comes back.
    """
    if not os.environ.get(heart.VARIABLE):
        return None
    data = heart.load()
    row = np.asarray(data.sites[0].x[:1], np.float32)
    plain = Setting(_plain_job())
    change = update(plain, softmax(row.shape[1], 1), row, np.asarray(data.sites[0].y[:1], np.int64), label="patient")
    return list(data.features), row[0].astype(np.float64), exactly(change, row.shape[1])


def _plain_job() -> Job:
    return Job.parse({"privacy": {"mechanism": "none"}})


@measure(
    "reconstruction-masked",
    10,
    "a picture out of an update, out of a masked vector, out of a sum",
    how="gradient inversion; chance looks like the picture with probability 1e-12",
    on=RECORDS,
)
def reconstruction(setting: Setting) -> Verdict:
    """The picture comes back from an update in clear, and must not from what the server sees."""
    seen = {view.name: view for view in views(setting)}
    told = ", ".join(f"{view.title}: {view.likeness:.2f}" for name, view in seen.items() if name != "true")
    if abs(seen["masked"].likeness) > ALIKE:
        return flagged("reconstruction-masked", f"the picture shows in a masked vector; likeness of {told}")
    if seen["clear"].likeness < 1 - 1e-6:
        return flagged("reconstruction-masked", f"the attack itself does not work, so that it shows nothing; likeness of {told}")
    return harmless(f"likeness of {told}") if setting.private else stated(f"likeness of {told}")
