"""A simulation that was stopped goes on: what it needs is written after every few rounds, and read by ``--resume``.

A checkpoint holds what is known outside of the sites anyway (the global models, the records of the rounds) and what each site has
charged to its account.  Keys and noise are fresh after it, as they are in every round.  Runs between machines go on by their store
(`securefl.store`); this is for one process.

What it does not protect: a checkpoint that was changed changes the models and the accounts; it is as trusted as the job file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securefl.errors import UserError
from securefl.files import write_all
from securefl.job import flat
from securefl.results import RoundRecord

if TYPE_CHECKING:
    from securefl.data import Dataset
    from securefl.job import Job
    from securefl.runner import Runner

FILE = "checkpoint.safetensors"
VERSION = 1
STATELESS = ("fedavg", "fedsgd", "fedprox", "fednova", "qfedavg")
"""Algorithms of which nothing but the global models goes from one round to the next."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        begun: rounds that have begun.
        opened: rounds whose sum was opened.
        records: of the rounds.
    """

    begun: int = 0
    opened: int = 0
    records: list[RoundRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Charged:
    """What a site has charged to its account.

    Attributes:
        sums: for each sum that its input has left for, how many contributors were in it, or None.
        steps: for each model, steps of its training that are in an account.
    """

    sums: tuple[int | None, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after one of its rounds.

    Attributes:
        job: as plain data, without where results go.
        data: digest of all rows, from `digest_of`.
        progress: how far it is.
        models: the global models, each of shape (d,), float32.
        state: public values of the encoding, shape (k,).
        sites: what each has charged, by name.
    """

    job: Mapping[str, Any]
    data: str
    progress: Progress
    models: tuple[NDArray[np.float32], ...]
    state: NDArray[np.float32]
    sites: Mapping[str, Charged]


def refuse(job: Job) -> None:
    """Refuse checkpoints of a job whose run has more to remember.

    Raises:
        UserError: with the key.
    """
    performance, knobs = job.performance, job.privacy
    for key, odd in (
        (f"performance.algorithm = {performance.algorithm}", performance.algorithm not in STATELESS),
        ("model.shared", job.model.shared is not None or job.data.name in ("tox21", "chembl")),
        ("data.scaling = noised", job.data.scaling == "noised"),
        ("privacy.ledger", knobs.ledger is not None),
        ("performance.handshake_rounds above 1", (performance.handshake_rounds or 1) > 1),
    ):
        if odd:
            raise UserError(f"{key} is refused with checkpoints (--checkpoint, --resume): sites or server keep more than models")
    if job.output.dir is None:
        raise UserError("--checkpoint and --resume need a folder (--out)")


def digest_of(dataset: Dataset) -> str:
    """SHA-256 of the rows of all sites, hexadecimal."""
    found = hashlib.sha256()
    for site in dataset.sites:
        for part in (site.name.encode(), site.known.tobytes(), site.y.tobytes()):
            found.update(hashlib.sha256(part).digest())
    return found.hexdigest()


@dataclass(frozen=True)
class Keeping:
    """What a run writes after its rounds.

    Attributes:
        job: of the run.
        data: digest of the rows; empty where nothing is written.
        runner: that runs.
    """

    job: Job
    data: str
    runner: Runner

    @classmethod
    def of(cls, job: Job, dataset: Dataset, runner: Runner, *, recorded: bool) -> Keeping:
        """Read the checkpoint that the job asks for, and go on from there; ``recorded``: whether a tape, logs or evidence are kept.

        Raises:
            UserError: as `refuse` and `read`.
        """
        out = job.output
        if out.checkpoint is None and not out.resume:
            return cls(job, "", runner)
        refuse(job)
        if out.resume and recorded:
            raise UserError("--resume is refused with a tape, a log or evidence: they are of a whole run")
        data = digest_of(dataset)
        found = read(out.dir, job, data) if out.resume and out.dir is not None else None
        if found is not None:
            runner.go_on(found)
        return cls(job, data, runner)

    def after(self, on_event: Callable[[RoundRecord], None] | None) -> Callable[[RoundRecord], None] | None:
        """The same, which also writes a checkpoint when it is time."""
        out = self.job.output
        if out.checkpoint is None or out.dir is None:
            return on_event
        folder, every = out.dir, out.checkpoint

        def then(record: RoundRecord) -> None:
            if record.number % every == 0:
                write(folder, taken(self.runner, self.job, self.data))
            if on_event is not None:
                on_event(record)

        return then


def taken(runner: Runner, job: Job, data: str) -> Checkpoint:
    """The run as it is between two rounds."""
    models, state = runner.public()
    charged = {name: site.charged() for name, site in runner.sites.items()}
    return Checkpoint(_plain(job), data, runner.progress, models, state, charged)


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the file, whole or not at all, over an earlier one."""
    from safetensors.numpy import save  # noqa: PLC0415 - slow to import

    arrays = {f"model.{at}": model for at, model in enumerate(checkpoint.models)}
    about = {
        "version": VERSION,
        "job": checkpoint.job,
        "data": checkpoint.data,
        "progress": asdict(checkpoint.progress),
        "sites": {name: asdict(one) for name, one in checkpoint.sites.items()},
    }
    content = save({**arrays, "state": checkpoint.state}, metadata={"checkpoint": json.dumps(about)})
    write_all(folder, {FILE: content})


def read(folder: Path, job: Job, data: str) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is none yet.

    Args:
        folder: where it is.
        job: that goes on; it must be the one of the checkpoint.
        data: digest of the rows, which must be the same.

    Raises:
        UserError: a damaged file, another job (with the first key that differs), other rows.
    """
    path = folder / FILE
    if not path.exists():
        return None
    about, arrays = _opened(path)
    mine, theirs = flat(_plain(job)), flat(about["job"])
    for key in {**mine, **theirs}:
        if mine.get(key) != theirs.get(key):
            raise UserError(
                f"{path} is of another job: {key} is {theirs.get(key)!r} there and {mine.get(key)!r} here; remove it, or write "
                "elsewhere (--out)"
            )
    if about["data"] != data:
        raise UserError(f"{path} is of other rows: the data have changed since; remove it, or write elsewhere (--out)")
    progress = about["progress"]
    records = [RoundRecord(**record) for record in progress["records"]]
    count = sum(name.startswith("model.") for name in arrays)
    return Checkpoint(
        about["job"],
        data,
        Progress(progress["begun"], progress["opened"], records),
        tuple(arrays[f"model.{at}"] for at in range(count)),
        arrays["state"],
        {name: Charged(tuple(one["sums"]), tuple(one["steps"])) for name, one in about["sites"].items()},
    )


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - slow to import

    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["checkpoint"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint: {' '.join(str(error).split())[:120]}") from None
    if about.get("version") != VERSION:
        raise UserError(f"{path} is a checkpoint of version {about.get('version')!r}: this software reads {VERSION}")
    return about, arrays


def _plain(job: Job) -> dict[str, Any]:
    """The job as JSON has it, without where results go."""
    tree: dict[str, Any] = json.loads(json.dumps(job.plain()))
    tree.pop("output", None)
    return tree
