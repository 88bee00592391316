"""Metrics of a run as it goes on, to where the user looks at runs: a CSV file, TensorBoard, MLflow.

``output.track`` (``--track``) names one: ``csv:FILE``, ``tensorboard:DIR``, ``mlflow:URI``.  What is written is what the server
knows: metrics out of the secure sums, ε, contributors, seconds, and after training the secure assessment; of single sites nothing.
Scores that need all rows in one place are written under ``simulation/``.

What it does not protect: a tracker's server sees all of it, and the job; the address of one is the user's to trust.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from securefl.errors import UserError
from securefl.files import atomic_write
from securefl.job import Job, flat
from securefl.results import RoundRecord, RunResult

EXPERIMENT = "securefl"
"""Where MLflow's runs go."""


class Tracker(Protocol):
    """Takes numbers by step."""

    def begin(self, job: Mapping[str, Any]) -> None:
        """The run begins; ``job`` are its keys, ``section.key`` → value."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of a step; the same names may come in other steps, or not."""

    def close(self, *, failed: bool) -> None:
        """The run is over."""


class CsvTracker:
    """One line a step, and a column for each name; the file is whole after every step.

    Raises:
        UserError: the file is a folder, or its folder is missing.
    """

    def __init__(self, target: str) -> None:
        self.path = Path(target)
        if self.path.is_dir() or not self.path.resolve().parent.is_dir():
            raise UserError(f"--track csv:{target}: its folder is missing, or it is one")
        self._rows = list[dict[str, float]]()

    def begin(self, job: Mapping[str, Any]) -> None:
        """As `Tracker.begin`; a CSV has no place for the job."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.write`."""
        self._rows.append({"step": step, **values})
        names = dict.fromkeys(name for row in self._rows for name in row)
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, list(names), restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        atomic_write(self.path, out.getvalue().encode())

    def close(self, *, failed: bool) -> None:
        """As `Tracker.close`."""


class TensorBoardTracker:
    """Scalars of ``tensorboard --logdir DIR``.

    Raises:
        UserError: the package is not installed, or the folder is a file.
    """

    def __init__(self, target: str) -> None:
        if Path(target).exists() and not Path(target).is_dir():
            raise UserError(f"--track tensorboard:{target}: it is no folder")
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to import
        except ImportError:
            raise UserError("--track tensorboard:… needs its package: pip install 'securefl[tensorboard]'") from None
        self._writer: Any = SummaryWriter(target)

    def begin(self, job: Mapping[str, Any]) -> None:
        """As `Tracker.begin`."""
        self._writer.add_text("job", "\n".join(f"    {key} = {value}" for key, value in job.items()))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.write`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002
        """As `Tracker.close`."""
        self._writer.close()


class MlflowTracker:
    """A run of the experiment `EXPERIMENT` at a tracking URI.

    Raises:
        UserError: the package is not installed, or the address does not answer.
    """

    def __init__(self, target: str) -> None:
        try:
            from mlflow.exceptions import MlflowException  # noqa: PLC0415 - slow to import
            from mlflow.tracking import MlflowClient  # noqa: PLC0415
        except ImportError:
            raise UserError("--track mlflow:… needs its package: pip install 'securefl[mlflow]'") from None
        try:
            self._client: Any = MlflowClient(tracking_uri=target)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            raise UserError(f"--track mlflow:{target}: {' '.join(str(error).split())[:200]}") from None
        self._run = ""

    def begin(self, job: Mapping[str, Any]) -> None:
        """As `Tracker.begin`."""
        self._run = self._client.create_run(self._experiment).info.run_id
        for key, value in job.items():
            self._client.log_param(self._run, key, str(value)[:500])

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker.write`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self, *, failed: bool) -> None:
        """As `Tracker.close`."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[CsvTracker | TensorBoardTracker | MlflowTracker]] = {
    "csv": CsvTracker,
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
}


class Tracking:
    """Numbers of a run's rounds and its result for a tracker; without one it does nothing."""

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker

    def begin(self, job: Job) -> None:
        """The run begins."""
        if self._tracker is not None:
            self._tracker.begin(flat(job.plain()))

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        if self._tracker is not None:
            self._tracker.write(record.number, of_round(record))

    def end(self, result: RunResult) -> None:
        """The result is there; its figures have the step after the last round."""
        if self._tracker is not None:
            self._tracker.write(len(result.rounds) + 1, of_result(result))


@contextmanager
def tracking(target: str | None) -> Iterator[Tracking]:
    """Track a run; ``target`` as `output.track`, None for nothing.

    Raises:
        UserError: a target that cannot be written to; before training.
    """
    if target is None:
        yield Tracking(None)
        return
    kind, _, where = target.partition(":")
    tracker: Tracker = TRACKERS[kind](where)
    failed = True
    try:
        yield Tracking(tracker)
        failed = False
    finally:
        tracker.close(failed=failed)


def of_round(record: RoundRecord) -> dict[str, float]:
    """What the server knows of a round, as finite numbers by name."""
    values = {
        "contributors": float(record.contributors),
        "aborted": float(record.aborted is not None),
        "seconds": sum(record.seconds.values()),
        **record.metrics,
    }
    if record.epsilon:
        values["epsilon"] = max(record.epsilon.values())
    return {name: value for name, value in values.items() if math.isfinite(value)}


def of_result(result: RunResult) -> dict[str, float]:
    """Figures of the final model: out of the secure assessment, and those that a simulation alone has."""
    values = {f"simulation/{name}": value for name, value in result.metrics.items()}
    assessed = result.assessment.federated if result.assessment is not None and result.assessment.secure else None
    for name in ("auroc", "auprc", "brier"):
        figure = getattr(assessed, name, None)
        if figure is not None:
            values[f"final/{name}"] = figure.value
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
