"""A party's own ledger of a data set, and how a run charges it: before the masked input leaves, whatever becomes of it.

Each party has a handle of its own, `PartyLedger`; in a simulation they may share a file.  What an input will open is charged in one
transaction in which the budget is looked at: two jobs at once cannot overdraw it.  An event whose cost depends on how many survive
is charged as if the fewest did; where more are known to have, `PartyLedger.settle` replaces it by what it cost.

A party that has a budget for a data set takes part in nothing that no ε covers, not even where a server is trusted with the exact
sum and adds the noise, in nothing whose unit has no budget, and in nothing with a data set that has none: a new name does not start
anew.

What it does not protect: a data set is a name.  The digest of its rows (`securefl.privacy.rows`) finds the same rows under another
name; it does not find the same patients in another table, or with one row more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from protocols.errors import Misuse, Refused
from protocols.policy import Journal
from protocols.suite import Occasion
from securefl.errors import UserError, quoted
from securefl.parties import Consortium
from securefl.privacy.composition import NOTHING, Spent, spent
from securefl.privacy.divergence import rdp_of
from securefl.privacy.events import UNITS, DpSgdEvent, Event, ExactEvent, Unit, parse
from securefl.privacy.rows import digest_of
from securefl.privacy.store import Budget, Entry, Place, Store
from securefl.results import Opened

SLACK = 1e-9
"""Relative: what float64 may add to an ε that was calibrated to exactly the budget."""


@dataclass(frozen=True)
class Charge:
    """One thing that an input will open: ``unit`` is None where it is exact, ``bare`` as in `securefl.results.Opened`."""

    what: str
    event: Event
    unit: Unit | None
    bare: bool = False


@dataclass(frozen=True)
class Statement:
    """What was allowed and spent of one unit.

    Attributes:
        unit: what ε protects.
        allowed: the budget, or None.
        spent: at the budget's δ, or at the one that was asked for.
        delta: that δ.
        entries: the events.
    """

    unit: Unit
    allowed: Budget | None
    spent: Spent
    delta: float
    entries: tuple[Entry, ...]

    @property
    def left(self) -> float | None:
        """Allowed less spent, at least 0; None without a budget.  What costs a little more may fit: ε composes below its sum."""
        return None if self.allowed is None else max(self.allowed.epsilon - self.spent.epsilon, 0.0)


class PartyLedger:
    """One party's handle on what it may spend, and has spent, on one data set.

    Args:
        store: where it is kept.
        party: the party's name.
        data: what the party calls the data set; everything under one name is counted together.
        digest: of its rows (`digest_of`), if they are at hand.

    Raises:
        UserError: where the ledger has these rows under another name, or as `Store`.
    """

    def __init__(self, store: Store, party: str, data: str, digest: str | None = None) -> None:
        if not party or not data:
            raise UserError("a ledger needs the name of a party and of a data set")
        self.store, self.party, self.data = store, party, data
        known = data if digest is None else store.same_content(self.place, digest)
        if known != data:
            raise UserError(
                f"the rows of {quoted(party)} are in the ledger under the name {quoted(known)}, not {quoted(data)}: take that name "
                f"(privacy.ledger_data, --ledger-data)"
            )

    @property
    def place(self) -> Place:
        """Party and data set."""
        return self.party, self.data

    def statement(self, unit: Unit, delta: float = 1e-5) -> Statement:
        """What was allowed and spent; without a budget at ``delta``."""
        allowed = self.store.budget(self.place, unit)
        found = tuple(entry for entry in self.store.entries(self.place) if entry.unit == unit)
        at = delta if allowed is None else allowed.delta
        return Statement(unit, allowed, _cost(found, at, math.inf if allowed is None else allowed.epsilon), at, found)

    def exact(self) -> list[Entry]:
        """What was opened without any ε."""
        return [entry for entry in self.store.entries(self.place) if entry.unit is None]

    def refusal(self, charges: Sequence[Charge], times: int = 1) -> str:
        """Why the party does not take part in something that charges so much, so many times; empty where it may."""
        budgets = {unit: self.store.budget(self.place, unit) for unit in UNITS}
        wanted = {charge.unit for charge in charges if charge.unit is not None}
        limited = [unit for unit, budget in budgets.items() if budget is not None]
        if not limited:
            return self._unnamed()
        who = f"{quoted(self.party)} has a budget of ε of a {limited[0]} for the data set {quoted(self.data)}"
        exact = [charge.what for charge in charges if charge.bare or not wanted]
        if exact:
            return f"{who}: it takes part in nothing that is opened without noise ({', '.join(exact)})"
        for unit in sorted(wanted):
            budget = budgets[unit]
            if budget is None:
                return f"{who}, and none of a {unit}, which this needs: units are not added up; set one for the {unit} too"
            more = [Entry("", c.what, unit, c.event, times) for c in charges if c.unit == unit]
            before = [entry for entry in self.store.entries(self.place) if entry.unit == unit]
            most = budget.epsilon * (1 + SLACK)
            if _cost([*before, *more], budget.delta, most).epsilon > most:
                needed = _cost(more, budget.delta, most).epsilon
                left = max(budget.epsilon - _cost(before, budget.delta, most).epsilon, 0.0)
                return (
                    f"{quoted(self.party)} has ε = {left:.4g} of {budget.epsilon:g} of a {unit} left for the data set "
                    f"{quoted(self.data)} at δ = {budget.delta:g}, and this needs ε = {needed:.4g}"
                )
        return ""

    def _unnamed(self) -> str:
        """Why a data set without a budget is refused; empty where the party has none for any."""
        others = [data for party, data in self.store.budgeted() if party == self.party]
        if not others:
            return ""
        named = ", ".join(map(quoted, others))
        return (
            f"{quoted(self.party)} has a budget for {named} and none for the data set {quoted(self.data)}: "
            "for the same people take that name (privacy.ledger_data, --ledger-data), for others set one (securefl budget --set)"
        )

    def charge(self, run: str, charges: Sequence[Charge]) -> None:
        """Write down what is about to leave, all of it or nothing.

        Raises:
            Refused: ``ledger-budget`` where it would exceed a budget; then nothing may leave.
            UserError: as `Store`; then nothing may leave either.
        """
        with self.store.transaction():
            why = self.refusal(charges)
            if why:
                raise Refused("ledger-budget", why)
            for charge in charges:
                self.store.add(self.place, Entry(run, charge.what, charge.unit, charge.event))

    def note(self, run: str, opened: Opened) -> None:
        """Write down something exact that is opened whatever the budget is, as it is no sum over records.

        Raises:
            Misuse: for what ε covers.
            UserError: as `Store`.
        """
        if not opened.exact:
            raise Misuse("only what is exact is noted without a charge")
        with self.store.transaction():
            self.store.add(self.place, Entry(run, opened.what, None, ExactEvent(opened.note or opened.what)))

    def settle(self, run: str, charged: Charge, event: Event) -> None:
        """Replace an event that was charged at its worst by what it turned out to be.

        Raises:
            Misuse: where that would cost more at any order or take more of δ, or nothing of the kind was charged.
        """
        before = charged.event
        if isinstance(event, DpSgdEvent | ExactEvent) or isinstance(before, DpSgdEvent | ExactEvent):
            raise Misuse("only an event of integer noise is charged at its worst and settled later")
        spent_now, charged_then = (one.rounds * rdp_of(one) for one in (event, before))
        if (spent_now > charged_then * (1 + SLACK)).any() or event.failure > before.failure * (1 + SLACK):
            raise Misuse("an event is settled for what costs no more than was charged")
        with self.store.transaction():
            if not self.store.remove(self.place, Entry(run, charged.what, charged.unit, before)):
                raise Misuse(f"{charged.what} of {run} was not charged")
            self.store.add(self.place, Entry(run, charged.what, charged.unit, event))


Ledgers = Mapping[str, PartyLedger]
"""Each party's own, by its name; empty where nobody keeps any."""


def _cost(entries: Sequence[Entry], delta: float, most: float) -> Spent:
    """ε by RDP; where that is above ``most`` and all events are of DP-SGD, by PRV if that is less."""
    happened = [(entry.event, entry.times) for entry in entries]
    if not happened:
        return NOTHING
    found = spent(happened, delta)
    if most < found.epsilon < math.inf and all(isinstance(event, DpSgdEvent) for event, _ in happened):
        return min(found, spent(happened, delta, "prv"), key=lambda one: one.epsilon)
    return found


def charges_of(opened: Sequence[Opened]) -> tuple[Charge, ...]:
    """What one input opens, as charges: exact things, and what has an event; what follows from another row is charged with it."""
    exact = [Charge(o.what, ExactEvent(o.note or o.what), None, o.bare) for o in opened if o.exact]
    covered = []
    for row in opened:
        if row.event is not None and not row.exact:
            if row.unit not in UNITS:
                raise Misuse(f"{row.what} is covered by the ε of no known unit")
            covered.append(Charge(row.what, parse(row.event), row.unit))
    unknown = next((row.what for row in opened if not row.exact), None)
    if unknown is not None and not covered:
        raise Misuse(f"{unknown} is covered by ε, and nobody says by which event: it cannot be charged")
    return (*covered, *exact)


class ChargingJournal:
    """A party's journal that charges its ledger once it has taken an input for spent, hence before that leaves.

    Attributes:
        left: whether an input was charged and may have left.
    """

    def __init__(self, journal: Journal, ledger: PartyLedger, run: str, charges: Sequence[Charge]) -> None:
        self._journal, self._ledger, self._run, self._charges, self.left = journal, ledger, run, charges, False

    def join(self, occasion: Occasion) -> None:
        """As the journal's."""
        self._journal.join(occasion)

    def spend(self, occasion: Occasion) -> None:
        """As the journal's, then charge.

        Raises:
            Refused: as the journal's, and ``ledger-budget``.
        """
        self._journal.spend(occasion)
        self._ledger.charge(self._run, self._charges)
        self.left = True

    def settle(self, event: Event) -> None:
        """What was covered turned out to be ``event``, where the input has left."""
        first = next((charge for charge in self._charges if charge.unit is not None), None)
        if self.left and first is not None and event != first.event:
            self._ledger.settle(self._run, first, event)


class RunCharges:
    """What a run charges to its parties, round by round.

    Args:
        ledgers: the parties' own; those of parties without one are not charged.
        run: name of the run.
        opened: what one round opens.
    """

    def __init__(self, ledgers: Ledgers, run: str, opened: Sequence[Opened]) -> None:
        self._ledgers, self._run = ledgers, run
        self._charges = charges_of(opened) if ledgers else ()
        self._open = dict[str, ChargingJournal]()

    def check(self, rounds: int) -> None:
        """Refuse, before anything leaves, what would exceed a party's budget over so many rounds.

        Raises:
            UserError: with the party, its data set, what is needed and what is left.
        """
        refuse_over(self._ledgers, self._charges, rounds)

    def journal(self, party: str, journal: Journal) -> Journal:
        """The journal of a party for a round."""
        if party not in self._ledgers:
            return journal
        self._open[party] = ChargingJournal(journal, self._ledgers[party], self._run, self._charges)
        return self._open[party]

    def settle(self, event: Event | None) -> None:
        """After a round: what it turned out to be for those whose input was in it; None leaves what was charged."""
        journals, self._open = self._open, {}
        if event is not None:
            for journal in journals.values():
                journal.settle(event)


def refuse_over(ledgers: Ledgers, charges: Sequence[Charge], times: int = 1) -> None:
    """Raise `UserError` where any party would not take part in so much, so many times."""
    for ledger in ledgers.values():
        why = ledger.refusal(charges, times) if charges else ""
        if why:
            raise UserError(f"{why}: refused before anything left")


def charging(consortium: Consortium, ledgers: Ledgers, run: str, opened: Sequence[Opened]) -> Consortium:
    """The same parties, whose ledgers are charged with what ``opened`` says before an input leaves.

    Raises:
        UserError: as `refuse_over`.
    """
    if not ledgers:
        return consortium
    charges = charges_of(opened)
    refuse_over(ledgers, charges)
    names = [member.name for member in consortium.roster.members]
    parties = tuple(
        replace(party, journal=ChargingJournal(party.journal, ledgers[name], run, charges)) if name in ledgers else party
        for name, party in zip(names, consortium.parties, strict=True)
    )
    return replace(consortium, parties=parties)


def settle(consortium: Consortium, event: Event) -> None:
    """After a sum of `charging` parties: what it turned out to cost those whose input has left."""
    for party in consortium.parties:
        if isinstance(party.journal, ChargingJournal):
            party.journal.settle(event)


def ledgers_of(store: Store, tables: Mapping[str, Sequence[NDArray[Any]]], data: str) -> dict[str, PartyLedger]:
    """A handle for every party of a simulation.

    Args:
        store: the file of all.
        tables: for each party its columns, or blocks of columns, with one entry or line a row.
        data: what they call the data set.
    """
    return {name: PartyLedger(store, name, data, digest_of(columns)) for name, columns in tables.items()}


def strangers(store: Store, data: str, parties: Sequence[str]) -> str:
    """One line where the ledger has budgets for the data set of parties that do not take part: names may be misspelt."""
    limited = [quoted(party) for party, about in store.budgeted() if about == data and party not in parties]
    return (
        f"the ledger has a budget for {data} of {', '.join(limited)}, which takes no part: look for misspelt names"
        if limited
        else ""
    )
