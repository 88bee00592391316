"""What partners with different assays gain by one trunk: Tox21 and ChEMBL over several seeds, both sides tuned alike.

``.venv/bin/python benchmarks/chem.py [--data tox21] [--seeds 5] [--json]``; SECUREFL_DATA names the folder of the data.
``--deal related`` deals assays that were measured on the same compounds to different partners, ``--weights 0.5`` weighs a partner's
assays by their number of compounds to the power of -0.5, ``--set model.hidden=256`` widens the trunk: what a gain depends on.

Each seed deals assays and holds compounds out anew.  Both models of a partner, its own and that of the shared trunk, have one
architecture, optimizer and batch, and each its best number of rounds of the grid: that of the best mean AUROC over partners (R² of
values) on a fifth of the *training* compounds, which the chosen models are then trained without.  Figures are of held-out
compounds.  The sums are exact and in the clear here (the same bits as masked), as only their result is measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist

from protocols.rand import Replay
from securefl import assay_runs, data
from securefl.data import assays
from securefl.data.molecules import MISSING
from securefl.data.split import places
from securefl.gains import Gain, Gains, figures
from securefl.job import Job
from securefl.multitask import MultitaskTrainer
from securefl.privacy.plain import PlainTraining
from securefl.round_types import Fold
from securefl.runner import Runner

VALIDATION = 0.2


def parts_of(fold: Fold, chosen: np.ndarray) -> tuple[Fold, Fold]:
    """Training rows without the chosen ones beside them, and beside the held-out ones."""
    x, y = fold.train.tensors  # type: ignore[attr-defined]
    rest, some = (torch.utils.data.TensorDataset(x[mask], y[mask]) for mask in map(torch.from_numpy, (~chosen, chosen)))
    return Fold(rest, some), Fold(rest, fold.test)


class Weighted(MultitaskTrainer):
    """Weighs a partner's assays: by their number of training compounds to a power, with a mean of 1 over measurements."""

    power = 0.0
    weights: torch.Tensor | float = 1.0

    def on_before_training(self, model: torch.nn.Module, data: Any) -> None:
        """Count the compounds of each assay."""
        super().on_before_training(model, data)
        counts = (data.tensors[1] != MISSING).sum(0).clamp(min=1).float()
        weights = counts**-self.power
        self.weights = weights * counts.sum() / (weights * counts).sum()

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over rows of the weighted mean over a row's measured assays."""
        if self.power == 0 or self.target != "class":
            return super().loss(output, y)
        known = y != MISSING
        each = torch.nn.functional.binary_cross_entropy_with_logits(output, y.clamp(min=0), reduction="none") * self.weights
        return ((each * known).sum(1) / known.sum(1).clamp(min=1)).mean()


def apart(loaded: Any, seed: int) -> Any:
    """The same partners with related assays dealt to different ones.

    Assays are related by the compounds that they have in common (Jaccard), put in the order of a tree of average linkage, and dealt
    in turn; the seed decides where the turn begins.
    """
    known = (loaded.molecules.labels != MISSING).T
    order, count = np.roll(leaves_list(linkage(pdist(known, "jaccard"), "average")), seed), len(loaded.partners)
    held = np.concatenate([partner.test for partner in loaded.partners])
    made = []
    for at, partner in enumerate(loaded.partners):
        own = np.sort(order[at::count])
        rows = np.flatnonzero(known[own].any(axis=0))
        out = np.isin(rows, held)
        made.append(assays.Partner(partner.name, own, rows[~out], rows[out]))
    return replace(loaded, partners=tuple(made))


def mean(found: dict[str, dict[str, float]], key: str) -> float:
    return fmean(one[key] for one in found.values())


def one_seed(job: Job, loaded: Any, every: int, power: float) -> tuple[Gains, dict[str, int]]:
    """Gains at the round that validation chooses, for own and shared models by itself."""
    target, key = job.data.target or "class", "r2" if job.data.target == "value" else "auroc"
    folds, models = assay_runs.parts(job, loaded)
    keys = loaded.molecules.keys
    valid, tests = {}, {}
    for partner in loaded.partners:
        chosen = places(keys[partner.train], job.simulation.seed + 10**6) < VALIDATION
        valid[partner.name], tests[partner.name] = parts_of(folds[partner.name], chosen)
    trainer = Weighted(learning_rate=job.performance.learning_rate, target=target)
    trainer.power = power
    halves = {p.name: places(keys[p.test], job.simulation.seed + 1) < 0.5 for p in loaded.partners}

    def look(name: str, model: Any) -> tuple[dict[str, float], dict[str, float]]:
        out = trainer.outputs(model, valid[name].test)
        there = figures(out, np.zeros(len(out[0]), dtype=bool), target)
        return there, figures(trainer.outputs(model, tests[name].test), halves[name], target)

    seen: dict[str, dict[int, dict[str, tuple[dict[str, float], dict[str, float]]]]] = {"own": {}, "shared": {}}
    runner = Runner(
        models,
        {name: Fold(fold.train, None) for name, fold in valid.items()},
        trainer=trainer,
        job=Job.parse({"privacy": {**job.plain()["privacy"], "protocol": "plain-insecure"}, "model": {"shared": job.model.shared}}),
        entropy=lambda name: Replay(f"{name} {job.simulation.seed}"),
    )

    def note(record: Any) -> None:
        if record.number % every == 0:
            seen["shared"][record.number] = {name: look(name, runner.final_models(name)[0]) for name in valid}

    runner.run(note)
    for name, fold in valid.items():
        model, training = copy.deepcopy(models[name]), PlainTraining(sample_rate=job.privacy.sample_rate)
        trainer.on_before_training(model, fold.train)
        for number in range(1, job.privacy.rounds + 1):
            trainer.train(model, fold.train, training, job.privacy.local_steps)
            if number % every == 0:
                seen["own"].setdefault(number, {})[name] = look(name, model)
    best = {
        who: max(by, key=lambda number: mean({name: pair[0] for name, pair in by[number].items()}, key)) for who, by in seen.items()
    }
    own, shared = (seen[who][best[who]] for who in ("own", "shared"))
    return Gains({name: Gain(own[name][1], shared[name][1]) for name in valid}, target), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=data.MOLECULES, default="tox21")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--every", type=int, default=6, help="rounds between two looks")
    parser.add_argument("--deal", choices=("random", "related"), default="random", help="who gets which assay")
    parser.add_argument("--weights", type=float, default=0.0, metavar="POWER", help="of an assay in the loss; 0: all alike")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a key of the job, as JSON")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tree: dict[str, Any] = {"data": {"name": given.data}, "privacy": {"mechanism": "none"}}
    for text in given.set:
        full, _, value = text.partition("=")
        section, key = full.split(".")
        tree.setdefault(section, {})[key] = json.loads(value)
    began, out, molecules = time.process_time(), [], None
    for seed in range(given.first, given.first + given.seeds):
        job = Job.parse({**tree, "simulation": {"seed": seed}})
        loaded = assays.of_job(job) if molecules is None else assays.deal(
            given.data, molecules, job.data.clients or assays.PARTNERS[given.data], holdout=job.data.holdout, seed=seed
        )  # fmt: skip
        molecules = loaded.molecules
        dealt = apart(loaded, seed) if given.deal == "related" else loaded
        gains, best = one_seed(job, dealt, given.every, given.weights)
        out.append({"seed": seed, "rounds": best, **gains.plain()})
        sys.stderr.write(
            f"seed {seed}: rounds {best}, mean {gains.mean}, least {gains.least}, {time.process_time() - began:.0f} s\n"
        )
    keys = [*out[0]["mean"]]
    names = [*out[0]["partners"]]
    by_place = {name: {key: fmean(one["partners"][name]["gain"][key] for one in out) for key in keys} for name in names}
    total = {
        "data": given.data,
        "job": tree,
        "deal": given.deal,
        "weights": given.weights,
        "seeds": out,
        "mean": {key: fmean(one["mean"][key] for one in out) for key in keys},
        "mean_by_partner": by_place,
        "least_of_any_seed": {key: min(one["least"][key] for one in out) for key in keys},
        "own": {key: fmean(one["partners"][name]["own"][key] for one in out for name in names) for key in keys},
        "cpu_seconds": time.process_time() - began,
    }
    if given.json:
        print(json.dumps(total))
        return
    for name, gain in {**by_place, "mean": total["mean"]}.items():
        print(f"{name:12}", *(f"{key} {value:+.4f}" for key, value in gain.items()))


if __name__ == "__main__":
    main()
