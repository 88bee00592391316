"""Canary records and rows of one's own through the whole pipeline: training, encoding, the secure sum, the released model.

The reader sees the final model alone, as everybody does to whom it is given.

Sources: canaries after Steinke et al. 2023 (arXiv 2305.08846); a model's logit for a row, beside that of models that did not see
it, after Carlini et al. 2022 (arXiv 2112.03570), with few of them.

What it does not show: what the models of single rounds would give away beside the last one; the white-box canaries see every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from securefl.audit.measured.epsilon import guessed
from securefl.audit.measured.registry import RECORDS, SUMMED, Setting, compared, measure
from securefl.audit.verdict import Verdict, combine
from securefl.job import Job
from securefl.models import initialise
from securefl.privacy.record import Central
from securefl.round_types import Fold
from securefl.runner import Runner
from securefl.trainer import ClientTrainer

Rows = tuple[NDArray[np.float32], NDArray[np.float32]]
CANARIES, COMMON, SITES = 240, 4, 4
"""Canary records of the first site; features that all rows share; sites."""
LOUD = 20.0
"""Value of a canary's own feature."""
CANDIDATES, SHADOWS, FEATURES = 60, 8, 400
"""Rows that each site may train on; models that did not see them; features, more than rows: enough to know these by heart."""


def trained(setting: Setting, model: nn.Module, data: Mapping[str, Rows], *, label: str, rounds: int) -> nn.Module:
    """The model that a whole federation releases, with the job's mechanism and so many rounds.

    Args:
        setting: the mechanism.
        model: the start of training.
        data: features and labels of each site.
        label: of the randomness.
        rounds: of training.
    """
    knobs = setting.knobs(rounds=rounds, local_steps=setting.few(setting.job.privacy.local_steps, 10, 50))
    performance = setting.job.plain()["performance"]
    runner = Runner(
        model,
        {name: Fold(_table(rows), None) for name, rows in data.items()},
        trainer=ClientTrainer(learning_rate=performance["learning_rate"]),
        job=Job.parse({"privacy": knobs, "performance": performance}),
        entropy=lambda name: setting.entropy(f"{label} {name}"),
    )
    runner.run_name = f"{setting.seed} {label}"  # the rotation of sums over records follows from it
    if isinstance(runner.plan, Central):
        runner.plan = replace(runner.plan, entropy=setting.entropy(f"{label} server"))
    runner.run()
    return runner.final_models()[0]


def _table(rows: Rows) -> TensorDataset:
    return TensorDataset(torch.from_numpy(rows[0]), torch.from_numpy(rows[1]))


def sureness(model: nn.Module, rows: Rows) -> NDArray[np.float64]:
    """The logit towards the true label, shape (rows,): the loss falls as it grows."""
    with torch.no_grad():
        logits = np.asarray(model(torch.from_numpy(rows[0])).reshape(-1), np.float64)
    return logits * (2.0 * rows[1] - 1)


@measure(
    "epsilon-canaries",
    10,
    "canary records through the whole pipeline, told by the released model",
    how="one-run bound; a sound mechanism at its very ε is wrongly refuted with at most 5 %",
    on=(*RECORDS, *SUMMED),
)
def canaries(setting: Setting) -> Verdict:
    """Canaries with a feature of their own, each in with probability ½; guesses from their loss under the final model."""
    rand, width = setting.rand("canary rows"), CANARIES + COMMON
    records = np.zeros((CANARIES, width), np.float32)
    records[np.arange(CANARIES), np.arange(CANARIES)] = LOUD
    labels = np.ones(CANARIES, np.float32)
    inside = setting.coins("canaries", CANARIES)
    data = dict[str, Rows]()
    for number in range(SITES):
        x = np.zeros((40, width), np.float32)
        x[:, CANARIES:] = (rand.words(f"rows {number}", 40 * COMMON) >> np.uint64(11)).reshape(40, COMMON) / 2.0**52 - 1
        data[f"site-{number + 1}"] = x, (x.sum(axis=1) > 0).astype(np.float32)
    x, y = data["site-1"]
    data["site-1"] = np.concatenate([x, records[inside]]), np.concatenate([y, labels[inside]])
    model = nn.Linear(width, 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    rounds = setting.few(setting.job.privacy.rounds, 10, 100)
    final = trained(setting, model, data, label="canaries", rounds=rounds)
    guesses = CANARIES // 2
    measured, right = guessed(sureness(final, (records, labels)), inside, guesses // 2, guesses // 2, setting.delta)
    return compared("epsilon-canaries", setting, setting.claimed, measured, f"{right} of {guesses} guesses are right")


def candidates(setting: Setting) -> tuple[Rows, Rows]:
    """Candidate rows of all sites, site after site, and as many others for models that see none of them.

    A fifth is labelled wrongly: what only who was told can know.
    """
    rand, count = setting.rand("candidates"), 2 * SITES * CANDIDATES
    x = (rand.words("x", count * FEATURES) >> np.uint64(11)).reshape(count, FEATURES).astype(np.float64) / 2.0**52 - 1
    wrong = np.array(rand.below("wrong", 5, count)) == 0
    y = ((x[:, :4].sum(axis=1) > 0) ^ wrong).astype(np.float32)
    half, rows = count // 2, x.astype(np.float32)
    return (rows[:half], y[:half]), (rows[half:], y[half:])


def calibrated(setting: Setting, final: nn.Module, rows: Rows, others: Rows) -> NDArray[np.float64]:
    """How much surer of a row's label a model is than models that were trained on other rows; larger speaks for membership.

    Sureness is the logit towards the label, which is more nearly Gaussian than the loss.
    """
    out = list[NDArray[np.float64]]()
    for number in range(SHADOWS):
        some = np.flatnonzero(setting.coins(f"shadow {number}", len(others[1])))
        model, (x, y) = network(number), _table((others[0][some], others[1][some])).tensors
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x).reshape(-1), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        out.append(sureness(model, rows))
    return np.asarray(sureness(final, rows) - np.mean(out, axis=0), np.float64)


def network(number: int) -> nn.Module:
    """A logistic regression with more features than rows, always the same for a number."""
    model = nn.Linear(FEATURES, 1)
    initialise(nn.ModuleList([model]), number)
    return model


@measure(
    "epsilon-release",
    10,
    "membership of each site's rows in the released model",
    how="one-run bound for all sites and for each, from logits beside those of models that did not see the rows; 5 % for each",
    on=RECORDS,
)
def release(setting: Setting) -> Verdict:
    """Who was trained on, site by site: half of each site's candidate rows, drawn by coins."""
    rows, others = candidates(setting)
    inside = setting.coins("members", len(rows[1]))
    places = {f"site-{s + 1}": np.arange(s * CANDIDATES, (s + 1) * CANDIDATES) for s in range(SITES)}
    data = {name: _members(rows, place[inside[place]]) for name, place in places.items()}
    rounds = setting.few(setting.job.privacy.rounds, 20, 100)
    final = trained(setting, network(99), data, label="release", rounds=rounds)
    scores = calibrated(setting, final, rows, others)
    everywhere = {"all sites": np.arange(len(inside)), **places}
    return combine((name, _told(setting, name, scores[place], inside[place])) for name, place in everywhere.items())


def _members(rows: Rows, which: NDArray[np.int64]) -> Rows:
    return rows[0][which], rows[1][which]


def _told(setting: Setting, name: str, scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> Verdict:
    guesses, where = len(inside) // 2, ", all sites together" if name == "all sites" else ""
    measured, right = guessed(scores, inside, guesses // 2, guesses // 2, setting.delta)
    return compared("epsilon-release", setting, setting.claimed, measured, f"{right} of {guesses} guesses are right{where}")
