"""The commands ``securefl jobs``, ``securefl status`` and ``securefl report``: what a server's store knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.errors import UserError, printable, quoted

if TYPE_CHECKING:
    from securefl.store import RunStore
    from securefl.tables import Sheet

Where = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Database of the runs (default: server.db in the folder of --keys).")
]
Keys = Annotated[Path | None, typer.Option("--keys", metavar="DIR", help="The server's folder of keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def jobs(store: Where = None, keys: Keys = None, json: AsJson = False) -> None:  # noqa: FBT002
    """List the jobs that a server has run, with their runs and how far each has come; and bundles, with who decided what."""
    with _opened(store, keys) as base:
        found, bundles = [_run(base, row) for row in base.rows("runs")], _bundles(base)
    _show({"jobs": found, "bundles": bundles}, [_runs(found), *([_shelf(bundles)] if bundles else [])], as_json=json)


def status(
    run: Annotated[str | None, typer.Argument(help="A run, or the start of its name (default: the newest).")] = None,
    store: Where = None,
    keys: Keys = None,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show one run: its rounds, why any was aborted, and who was in the sums."""
    with _opened(store, keys) as base:
        row = _named(base, run)
        tree = {
            **_run(base, row),
            "attempts": _attempts(base, row["name"]),
            "stages": _stages(base, row["name"]),
            "members": _members(base, row["name"]),
        }
    _show(tree, _sheets(tree), as_json=json)


def report(
    run: Annotated[str | None, typer.Argument(help="A run, or the start of its name (default: the newest).")] = None,
    store: Where = None,
    keys: Keys = None,
    models: Annotated[
        str | None, typer.Option(metavar="URL", help="Where its models are (default: models in the folder of --keys).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
) -> None:
    """Write one run as an HTML page: rounds, scores out of the sums, parties, models, where the time went."""
    from securefl import files, run_report  # noqa: PLC0415
    from securefl.store import Checkpoints  # noqa: PLC0415

    places = models or (None if keys is None else str(keys / "models"))
    with _opened(store, keys) as base:
        told = run_report.Told.of(base, _named(base, run))
        page = run_report.html(told, None if places is None or not told.checkpoints else Checkpoints(places))
    files.atomic_write(out, page.encode())
    typer.echo(f"written: {out}")


def _named(base: RunStore, run: str | None) -> dict[str, Any]:
    """The row of the run that is meant.

    Raises:
        UserError: where there is none, or more than one.
    """
    rows = sorted(base.rows("runs"), key=lambda row: (row["created"], row["name"]))
    fits = [row for row in rows if row["name"].startswith(run or "")]
    if not fits or (run is not None and len(fits) > 1 and run not in [row["name"] for row in fits]):
        which = "no run" if not fits else f"{len(fits)} runs"
        raise UserError(f"{which} of {base.where} begin with {quoted(run or '')}: securefl jobs lists them")
    return next((one for one in fits if one["name"] == run), fits[-1])


def _opened(store: str | None, keys: Path | None) -> RunStore:
    from securefl.store import RunStore  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415

    if (store is None) == (keys is None):
        raise UserError("give --store URL, or --keys DIR for the server.db in it")
    return RunStore(store or f"sqlite:///{keys}/server.db", clock=SystemClock().utc, create=False)


def _run(base: RunStore, row: dict[str, Any]) -> dict[str, Any]:
    progress = base.progress(row["name"])
    newest = progress.model
    return {
        "run": row["name"],
        "job": row["job"],
        "created": row["created"].isoformat() + "Z",
        "rounds": row["rounds"],
        "finished": progress.finished,
        "used": progress.used,
        "model": None if newest is None else {"round": newest[0], "digest": newest[1].digest},
    }


def _bundles(base: RunStore) -> list[dict[str, Any]]:
    from securefl.store import Shelf  # noqa: PLC0415

    verdicts = dict[str, dict[str, str]]()
    for row in base.rows("decisions"):
        verdicts.setdefault(row["bundle"], {})[row["party"]] = row["verdict"]
    return [
        {
            "bundle": one.digest,
            "author": one.author,
            "title": one.title,
            "added": one.added.isoformat() + "Z",
            "decisions": verdicts.get(one.digest, {}),
        }
        for one in Shelf(base).listed()
    ]


def _shelf(found: list[dict[str, Any]]) -> Sheet:
    from securefl.tables import Sheet  # noqa: PLC0415

    rows = [
        [
            one["bundle"][:12],
            printable(one["author"]),
            printable(one["title"]),
            one["added"][:16],
            printable(said(one["decisions"])),
        ]
        for one in found
    ]
    return Sheet("Bundles", ["bundle", "author", "title", "added", "parties"], rows)


def said(decisions: Mapping[str, str]) -> str:
    """Who decided what, by party, in one line."""
    by = {verdict: sorted(party for party, one in decisions.items() if one == verdict) for verdict in ("approved", "refused")}
    return "; ".join(f"{verdict}: {', '.join(parties)}" for verdict, parties in by.items() if parties)


def _attempts(base: RunStore, run: str) -> list[dict[str, Any]]:
    keep = ("round", "attempt", "outcome", "contributors", "step", "detail", "seconds")
    return [{**{key: row[key] for key in keep}, "check": row["check_name"]} for row in base.rows("attempts", run)]


def _stages(base: RunStore, run: str) -> list[dict[str, Any]]:
    keep = ("stage", "attempt", "outcome", "contributors", "step", "seconds")
    return [{**{key: row[key] for key in keep}, "check": row["check_name"]} for row in base.rows("stages", run)]


def _members(base: RunStore, run: str) -> list[dict[str, Any]]:
    """By member, in how many attempts it had which fate."""
    out = dict[str, dict[str, Any]]()
    for row in base.rows("contributions", run):
        counts = out.setdefault(row["member"], {"member": row["member"], "summed": 0, "dropped": 0, "left": 0, "blamed": 0})
        counts[row["fate"]] += 1
    return list(out.values())


def _runs(found: list[dict[str, Any]]) -> Sheet:
    from securefl.tables import Sheet  # noqa: PLC0415

    rows = [[r["job"][:12], printable(r["run"]), r["created"][:16], f"{r['finished']} of {r['rounds']}", _state(r)] for r in found]
    return Sheet("Jobs and their runs", ["job", "run", "begun", "finished rounds", "state"], rows)


def _state(run: dict[str, Any]) -> str:
    return "done" if run["used"] >= run["rounds"] else "has rounds left"


def _sheets(tree: dict[str, Any]) -> list[Sheet]:
    from securefl.tables import Sheet  # noqa: PLC0415

    attempts = [
        [
            str(a["round"]),
            str(a["attempt"]),
            a["outcome"] or "under way",
            "" if a["contributors"] is None else str(a["contributors"]),
            printable(": ".join(filter(None, (a["step"], a["check"])))),
        ]
        for a in tree["attempts"]
    ]
    members = [
        [printable(m["member"]), *(str(m[fate]) for fate in ("summed", "dropped", "left", "blamed"))] for m in tree["members"]
    ]
    beside = [
        [a["stage"], str(a["attempt"]), a["outcome"] or "under way", str(a["contributors"] or ""), printable(a["check"] or "")]
        for a in tree["stages"]
    ]
    columns = ["sum", "attempt", "outcome", "in the sum", "why"]
    return [
        _runs([tree]),
        *([Sheet("Sums beside the rounds", columns, beside, "", frozenset({1, 3}))] if beside else []),
        Sheet("Rounds", ["round", "attempt", "outcome", "in the sum", "why"], attempts, "", frozenset({0, 1, 3})),
        Sheet(
            "Parties, by attempts", ["party", "in the sum", "dropped out", "left", "blamed"], members, "", frozenset({1, 2, 3, 4})
        ),
    ]


def _show(tree: dict[str, Any], sheets: list[Sheet], *, as_json: bool) -> None:
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from securefl import console  # noqa: PLC0415

    if as_json:
        typer.echo(dumps(tree, allow_nan=False))
        return
    for sheet in sheets:
        console.show_sheet(Console(highlight=False), sheet)
