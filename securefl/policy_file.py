"""A party's policy on its own disk: what it takes part in, whatever a server or a job asks for.

A policy file is TOML with the keys of `Rules`; what is left out asks nothing.  Job and model are held against it before the first
byte leaves, each sum by the party's session (`protocols.policy.Policy`), which only ever gets stricter by it.  A refusal names the
line of the file and its value.

What it does not protect: whoever may write the file may change it; one that others than its owner may write is refused.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from protocols.errors import Abort, Refused
from protocols.policy import Policy
from protocols.suite import default_corrupt
from securefl.errors import UserError
from securefl.files import refuse_writable
from securefl.job import Job
from securefl.knob_base import Knobs, near, quote
from securefl.knobs import choices
from securefl.privacy.store import Budget, Place, Store
from securefl.usercode.isolation import Isolation

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Most = Annotated[int, Field(ge=1, le=2**40)]
Cost = Annotated[float, Field(gt=0)]


class Lifetime(Knobs):
    """What all runs on one data set together may cost, kept in the party's ledger."""

    unit: Literal["record", "party"] = "record"
    epsilon: Cost
    delta: Annotated[float, Field(gt=0, lt=1)]


class Resources(Knobs):
    """What a run may use of the party's machine.

    Attributes:
        cpus: most CPUs.
        memory_mib: most MiB of memory for data, of the whole process; Python with torch takes some 400 of them.
    """

    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    memory_mib: Annotated[int, Field(ge=512, le=2**24)] | None = None


class Rules(Knobs):
    """The keys of a policy file.

    Attributes:
        min_cohort: fewest parties in any set that the server announces.
        min_cohort_share: least share of the parties on the roster that any such set must have.
        min_threshold: least share of the invited parties that must be needed to open a sum.
        min_corrupt: least number of colluding parties against which a sum must hold.
        min_security: least bits of statistical security of a sparse graph.
        protocols: names of the protocols that may run.
        mechanisms: of differential privacy that a job may have.
        max_epsilon: largest ε of a run, by the party's own account; jobs without differential privacy are refused then, and those
            whose noise a trusted server adds.
        max_delta: largest δ at which it may be stated.
        max_rounds: most rounds of a run.
        max_values: most values of the vector that is summed.
        jobs: SHA-256 of the jobs that may run.
        models: SHA-256 of the models that a round may start from.
        lifetime: what all runs together may cost.
        resources: what a run may use of the machine.
        isolation: how code of a job's own runs (`securefl.usercode.isolation`); ``none`` gives it all that the party's account has.
    """

    min_cohort: Annotated[int, Field(ge=2, le=2**20)] | None = None
    min_cohort_share: Annotated[float, Field(gt=0, le=1)] | None = None
    min_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    min_corrupt: Annotated[int, Field(ge=0, le=2**20)] | None = None
    min_security: Annotated[int, Field(ge=1, le=256)] | None = None
    protocols: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    mechanisms: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    max_epsilon: Cost | None = None
    max_delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_rounds: Most | None = None
    max_values: Most | None = None
    jobs: tuple[Digest, ...] | None = Field(default=None, strict=False, min_length=1)
    models: tuple[Digest, ...] | None = Field(default=None, strict=False, min_length=1)
    lifetime: Lifetime | None = None
    resources: Resources | None = None
    isolation: Literal["bubblewrap", "none"] | None = None


_KEY_OF = {
    "policy-cohort": "min_cohort",
    "policy-threshold": "min_threshold",
    "policy-corrupt": "min_corrupt",
    "policy-security": "min_security",
    "policy-model": "models",
    "policy-epsilon": "max_epsilon",
    "ledger-budget": "lifetime.epsilon",
}
"""By check of a session, the rule that it may come from."""


class PolicyFile:
    """A policy, with the lines that it stands in.

    Args:
        text: TOML.
        where: the name of the file, for errors.

    Attributes:
        rules: what it says.

    Raises:
        UserError: naming the line and what is allowed there.
    """

    def __init__(self, text: str, where: str = "policy") -> None:
        self.where, self._lines = where, _lines(text)
        try:
            tree = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UserError(f"{where} is no TOML: {error}") from None
        try:
            self.rules = Rules.model_validate(tree)
        except ValidationError as error:
            raise UserError(self._explain(error)) from None
        for key in ("protocols", "mechanisms"):
            known = choices("privacy", key.removesuffix("s"))
            for value in getattr(self.rules, key) or ():
                if value not in known or value == "auto":
                    listed = ", ".join(name for name in known if name != "auto")
                    raise UserError(f"{self.line(key)}: {quote(value)} is none of {listed}{near(value, known)}")

    @classmethod
    def load(cls, path: Path) -> PolicyFile:
        """Read a file.

        Raises:
            UserError: it cannot be read, or others may write it; or as for the class.
        """
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the policy {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        refuse_writable(f"the policy {path}", mode)
        return cls(text, str(path))

    def line(self, key: str) -> str:
        """Where a rule stands: ``policy.toml:3 (min_cohort = 4)``."""
        number = self._lines.get(key)
        table, _, name = key.rpartition(".")
        value = getattr(getattr(self.rules, table) if table else self.rules, name) if hasattr(self, "rules") else None
        shown = list(value) if isinstance(value, tuple) else value
        said = key if value is None else f"{key} = {quote(shown)}"
        return f"{self.where} ({said})" if number is None else f"{self.where}:{number} ({said})"

    def check_job(self, job: Job, *, digest: str, protocol: str, values: int, registered: int | None = None) -> None:
        """Refuse a job.

        Args:
            job: as the party would run it.
            digest: its SHA-256, hexadecimal.
            protocol: that it comes to; with ``auto`` the one that was taken.
            values: of the vector that is summed.
            registered: parties on the roster; None where that is not known.

        Raises:
            UserError: the line of the policy, its value and the job's.
        """
        rules, knobs = self.rules, job.privacy
        invited = knobs.clients_per_round  # of others the sessions ask
        few, fewer = (invited is not None and invited < least for least in self._least_cohorts(registered))
        private = knobs.mechanism != "none"
        hidden = private and knobs.mechanism != "central"
        why = "its server has the sums without noise" if private else "the job has no differential privacy"
        at = rules.max_delta is None or not private or knobs.delta <= rules.max_delta
        found: dict[str, tuple[bool, str]] = {
            "jobs": (rules.jobs is None or digest in rules.jobs, f"the job {digest} is not among them"),
            "protocols": (rules.protocols is None or protocol in rules.protocols, f"the job runs {protocol}"),
            "mechanisms": (rules.mechanisms is None or knobs.mechanism in rules.mechanisms, f"the job has {knobs.mechanism}"),
            "min_cohort": (not few, f"the job invites {invited} parties to a round"),
            "min_cohort_share": (not fewer, f"the job invites {invited} of {registered} parties to a round"),
            "max_rounds": (rules.max_rounds is None or knobs.rounds <= rules.max_rounds, f"the job has {knobs.rounds} rounds"),
            "max_values": (rules.max_values is None or values <= rules.max_values, f"a sum of the job has {values} values"),
            "max_epsilon": (rules.max_epsilon is None or hidden, why),
            "max_delta": (at, f"the job's δ is {knobs.delta:g}"),
        }
        if rules.max_epsilon is not None and hidden and knobs.epsilon > rules.max_epsilon:
            found["max_epsilon"] = (False, f"the job's ε is {knobs.epsilon:g}")
        for key, (fits, why) in found.items():
            if not fits:
                raise UserError(f"{self.line(key)} refuses the job: {why}")

    def _least_cohorts(self, registered: int | None) -> tuple[int, int]:
        """The fewest parties of a set by ``min_cohort``, and by ``min_cohort_share`` of so many registered."""
        return self.rules.min_cohort or 2, math.ceil((self.rules.min_cohort_share or 0.0) * (registered or 0) - 1e-9)

    def over(self, policy: Policy, parties: int, registered: int | None = None) -> Policy:
        """The policy of sessions with so many invited, of so many or more registered, as strict as the file; nothing gets laxer."""
        r = self.rules
        listed = None if r.models is None else frozenset(map(bytes.fromhex, r.models))
        models = [one for one in (policy.models, listed) if one is not None]
        corrupt = default_corrupt(parties) if policy.min_corrupt is None else policy.min_corrupt
        return replace(
            policy,
            min_cohort=max(policy.min_cohort, *self._least_cohorts(registered or parties)),
            min_threshold=max(policy.min_threshold, r.min_threshold or 0.0),
            min_corrupt=policy.min_corrupt if r.min_corrupt is None else max(corrupt, r.min_corrupt),
            min_security=max(policy.min_security, r.min_security or 0),
            models=frozenset.intersection(*models) if models else None,
            max_epsilon=_least(policy.max_epsilon, r.max_epsilon),
            max_delta=_least(policy.max_delta, r.max_delta),
        )

    def isolation(self, *private: Path) -> Isolation:
        """The walls around code of a job's own; ``private`` are files and folders that it must not see."""
        cpus = (self.rules.resources and self.rules.resources.cpus) or 1
        return Isolation(self.rules.isolation or "bubblewrap", threads=cpus, processes=16 + cpus, private=private)

    def explain(self, refused: Refused | Abort) -> str:
        """A session's refusal in one line, with the line of the file where it comes from there."""
        key = _KEY_OF.get(refused.check, "")
        if key == "min_cohort" and self.rules.min_cohort is None:
            key = "min_cohort_share"
        table, _, name = key.rpartition(".")
        holder = getattr(self.rules, table) if table else self.rules
        start = f"{self.line(key)}: " if key and holder is not None and getattr(holder, name) is not None else ""
        return f"{start}{refused.check}: {refused.detail}"

    def set_lifetime(self, store: Store, place: Place) -> None:
        """Put the budget of the file into the party's ledger, as `Store.lower_budget` does: it starts none for a new name."""
        if (life := self.rules.lifetime) is not None:
            store.lower_budget(place, life.unit, Budget(life.epsilon, life.delta))

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Hold this process to the file's resources from now on; to enter before torch is loaded, which counts the CPUs then.

        Raises:
            UserError: where more memory is asked for, with the line; this system cannot bound it.
        """
        wanted = self.rules.resources or Resources()
        if wanted.cpus is not None:
            if not hasattr(os, "sched_setaffinity"):
                raise UserError(f"{self.line('resources.cpus')}: this system binds no process to CPUs")
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: wanted.cpus])
        if wanted.memory_mib is not None:
            import resource  # noqa: PLC0415  (not everywhere)

            least = min(wanted.memory_mib << 20, *(one for one in resource.getrlimit(resource.RLIMIT_DATA) if one >= 0), 2**62)
            resource.setrlimit(resource.RLIMIT_DATA, (least, least))
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if wanted.memory_mib is None or not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
                raise
            raise UserError(f"{self.line('resources.memory_mib')}: the run asks for more memory") from None

    def _explain(self, error: ValidationError) -> str:
        first = error.errors(include_url=False)[0]
        names = [str(part) for part in first["loc"] if isinstance(part, str) and not part.startswith(("constrained", "function"))]
        key = ".".join(names)
        if first["type"] == "extra_forbidden":
            life, machine = Lifetime.model_fields, Resources.model_fields
            known = [*Rules.model_fields, *(f"lifetime.{name}" for name in life), *(f"resources.{name}" for name in machine)]
            return f"{self.line(key) if key in self._lines else self.where}: unknown key {key}{near(key, known)}"
        return f"{self.where}{f':{self._lines[key]}' if key in self._lines else ''}: {key}: {first['msg'].lower()}"


def _least(one: float | None, other: float | None) -> float | None:
    given = [value for value in (one, other) if value is not None]
    return min(given) if given else None


def _lines(text: str) -> dict[str, int]:
    """By full name of a key, the line that it begins in; of what `tomllib` takes, for messages alone."""
    table, found = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([\w.\s]+)\]", line):
            table = header[1].strip() + "."
            found.setdefault(table[:-1], number)
        elif key := re.match(r"\s*([\w.]+)\s*=", line):
            found.setdefault(table + key[1], number)
    return found
