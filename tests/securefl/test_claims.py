"""What is claimed of records, held against them: the public number of rows, and the models that one is in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from made_sites import FEATURES, job, linear, rows, sites
from torch.utils.data import Dataset, Subset, TensorDataset

from protocols.rand import Replay
from protocols.suite import Occasion
from securefl import Fold, Runner, UserError
from securefl.claims import ALIKE, check_claims
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.record import RecordLevel
from securefl.privacy.record_plan import HEADROOM, calibrate_records

RECORD: dict[str, Any] = {"mechanism": "distributed-record", "epsilon": 8.0, "delta": 1e-4, "rows": 45, "sample_rate": 0.5}
LOCAL: dict[str, Any] = {"mechanism": "local-record", "epsilon": 8.0, "delta": 1e-3, "sample_rate": 0.5}
FOUR = {"b": Fold(rows(40, 8), None), "c": Fold(rows(40, 9), None), "d": Fold(rows(40, 10), None)}


def test_more_rows_than_sums_have_room_for_are_refused_and_no_fewer() -> None:
    assert max(len(fold.train) for fold in sites().values()) == HEADROOM * RECORD["rows"]  # type: ignore[arg-type]
    Runner(linear, sites(), job=job(**RECORD))
    for mechanism in ("distributed-record", "central"):
        with pytest.raises(UserError, match=r"^site-3 has 90 training rows where privacy.rows = 44: .* up to 88; .* at least 45$"):
            Runner(linear, sites(), job=job(**{**RECORD, "mechanism": mechanism, "rows": 44}))
    Runner(linear, sites(), job=job(**{**LOCAL, "rows": 4}))


def test_control_without_the_refusal_the_sum_wraps_around() -> None:
    """All records at every site pull one way: within the room the step is what they say, far above it something else."""
    plan = calibrate_records(epsilon=8.0, delta=1e-5, cohort=Cohort(5, 4, 1), rounds=3, size=FEATURES, clip=1.0, rate=1.0, rows=200)
    level, at = RecordLevel(plan, 1.0), Occasion("claims", 1)

    def step(count: int) -> float:
        total = np.zeros(level.size, dtype=np.int64)
        for party in range(5):
            pulled = np.zeros(plan.size, dtype=np.int64)
            pulled[0] = count * plan.fixed
            total += level.encode([pulled], [], {}, at, Replay(f"claims {party}")()).vector
        half = 1 << (plan.bits - 1)
        (update,) = level.decode((total + half) % (2 * half) - half, 5, at).updates
        assert update is not None
        return float(-update[0])

    assert step(HEADROOM * 200) == pytest.approx(HEADROOM, abs=6 * plan.error(5))
    assert abs(step(100 * 200) - 100) > 50


def overlapping(whole: TensorDataset, parts: list[list[int]]) -> tuple[Fold, ...]:
    return tuple(Fold(TensorDataset(*(t[part] for t in whole.tensors)), None) for part in parts)


def test_folds_that_hold_rows_in_more_models_than_was_said_are_refused() -> None:
    same = (Fold(rows(40, 7), None),) * 3
    given = {"a": same, **{name: (fold,) * 3 for name, fold in FOUR.items()}}
    for mechanism in (RECORD, LOCAL):
        with pytest.raises(UserError, match="^40 of 40 different training rows of a are in more than models_per_record = 1 of"):
            Runner(linear, given, models_per_record=1, job=job(**mechanism))
        Runner(linear, given, job=job(**mechanism))
    Runner(linear, given, models_per_record=1, job=job(mechanism="none"))


class Mapped(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same rows by another way, and in another order."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.data[len(self.data) - 1 - row]
        return x.double(), y


def test_rows_are_known_by_their_values_whatever_holds_them() -> None:
    folds = (Fold(rows(40, 7), None), Fold(Mapped(rows(40, 7)), None))
    with pytest.raises(UserError, match="40 of 40"):
        check_claims({"a": folds}, job(**LOCAL).privacy, 1)


def test_cross_validation_passes_and_looks_of_few_rows_are_said() -> None:
    whole, knobs = rows(60, 7), job(**LOCAL).privacy
    parts = [[row for row in range(60) if row % 3 != fold] for fold in range(3)]
    assert check_claims({"a": overlapping(whole, parts)}, knobs, 2) == []
    apart = [[row for row in range(60) if row % 3 == fold] for fold in range(3)]
    assert check_claims({"a": overlapping(whole, apart)}, knobs, 1) == []
    whole.tensors[0][1], whole.tensors[1][1] = whole.tensors[0][0], whole.tensors[1][0]  # a record like another, in another fold
    (line,) = check_claims({"a": overlapping(whole, apart)}, knobs, 1)
    assert line.startswith("1 of 59 different training rows of a are in more than models_per_record = 1 of its folds: ε holds only")
    many = int(ALIKE * 60) + 2
    with pytest.raises(UserError, match=f"^{many} of 60 "):
        check_claims({"a": overlapping(rows(60, 7), [[*apart[0], *apart[1][:many]], *apart[1:]])}, knobs, 1)


def test_cross_validation_of_few_different_rows_passes() -> None:
    x = torch.arange(60, dtype=torch.float32).reshape(60, 1) % 6  # ten records of each look
    whole = TensorDataset(x, x[:, 0] % 2)
    knobs, every = job(**LOCAL).privacy, range(60)
    held = [[row for row in every if (row // 6) % 5 == fold] for fold in range(5)]  # two of each look in every fold
    folds = tuple(Fold(Subset(whole, [r for r in every if r not in own]), Subset(whole, own)) for own in held)
    assert check_claims({"a": folds}, knobs, 4) == []
    with pytest.raises(UserError, match="^6 of 6 different training rows of a are in more than models_per_record = 3 of its folds"):
        check_claims({"a": folds}, knobs, 3)
    bare = tuple(Fold(fold.train, None) for fold in folds)
    with pytest.raises(UserError, match="^6 of 6 "):
        check_claims({"a": bare}, knobs, 4)
