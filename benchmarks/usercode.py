"""Seconds of a training step with a job's code in a child, over those of the same step in the party's own process.

    python benchmarks/usercode.py [--json]

Both are of one run and take turns; the median of the ratios is told.  It is wall time, as the child is
another process.
"One at a time" asks for the gradient of each record by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securefl import ClientTrainer
from securefl.privacy.dpsgd import LocalRecordDP
from securefl.privacy.plain import LocalTraining, PlainTraining
from securefl.usercode import remote
from securefl.usercode.isolation import Isolation
from securefl.usercode.remote import trainer_of
from securefl.usercode.shell import model_file

CODE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear({features}, {hidden}), nn.Tanh(), nn.Linear({hidden}, 1))
"""
SIZES = ((30, 16, 200), (100, 1000, 200))
"""Features, hidden units, rows of a batch."""


def training(mechanism: str, rows: int, steps: int) -> LocalTraining:
    if mechanism == "none":
        return PlainTraining(sample_rate=1.0)
    return LocalRecordDP(
        noise_multiplier=1.0, sample_rate=1.0, clip=1.0, delta=1e-5, accountant="rdp", planned_steps=steps, expected_rows=rows
    )


def once(trainer: ClientTrainer, model: nn.Module, data: TensorDataset, mechanism: str, steps: int) -> float:
    began = time.perf_counter()
    trainer.train(model, data, training(mechanism, len(data), steps), steps)
    return (time.perf_counter() - began) / steps


def measured(features: int, hidden: int, rows: int, mechanism: str, *, steps: int = 10, turns: int = 7) -> dict[str, object]:
    scope: dict[str, object] = {}
    code = CODE.format(features=features, hidden=hidden)
    exec(code, scope)  # noqa: S102
    here: nn.Module = scope["build"]()  # type: ignore[operator]
    began = time.perf_counter()
    apart, shell = trainer_of({"m.py": code}, "m:build", Isolation(), initial=model_file(here))
    x = torch.from_numpy(np.sin(np.arange(rows * features, dtype=np.float32)).reshape(rows, features))
    data = TensorDataset(x, torch.from_numpy((np.arange(rows) % 2).astype(np.float32)))
    once(apart, shell, data, mechanism, 1)
    start = time.perf_counter() - began
    two = (ClientTrainer(), here), (apart, shell)
    pairs = [[once(trainer, model, data, mechanism, steps) for trainer, model in two] for _ in range(turns + 1)]
    alone = None
    if mechanism != "none":
        with mock.patch.object(remote, "AT_ONCE", 1):
            alone = once(apart, shell, data, mechanism, 1)
    apart.close()
    inside, outside = (statistics.median(pair[at] for pair in pairs[1:]) for at in (0, 1))
    ratio = statistics.median(two / one for one, two in pairs[1:])
    values = sum(p.numel() for p in here.parameters())
    told = {"mechanism": mechanism, "values": values, "rows": rows, "here": inside, "child": outside}
    return {**told, "ratio": ratio, "start": start, "alone": alone}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    torch.set_num_threads(1)
    told = parser.parse_args().json
    found = [measured(*sizes, mechanism) for sizes in SIZES for mechanism in ("none", "local-record")]
    if told:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(
            f"{row['mechanism']:13} d = {row['values']:7} {row['rows']} rows: {1000 * row['here']:7.2f} ms here, "
            f"{1000 * row['child']:7.2f} ms in a child, {row['ratio']:.2f} ×; first answer after {row['start']:.1f} s"
            + ("" if row["alone"] is None else f"; {row['alone']:.2f} s one at a time")
        )


if __name__ == "__main__":
    main()
