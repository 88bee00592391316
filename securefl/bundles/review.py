"""What a party's officer is shown of a bundle: who wrote it, what it would cost and open, and every file that is not as before.

What it does not protect: the summary is of the job alone; what code does, only its text says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from protocols.errors import Misuse
from securefl.bundles.changes import Change, changes
from securefl.bundles.kept import Kept
from securefl.bundles.signed import Decision, SignedBundle
from securefl.cohort import short_sums
from securefl.errors import UserError, printable
from securefl.job import Job
from securefl.knobs import PrivacyKnobs
from securefl.ledger import opened_in_training
from securefl.policy_file import PolicyFile
from securefl.results import Opened
from securefl.transport.roster import Entry, SignedRoster

MECHANISMS = {
    "local-record": "DP-SGD on every site, for one record",
    "distributed-record": "noise inside the sum of every step, for one record",
    "distributed-party": "noise inside the sum, for one party",
    "central": "noise of a server that is trusted with exact sums, for one record",
}


@dataclass(frozen=True)
class Review:
    """One bundle, as it is shown.

    Attributes:
        signed: the bundle.
        author: its entry on the roster.
        serial: of that roster.
        terms: what it asks for, by name.
        opened: what its sums open, one line each.
        policy: what the own policy says of it; None without one.
        decided: what this party decided about it, if it did.
        against: what it is compared with: the hash of the bundle that this party approved last, and when; None without one.
        changes: its files.
    """

    signed: SignedBundle
    author: Entry
    serial: int
    terms: dict[str, str]
    opened: tuple[str, ...]
    policy: str | None
    decided: Decision | None
    against: tuple[str, str] | None
    changes: tuple[Change, ...]

    @classmethod
    def of(
        cls, signed: SignedBundle, roster: SignedRoster, kept: Kept, policy: PolicyFile | None, *, whole: bool = False
    ) -> Review:
        """Look through a bundle.

        Args:
            signed: the bundle.
            roster: by which its author is known.
            kept: what this party has.
            policy: its own.
            whole: whether all files are shown whole.

        Raises:
            Refused: as `SignedBundle.check`.
            UserError: where its parts do not fit together, or what is kept was changed.
        """
        author, bundle = signed.check(roster), signed.bundle.checked()
        last = kept.last_approved(signed.hash)
        old = None if last is None or whole else last[0].bundle
        knobs = bundle.job.privacy
        terms = _terms(knobs)
        terms["cohort"] = _cohort(knobs, len(roster.parties))
        terms["sums"], said, beside = _over(signed, roster, policy)
        return cls(
            signed, author, roster.serial, terms, (*beside, *_opened(bundle.job)), said, kept.decision(signed.hash),
            None if last is None or old is None else (last[0].hash.hex(), last[1].at), tuple(changes(bundle, old)),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """The text, every line of it safe for a terminal."""
        about, bundle = self.signed.bundle.about, self.signed.hash.hex()
        part = "an author" if self.author.part == "author" else "a party"
        said = [
            f"bundle     {bundle}",
            f"author     {self.author.name}, {part} on roster {self.serial}, whose signature holds",
            f"identity   {self.author.identity.hex()}",
        ]
        said += [f"title      {about.title}"] if about.title else []
        said += (
            [f"code       {len(self.signed.bundle.code)} files, entered at {about.entry}"] if about.entry else ["code       none"]
        )
        said += [f"{name:<10} {text}" for name, text in self.terms.items()]
        said += [f"{'opens' if at == 0 else '':<10} {line}" for at, line in enumerate(self.opened)]
        said += [] if self.policy is None else [f"policy     {self.policy}"]
        said.append(f"decided    {_decided(self.decided)}")
        if self.against is None:
            said.append("compared   with nothing: all files are shown whole")
        else:
            said.append(f"compared   with {self.against[0]}, which was approved last, on {self.against[1]}")
        shown = [line for change in self.changes for line in (change.heading, *change.odd, *change.lines)]
        return [*map(printable, said), *shown]

    def tree(self) -> dict[str, Any]:
        """The same as plain data."""
        against = None if self.against is None else {"bundle": self.against[0], "approved": self.against[1]}
        return {
            "bundle": self.signed.hash.hex(),
            "author": self.author.name,
            "part": self.author.part,
            "identity": self.author.identity.hex(),
            "roster": self.serial,
            "title": self.signed.bundle.about.title,
            "entry": self.signed.bundle.about.entry,
            "terms": self.terms,
            "opens": list(self.opened),
            "policy": self.policy,
            "decided": None if self.decided is None else decided_tree(self.decided),
            "against": against,
            "files": [asdict(change) for change in self.changes],
        }


def decided_tree(decision: Decision) -> dict[str, Any]:
    """A decision as plain data."""
    return {"verdict": decision.verdict, "because": decision.because, "number": decision.number, "at": decision.at}


def _decided(decision: Decision | None) -> str:
    if decision is None:
        return "not yet"
    return f"{decision.verdict} on {decision.at}" + (f": {decision.because}" if decision.because else "")


def _terms(knobs: PrivacyKnobs) -> dict[str, str]:
    """The privacy terms of a job."""
    if knobs.mechanism == "none":
        privacy = "NO differential privacy: the model may show single records"
    else:
        bound = f"update clip {knobs.update_clip:g}" if knobs.mechanism == "distributed-party" else f"clip {knobs.clip:g}"
        privacy = (
            f"ε = {knobs.epsilon:g}, δ = {knobs.delta:g} over all rounds by {knobs.mechanism} ({MECHANISMS[knobs.mechanism]}); "
            f"{bound}, sampling rate {knobs.sample_rate:g}"
        )
    hides = short_sums(knobs).hides
    protocol = f"{knobs.protocol}: {'the server opens the sum and nothing else' if hides else 'THE SERVER SEES EVERY UPDATE'}"
    return {"privacy": privacy, "rounds": f"{knobs.rounds}, each of {knobs.steps} steps", "protocol": protocol}


def _cohort(knobs: PrivacyKnobs, parties: int) -> str:
    threshold = "as the protocol computes it" if knobs.threshold is None else str(knobs.threshold)
    least = "the threshold" if knobs.min_cohort is None else str(knobs.min_cohort)
    drawn = knobs.clients_per_round
    each = (
        "" if drawn is None else f", {drawn} of them drawn by the server for each round (exact sums over such sets can be combined)"
    )
    return f"{parties} parties on the roster{each}; threshold {threshold}, smallest cohort {least}"


def _opened(job: Job) -> list[str]:
    from securefl.metrics import BinaryMetrics  # noqa: PLC0415
    from securefl.places import TOLD  # noqa: PLC0415

    knobs, beside, uniform = job.privacy, dict[str, str](), False
    if job.performance.algorithm != "fedavg":
        from securefl.algorithms import of_job  # noqa: PLC0415  (loads torch)

        beside, uniform = of_job(job).opened(), of_job(job).uniform
    names = [spec.name for spec in BinaryMetrics().specs()]
    hidden, public = short_sums(knobs).hides, knobs.rows is not None or uniform
    events = opened_in_training(
        knobs.rounds,
        mechanism=knobs.mechanism,
        sums=names,
        hidden=hidden,
        public_rows=public,
        beside=beside,
        counted=TOLD if knobs.places else {},
        groups=knobs.groups,
    )
    return [*map(_line, events)]


def _line(one: Opened) -> str:
    return f"{one.rounds} × {one.what}, {one.coverage}" + (f": {one.note}" if one.note else "")


def _over(signed: SignedBundle, roster: SignedRoster, policy: PolicyFile | None) -> tuple[str, str | None, list[str]]:
    """What the job comes to over a roster, what the own policy says of it, and what the sums beside its rounds open."""
    from securefl.shared_job import SharedJob  # noqa: PLC0415

    job, code = signed.bundle.job, bool(signed.bundle.code)
    try:
        shared = SharedJob.of(job, roster.cohort, signed.hash)
    except (UserError, Misuse) as error:
        return f"cannot run: {error}", None, []
    about, beside = shared.about, [_line(one) for stage in shared.stages for one in stage.opened]
    many = "as many values as its code has parameters, and those of the metrics," if code else f"{about.plan.size} values"
    over = f"{about.protocol.name}, {many} of each party in a sum"
    if policy is None:
        return over, None, beside
    sums = [(about.protocol.name, 1 if code else about.plan.size), *((one.protocol.name, one.size) for one in shared.stages)]
    try:
        for protocol, values in sums:
            policy.check_job(job, digest=signed.hash.hex(), protocol=protocol, values=values, registered=len(roster.cohort))
    except UserError as error:
        return over, str(error), beside
    return over, f"{policy.where} has nothing against it", beside
