"""What goes along with noised sums: corrupt parties without noise, exact numbers, sizes of messages, and what a party is charged.

Runs are those of `securefl.runner.Runner`, small ones, with the job's mechanism.

What it does not show: what sizes tell of the model or the protocol, which are public; timing over a network.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from protocols.session import Address, Letter
from protocols.simulate import Outcome
from protocols.suite import Terms
from protocols.sums import Party, Scheme
from securefl.audit.measured.epsilon import Measured
from securefl.audit.measured.inside import effective, halfway, largest
from securefl.audit.measured.noise import smallest
from securefl.audit.measured.registry import ANY_SUM, IN_SUM, RECORDS, ROWS, Setting, compared, flagged, measure
from securefl.audit.measured.summed import FALSE_ALARM, Summed, epsilon_of_variance, summed
from securefl.audit.recording import Recording
from securefl.audit.verdict import Verdict, combine, harmless, stated
from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.job import Job
from securefl.ledger import EXACT, opened_in_training
from securefl.privacy.divergence import DiscreteGaussianEvent, SkellamEvent, epsilon_of_events
from securefl.privacy.prepared import encoding_of
from securefl.privacy.record_plan import HEADROOM, RecordPlan
from securefl.results import RoundRecord
from securefl.round_types import Fold
from securefl.runner import Runner

MANY = HEADROOM * ROWS
"""Rows of a large site: the most that sums over records have room for."""
RARE = {"sample_rate": 0.04}
"""A rate at which one row makes an empty batch, and `MANY` do not."""
FEATURES, SITES = 5, 6
"""Columns of the data of a played run, and its sites."""


@measure(
    "sum-honest",
    35,
    "corrupt parties send no noise, in a sum over the fewest that open one",
    how="the variance of what is left, with its χ² interval, as ε over all rounds by the accountant, against the claim; "
    f"wrong with {FALSE_ALARM:g}",
    on=IN_SUM,
)
def honest(setting: Setting) -> Verdict:
    """Noise that does not suffice without that of the corrupt: who subtracts its own from what is opened has the same."""
    made = summed(setting)
    corrupt = made.fewest - made.honest
    rounds = made.values(20_000 if setting.quick else 400_000)
    noise = []
    for number in range(rounds):
        occasion, bare = made.occasion("honest", number), np.zeros(made.encoding.size, np.int64)
        sent = {u: made.sent(occasion, u) if u > corrupt else bare for u in range(1, made.fewest + 1)}
        noise.append(made.total(sent.values()))
    rest = {u: np.zeros(made.encoding.size, np.int64) for u in range(made.fewest + 1, made.encoding.parties + 1)}
    total, contributors = made.through_protocol({**sent, **rest}, rest, occasion)
    if contributors != made.fewest or (total != noise[-1]).any():
        return flagged("sum-honest", f"{made.scheme.name} gives another sum than that of the {made.fewest} who survived")
    found = float((np.array(noise, np.float64) ** 2).mean())
    if not found:
        return flagged("sum-honest", f"without that of {corrupt} of {made.fewest} survivors, no noise is left")
    count = effective(rounds * made.encoding.size, found)
    ends = [epsilon_of_variance(made, made.fewest, found / share(count, FALSE_ALARM / 2)) for share in (smallest, largest)]
    measured = Measured("variance", ends[0], float("inf"), 1 - FALSE_ALARM, setting.delta, rounds * made.encoding.size, ends[1])
    of = found / (made.fewest * made.plan.share)
    needed = made.honest / made.fewest
    told = f"{corrupt} of {made.fewest} survivors send none: {of:.3f} of the noise of all is left, {needed:.3f} is needed"
    return compared("sum-honest", setting, setting.claimed, measured, told)


@measure(
    "sum-alone",
    35,
    "an exact weight or metric beside a noised sum",
    how="a metric handed over must be refused, one declared must not be opened, and weights must say nothing; never wrong",
    on=IN_SUM,
)
def alone(setting: Setting) -> Verdict:
    """What is opened beside the sum: the number of parties, and nothing else."""
    made, tries = summed(setting), list[tuple[str, Verdict]]()
    e, occasion, zeros = made.encoding, made.occasion("alone"), made.unit(made.encoding, np.zeros(made.size))
    rand = setting.rand("alone")
    try:
        e.encode(zeros, [1] * len(e.blocks), {"rows": [1234.0]}, occasion, rand.child("sums"))
        tries.append(("a metric with the update", flagged("sum-alone", "an exact value is taken along with a noised update")))
    except UserError as error:
        tries.append(("a metric with the update", Verdict("refused", str(error), who="the party", check="sum-alone")))
    knobs = setting.job.privacy.model_copy(update={"rows": ROWS} if setting.summed else {})
    planned = encoding_of(knobs, setting.parties, setting.lengths, (SumSpec("rows", 1, 1000.0, integer=True),))
    told = sorted(spec.name for spec in planned.sums)
    declared = flagged("sum-alone", f"{told} is opened beside a noised sum") if told else harmless("what is declared is not opened")
    tries.append(("a metric that is declared", declared))
    light, heavy = (e.encode(zeros, [w] * len(e.blocks), {}, occasion, setting.rand("weights")).vector for w in (1, 1000))
    said = e.decode(made.total([light, heavy]), 2, occasion).weights
    tells = (light != heavy).any() or len(light) != e.size or set(said) != {2}
    weights = flagged("sum-alone", f"weights go along: {said}") if tells else harmless("weights change nothing that is sent")
    tries.append(("weights", weights))
    events = opened_in_training(setting.job.privacy.rounds, mechanism=setting.name, sums=["loss"])
    beside = [one.what for one in events if one.coverage == EXACT and "number of parties" not in one.what]
    listed = (
        flagged("sum-alone", f"the ledger lists as exact: {', '.join(beside)}") if beside else harmless("the ledger lists none")
    )
    tries.append(("the ledger", listed))
    return combine(tries)


class Sizes(Recording):
    """Writes nothing; counts every message of a run by who sends it to whom, its kind and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[tuple[str, str, str, int]]()

    @property
    def watches(self) -> bool:
        """Always."""
        return True

    def begin(self, scheme: Scheme, terms: Terms[Any], parties: Iterable[Party]) -> None:
        """Nothing is written."""

    def watch(self, letter: Letter, to: Address, size: int) -> None:
        """Count one delivery."""
        self.seen[type(letter.message).__name__, str(letter.sender), str(to), size] += 1

    def end(self, outcome: Outcome, contributors: int | None) -> None:
        """Nothing is written."""


@dataclass(frozen=True)
class Played:
    """A small run of the mechanism.

    Attributes:
        runner: after its run.
        records: of its rounds.
        seen: messages.
    """

    runner: Runner
    records: list[RoundRecord]
    seen: Counter[tuple[str, str, str, int]]


def played(
    setting: Setting,
    *,
    first: int = 30,
    scale: float = 1.0,
    gone: Callable[[Runner], Mapping[int, Mapping[str, str]]] = lambda _: {},
    **knobs: Any,
) -> Played:
    """A run of `SITES` sites of 30 rows each.

    Args:
        setting: the mechanism.
        first: rows of the first site.
        scale: of the first site's features: how large its update is.
        gone: from the runner, who vanishes in which round before which message.
        knobs: of ``[privacy]``, for the run.
    """
    rand, data = setting.rand("rows"), dict[str, Fold]()
    for number in range(1, SITES + 1):
        rows = first if number == 1 else 30
        x = (rand.words(f"{number}", rows * FEATURES) >> np.uint64(40)).reshape(rows, -1).astype(np.float32) / 2**24 - 0.5
        y = torch.from_numpy((x[:, 0] > 0).astype(np.float32))
        data[f"site-{number}"] = Fold(TensorDataset(torch.from_numpy(x * (scale if number == 1 else 1.0)), y), None)
    sizes, records = Sizes(), list[RoundRecord]()
    given = setting.knobs(**{"local_steps": 1, "rounds": 1, "protocol": setting.job.privacy.protocol, **knobs})
    runner = Runner(
        nn.Linear(FEATURES, 1),
        data,
        job=Job.parse({"privacy": given}),
        entropy=lambda name: setting.entropy(f"played {name}"),
        dropouts=lambda number, _stages: plan.get(number, {}),
        recording=sizes,
    )
    plan = gone(runner)
    runner.run(records.append)
    return Played(runner, records, sizes.seen)


@measure(
    "sum-sizes",
    33,
    "sizes and counts of messages against rows, batches, an empty batch, long and short updates",
    how="every message of a round, by sender, recipient, kind and size, against those of another round; times of encoding are "
    "reported, not judged; never wrong",
    on=(*ANY_SUM, *RECORDS),
)
def sizes(setting: Setting) -> Verdict:
    """What a party has and does must not show in how much it says."""
    usual, tries = played(setting).seen, list[tuple[str, Verdict]]()
    others: dict[str, dict[str, Any]] = {
        "one row": {"first": 1},
        "many rows": {"first": MANY},
        "whole data sets as batches": {"sample_rate": 1.0},
        "empty batches": {"sample_rate": 1e-9},
        "an update that is clipped": {"scale": 1e6},
        "an update of zero": {"scale": 0.0},
    }
    beside: dict[str, dict[str, Any]] = {}
    if setting.summed:  # the rate is public, and the width of a value follows from it: batches differ by their rows
        others |= {"whole data sets as batches": {"first": MANY, "sample_rate": 1.0}, "empty batches": {"first": 1, **RARE}}
        beside = {"whole data sets as batches": {"sample_rate": 1.0}, "empty batches": {"first": MANY, **RARE}}
    for name, change in others.items():
        odd = (played(setting, **change).seen, played(setting, **beside[name]).seen if name in beside else usual)
        differ = sorted({*(odd[0] - odd[1]), *(odd[1] - odd[0])})
        what = f"{differ[0][0]} from {differ[0][1]} to {differ[0][2]}: size or number is another" if differ else ""
        tries.append((name, flagged("sum-sizes", what) if differ else harmless("the same messages, of the same sizes")))
    verdict = combine(tries)
    if verdict.broken:
        return verdict
    times = timed(summed(setting)) if setting.in_sum else "how long a site trains shows in when its vector comes"
    return stated(f"sizes and counts are equal in {len(others)} pairs of rounds; {times}")


def timed(made: Summed) -> str:
    """How long a party encodes, in words: for nothing, a contribution of one clip, and the one that is rounded most often."""
    cases = {
        "no update": np.zeros(made.size),
        "one clip": made.direction(0)[0],
        "what is rounded most often": halfway(made, 0),
    }
    told = []
    for name, vector in cases.items():
        made.sent(made.occasion("clip", 0), 1, vector)  # a record's training is done once, and not timed
        began = time.process_time()
        for number in range(50):
            made.sent(made.occasion("clip", 0), 1, vector, label=f"timed {number}")
        told.append(f"{name} {20 * (time.process_time() - began):.2f} ms")
    shows = "it is rounded once, whatever it is" if made.setting.summed else "how often it is rounded shows in its time"
    return f"encoding takes {', '.join(told)}: {shows}"


@measure(
    "sum-account",
    34,
    "who took part and who dropped out, against what each party is charged",
    how="rounds with everybody, with one party gone, and with a sum that is never opened; ε of each party against that of the sums "
    "that its input may be in, each with the noise of its honest survivors, without amplification; never wrong",
    on=(*ANY_SUM, "local-record"),
)
def account(setting: Setting) -> Verdict:
    """Cohorts are visible, by design; no party may be told a smaller ε than that of what left it."""

    def gone(runner: Runner) -> dict[int, dict[str, str]]:
        last = {f"site-{u}": runner.stages[-1] for u in range(2, SITES + 1)}
        return {2: {f"site-{SITES}": runner.stages[0]}, 3: last}

    run = played(setting, rounds=3, gone=gone)
    counts = [None if record.aborted else record.contributors for record in run.records]
    if counts != [SITES, SITES - 1, None]:
        raise UserError(f"the rounds of the played run came to {counts}")
    spent = run.runner.epsilon()
    for name, rounds in (("site-1", counts), (f"site-{SITES}", [counts[0], counts[2]])):
        least = _least(setting, run.runner, rounds)
        if spent[name] < least * (1 - 1e-9):
            what = ", ".join("none opened" if c is None else f"over {c}" for c in rounds)
            return flagged("sum-account", f"{name} is told ε = {spent[name]:.4g}; its sums ({what}) cost {least:.4g}")
    told = ", ".join(f"{spent[name]:.3f} for {name}" for name in ("site-1", f"site-{SITES}"))
    return stated(
        f"who takes part and who drops out is visible to the server, by design; no amplification is claimed from it, and each "
        f"party is charged for what left it: ε = {told} after three rounds, of which it missed none and one"
    )


def _least(setting: Setting, runner: Runner, rounds: Sequence[int | None]) -> float:
    """ε of a party's part in sums over so many parties; None: never opened."""
    plan: Any = runner.plan
    if setting.name == "central":
        return setting.epsilon_of(plan.multiplier, len(rounds))
    if not setting.in_sum:
        return setting.epsilon_of(runner.noise_multiplier or 0.0, len(rounds))
    return charged(plan.plan, rounds)


def charged(plan: Any, survivors: Iterable[int | None]) -> float:
    """ε of sums over so many parties, less the corrupt, each by itself; None counts as the fewest."""
    _, delta2, delta1 = plan.bounds
    sampled = (1, plan.rate, plan.beta) if isinstance(plan, RecordPlan) else ()
    events: list[SkellamEvent | DiscreteGaussianEvent] = []
    for count in survivors:
        left = (plan.cohort.smallest if count is None else count) - plan.cohort.corrupt
        if plan.kind == "skellam":
            events.append(SkellamEvent(left * plan.share, delta1, delta2, *sampled))
        else:
            events.append(DiscreteGaussianEvent(plan.share, left, plan.dimension, delta1, delta2, *sampled))
    return epsilon_of_events(events, plan.delta)
