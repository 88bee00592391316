"""What one ``securefl serve`` hosts: several federations in one file, each with keys, a job and a store of its own.

TOML with a table for each, and exactly the keys of `FederationKnobs`; relative paths are taken from the file's own folder:

    [federation.cardiology]
    job = "cardiology/job.toml"
    keys = "cardiology/keys"
    [federation.cardiology.limits]
    connections = 64

What it does not protect: whoever may write the file decides what is served; one that others may write is refused.
"""

from __future__ import annotations

import itertools
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import Field, ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from securefl import files
from securefl.bundles.kept import is_hash
from securefl.errors import UserError
from securefl.job import Job
from securefl.knob_base import Knobs, near
from securefl.sampling import refuse_recording
from securefl.transport.enrolment import Credentials
from securefl.transport.hall import Limits

Place = Annotated[Path, Field(strict=False)]
WITHIN = (1.0, 7 * 86400.0)
"""Seconds that a training may be given, from and to."""
OUTPUTS = ("metrics.json", "model.safetensors")


class LimitKnobs(Knobs):
    """What a federation may take.

    Attributes:
        connections: most streams of its parties at once.
        waiting: MiB that may wait for one party that does not read them.
    """

    connections: Annotated[int, Field(ge=1, le=2**20)] = 4096
    waiting: Annotated[int, Field(ge=1, le=2**20)] = 1024


class FederationKnobs(Knobs):
    """One federation in the file; all but the last two as the options of ``securefl serve``.

    Without a job and a bundle it takes bundles in, and runs nothing.

    Attributes:
        restarts: how often in a row it is opened again after it failed.
        limits: of it.
    """

    keys: Place
    job: Place | None = None
    bundle: str | None = None
    listen: str | None = None
    store: str | None = None
    models: str | None = None
    out: Place | None = None
    tape: Place | None = None
    wait: Annotated[float, Field(ge=0)] = 300.0
    within: Annotated[float, Field(ge=WITHIN[0], le=WITHIN[1])] | None = None
    restarts: Annotated[int, Field(ge=0, le=1000)] = 10
    limits: LimitKnobs = Field(default_factory=LimitKnobs)


class FederationsFile(Knobs):
    """The whole file."""

    federation: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,62}$")], FederationKnobs], Field(min_length=1, max_length=1000)
    ]


@dataclass(frozen=True)
class Federation:
    """What one federation is run with.

    Attributes:
        name: empty where it is the only one.
        job: its job; None where a bundle has it, or it runs nothing.
        bundle: the first digits of the hash of a bundle that was submitted, or its file; or None.
        credentials: the server's in it.
        listen: HOST:PORT.
        store: URL of its database.
        models: URL of its models.
        out: folder for what a run leaves behind, or None.
        tape: file for what the server sees, or None.
        wait: seconds to wait for all parties before the first round.
        within: seconds that a party has for its training; None as the protocol says.
        anew: whether to begin a new run in any case.
        limits: of its parties.
        restarts: how often in a row it is opened again after it failed; None: what fails is raised.

    Raises:
        UserError: for a tape of a job whose rosters change.
    """

    name: str
    job: Job | None
    bundle: str | None
    credentials: Credentials
    listen: str
    store: str
    models: str
    out: Path | None = None
    tape: Path | None = None
    wait: float = 300.0
    within: float | None = None
    anew: bool = False
    limits: Limits = Limits()
    restarts: int | None = None

    def __post_init__(self) -> None:
        if self.job is not None and self.tape is not None:
            refuse_recording(self.job, "a tape")

    @property
    def hosts(self) -> frozenset[str]:
        """The names and addresses that the server's certificate is for."""
        found = self.credentials.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return frozenset(str(name.value) for name in found)


def load(path: Path, listen: str) -> list[Federation]:
    """Read and check a file, and all that it names.

    Args:
        path: the file.
        listen: where those listen that do not say.

    Raises:
        UserError: naming the file and the key; nothing has begun then.
    """
    made, folder = _parsed(path).federation, path.parent
    found = [_federation(name, knobs, folder, listen, f"{path}: federation.{name}") for name, knobs in made.items()]
    _refuse_shared(path, found)
    return found


def _parsed(path: Path) -> FederationsFile:
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot read the federations: {getattr(error, 'strerror', None) or error}") from None
    files.refuse_writable(str(path), mode)
    try:
        made = FederationsFile.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = [str(part) for part in first["loc"] if not str(part).startswith(("constrained", "function", "["))]
        if first["type"] == "extra_forbidden":
            known = [*FederationKnobs.model_fields, *LimitKnobs.model_fields, *FederationsFile.model_fields]
            raise UserError(f"{path}: unknown key {'.'.join(names)}{near(names[-1], known)}") from None
        raise UserError(f"{path}: {'.'.join(names)}: {first['msg'].lower()}") from None
    for name, knobs in made.federation.items():
        if knobs.job is not None and knobs.bundle is not None:
            raise UserError(f"{path}: federation.{name}: give job or bundle, not both")
        if mode & 0o044 and _has_password(knobs.store):
            raise UserError(f"{path} is refused: others may read it, and federation.{name}.store holds a password (chmod 600)")
    return made


def _federation(name: str, knobs: FederationKnobs, folder: Path, listen: str, where: str) -> Federation:
    try:
        keys = folder / knobs.keys
        if knobs.out is not None:
            files.check_folder(folder / knobs.out, OUTPUTS)
        return Federation(
            name,
            None if knobs.job is None else Job.load(folder / knobs.job),
            knobs.bundle if knobs.bundle is None or is_hash(knobs.bundle) else str(folder / knobs.bundle),
            Credentials.load(keys, "server"),
            knobs.listen or listen,
            knobs.store or f"sqlite:///{keys / 'server.db'}",
            _placed(knobs.models, folder) or str(keys / "models"),
            None if knobs.out is None else folder / knobs.out,
            None if knobs.tape is None else folder / knobs.tape,
            knobs.wait,
            knobs.within,
            limits=Limits(knobs.limits.connections, knobs.limits.waiting << 20),
            restarts=knobs.restarts,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _has_password(url: str | None) -> bool:
    try:
        return url is not None and bool(make_url(url).password)
    except (ArgumentError, ValueError):
        return False  # refused where it is opened


def _placed(url: str | None, folder: Path) -> str | None:
    return url if url is None or "://" in url else str(folder / url)


def _refuse_shared(path: Path, found: Sequence[Federation]) -> None:
    """No two may have a folder of keys, a store or an output in common, nor, at one address, a consortium or a host name."""
    own: dict[str, Callable[[Federation], object]] = {
        "keys": lambda f: os.path.realpath(f.credentials.folder),
        "store": lambda f: f.store,
        "models": lambda f: f.models,
        "out": lambda f: f.out and os.path.realpath(f.out),
        "tape": lambda f: f.tape and os.path.realpath(f.tape),
    }
    for one, other in itertools.combinations(found, 2):
        for key, of in own.items():
            if of(one) is not None and of(one) == of(other):
                raise UserError(f"{path}: {one.name} and {other.name} have the same {key}: each federation has its own")
        if one.listen == other.listen and one.credentials.authority == other.credentials.authority:
            raise UserError(
                f"{path}: {one.name} and {other.name} listen at {one.listen} for one consortium, and a caller's certificate "
                "would not tell them apart: give each an address of its own"
            )
        if one.listen == other.listen and (both := one.hosts & other.hosts):
            raise UserError(
                f"{path}: {one.name} and {other.name} listen at {one.listen} with certificates for {', '.join(sorted(both))}: "
                "give each a host name of its own, or another address"
            )


def unused(tape: Path) -> Path:
    """The file, or where it exists the first of its name with a number: what was recorded is never written over."""
    numbered = (tape.with_name(f"{tape.stem}-{number}{tape.suffix}") for number in itertools.count(2))
    return next(path for path in itertools.chain([tape], numbered) if not path.exists())


def addresses(found: Sequence[Federation]) -> dict[str, list[Federation]]:
    """The federations by where they listen."""
    return {listen: [one for one in found if one.listen == listen] for listen in Counter(one.listen for one in found)}
