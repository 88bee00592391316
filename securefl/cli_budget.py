"""The command ``securefl budget``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from securefl.errors import UserError, printable

if TYPE_CHECKING:
    from securefl.privacy.budget import PartyLedger, Statement
    from securefl.privacy.store import Entry
    from securefl.tables import Sheet


def budget(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ledger, as for securefl run --ledger.")],
    allow: Annotated[
        tuple[str, float, float] | None,
        typer.Option(
            "--set", metavar="PARTY/DATA ε δ", help="Allow a party so much of a data set; makes the file if there is none."
        ),
    ] = None,
    unit: Annotated[Literal["record", "party"] | None, typer.Option(help="What the ε of --set protects (default: record).")] = None,
    delta: Annotated[float, typer.Option(metavar="δ", help="At which ε is stated where no budget names one.")] = 1e-5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Show what each party may spend, has spent and has left of each data set, and on which events; or set what it may."""
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from securefl import console  # noqa: PLC0415
    from securefl.privacy.budget import PartyLedger  # noqa: PLC0415
    from securefl.privacy.store import Budget, Store  # noqa: PLC0415

    if unit is not None and allow is None:
        raise UserError("--unit belongs to --set")
    if not 0 < delta < 1:
        raise UserError(f"--delta is {delta}: it must lie in (0, 1), both ends excluded")
    place = None if allow is None else _place(allow[0])
    limit = None if allow is None else Budget(*allow[1:])
    with Store(file, create=allow is not None) as store:
        if place is not None and limit is not None:
            store.set_budget(place, unit or "record", limit)
        found = [PartyLedger(store, *at) for at in store.places()]
        if json:
            accounts = [tree for ledger in found for tree in _accounts(ledger, delta)]
            exact = [{"party": ledger.party, "data": ledger.data, **_opened(e)} for ledger in found for e in ledger.exact()]
            typer.echo(dumps({"ledger": str(file), "accounts": accounts, "exact": exact}, allow_nan=False))
            return
        for sheet in _sheets(found, delta):
            console.show_sheet(Console(highlight=False), sheet)


def _place(text: str) -> tuple[str, str]:
    party, slash, data = text.partition("/")
    if not (party and slash and data):
        raise UserError(f"--set {text!r} is refused; allowed: PARTY/DATA ε δ, such as north/heart 3 1e-5")
    return party, data


def _statements(ledger: PartyLedger, delta: float) -> list[Statement]:
    found = [ledger.statement(unit, delta) for unit in ("record", "party")]
    return [statement for statement in found if statement.allowed is not None or statement.entries]


def _accounts(ledger: PartyLedger, delta: float) -> list[dict[str, Any]]:
    from securefl.results import privacy_tree  # noqa: PLC0415

    return [
        {
            "party": ledger.party,
            "data": ledger.data,
            "privacy": privacy_tree(
                s.unit,
                [s.spent.epsilon if math.isfinite(s.spent.epsilon) else None],
                s.delta,
                s.spent.accountant,
                planned=None if s.allowed is None else s.allowed.epsilon,
                left=s.left,
                opened=[_opened(entry) for entry in s.entries],
            ),
        }
        for s in _statements(ledger, delta)
    ]


def _opened(entry: Entry) -> dict[str, Any]:
    """As a run says it, with the name of the run."""
    from dataclasses import asdict  # noqa: PLC0415

    from securefl.ledger import COVERED, EXACT  # noqa: PLC0415
    from securefl.privacy.events import ExactEvent, plain  # noqa: PLC0415
    from securefl.results import Opened  # noqa: PLC0415

    if isinstance(entry.event, ExactEvent):
        return {"run": entry.run, **asdict(Opened(entry.what, entry.times, EXACT, entry.event.shows))}
    return {"run": entry.run, **asdict(Opened(entry.what, entry.times, COVERED, "", entry.unit, plain(entry.event)))}


def _sheets(found: list[PartyLedger], delta: float) -> list[Sheet]:
    from securefl.privacy.events import plain  # noqa: PLC0415
    from securefl.tables import Sheet  # noqa: PLC0415

    accounts, covered, exact = list[list[str]](), list[list[str]](), dict[tuple[str, str], int]()
    for ledger in found:
        place = printable(f"{ledger.party}/{ledger.data}")
        for s in _statements(ledger, delta):
            allowed, left = ("–", "–") if s.allowed is None else (f"{s.allowed.epsilon:g}", f"{s.left:.4g}")
            accounts.append([place, s.unit, allowed, f"{s.spent.epsilon:.4g}", left, f"{s.delta:g}", s.spent.accountant])
            for entry in s.entries:
                numbers = plain(entry.event)
                said = ", ".join(f"{key} {value:.6g}" for key, value in numbers.items() if key != "kind")
                covered.append([place, printable(entry.run), str(entry.times), f"{numbers['kind']}: {said}"])
        for entry in ledger.exact():
            at = place, printable(entry.what)
            exact[at] = exact.get(at, 0) + entry.times
    columns = ["party/data", "protects one", "allowed ε", "spent", "left", "δ", "by"]
    note = "Units are not added up. A dash: no budget is set."
    kept = frozenset({0})
    first = Sheet("What was allowed, spent and left", columns, accounts, note, frozenset({2, 3, 4, 5}), kept=kept)
    second = Sheet("Events that ε covers", ["party/data", "run", "times", "event"], covered, "", frozenset({2}), kept=kept)
    rows = [[*at, str(times)] for at, times in exact.items()]
    third = Sheet("Opened exactly, outside of every ε", ["party/data", "what", "times"], rows, "", frozenset({2}), kept=kept)
    return [first, *(sheet for sheet in (second, third) if sheet.rows)]
