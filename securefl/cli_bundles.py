"""The commands ``securefl submit``, ``review``, ``approve`` and ``refuse``: jobs as bundles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocols.errors import SecureSumError
from securefl.cli_runs import said
from securefl.errors import UserError, printable

if TYPE_CHECKING:
    from securefl.bundles.kept import Kept
    from securefl.bundles.signed import Verdict
    from securefl.policy_file import PolicyFile
    from securefl.transport.asking import Asking
    from securefl.transport.desk_words import Listed
    from securefl.transport.enrolment import Credentials

Keys = Annotated[Path, typer.Option(metavar="DIR", help="The own folder of keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Maybe = Annotated[str | None, typer.Option("--server", metavar="HOST:PORT", help="The server.")]
Named = Annotated[
    str, typer.Argument(metavar="HASH", help="A bundle that was reviewed, or the first 8 digits of its hash or more.")
]


def submit(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="job.toml, and what belongs to it.")],
    keys: Keys,
    server: Maybe = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the signed bundle there.")] = None,
) -> None:
    """Make a folder one signed bundle and send it to the server, where the parties review it."""
    from securefl import files  # noqa: PLC0415
    from securefl.bundles.contents import Bundle  # noqa: PLC0415
    from securefl.bundles.signed import SignedBundle  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415

    if server is None and out is None:
        raise UserError("give --server HOST:PORT, or --out FILE, or both")
    credentials = Credentials.load(keys, "author", "party")
    asking, bundle = _asking(server, credentials), Bundle.of_folder(folder)
    if credentials.identity is None:
        raise UserError(f"{keys} holds no identity")
    signed = SignedBundle.make(bundle, credentials.entry.name, credentials.identity, credentials.authority)
    typer.echo(f"bundle {signed.hash.hex()}, {len(bundle.files)} files, signed by {signed.author}")
    if out is not None:
        files.atomic_write(out, signed.document)
        typer.echo(f"written: {out}")
    if asking is not None:
        author = asking.submit(signed)
        before = "" if author == signed.author else f": it has the same files already, signed by {printable(author)}"
        typer.echo(f"kept by the server{before}")


def review(
    keys: Keys,
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="[HASH]", help="A bundle, or the first 8 digits of its hash or more (default: list all)."),
    ] = None,
    server: Maybe = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the party takes part in (default: policy.toml in the folder, if there)."),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Show all files whole.")] = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """List bundles, or show one: its author, its privacy terms, and what differs from the one that was approved last."""
    from securefl.bundles.kept import Kept  # noqa: PLC0415
    from securefl.bundles.review import Review  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415

    credentials = Credentials.load(keys, "party", "author")
    asking, kept = _asking(server, credentials), Kept(credentials)
    if bundle is None:
        if asking is None:
            raise UserError("give --server HOST:PORT to list its bundles, or the hash of one that was reviewed")
        _show_list(asking.listed()[0], kept, as_json=json)
        return
    rules = _own_policy(policy, keys)
    if asking is None:
        signed, roster = kept.bundle(kept.named(bundle)), credentials.roster
    else:
        signed, roster = asking.fetch(_hash_of(bundle, asking))
        kept = Kept(Credentials.load(keys, "party", "author"))  # the roster may be newer now
    found = _refusing(lambda: Review.of(signed, roster, kept, rules, whole=whole))
    kept.keep(signed)
    if json:
        _print_json(found.tree())
    else:
        typer.echo("\n".join(found.lines()))


def approve(bundle: Named, keys: Keys, server: Maybe = None) -> None:
    """Let a bundle that was reviewed run on the own rows; kept on the own disk, and told to the server."""
    _decide(bundle, keys, server, "approved", "")


def refuse(
    bundle: Named,
    keys: Keys,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why; the server and its members read it.")],
    server: Maybe = None,
) -> None:
    """Refuse a bundle that was reviewed, also after it was approved; kept on the own disk, and told to the server."""
    if not because.strip():
        raise UserError("--because is empty: say why")
    _decide(bundle, keys, server, "refused", because)


def _decide(bundle: str, keys: Path, server: str | None, verdict: Verdict, because: str) -> None:
    from securefl.bundles.kept import Kept  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415

    credentials = Credentials.load(keys, "party")
    asking, kept = _asking(server, credentials), Kept(credentials)
    made = kept.decide(kept.named(bundle), verdict, SystemClock().utc(), because)
    signed = kept.bundle(made.bundle)
    title = f" ({printable(signed.bundle.about.title)})" if signed.bundle.about.title else ""
    typer.echo(f"{verdict}: {made.bundle.hex()}{title}, by {signed.author}")
    for one in kept.decisions():
        if one.verdict == "approved" and one.bundle != made.bundle:
            typer.echo(f"approved as well, since {one.at}: {one.bundle.hex()}; securefl refuse takes that back")
    if asking is None:
        return
    try:
        asking.tell(made)
    except UserError as error:
        raise SecureSumError(f"the decision is kept here, and the server was not told: {error}") from None
    typer.echo("told to the server")


def _asking(server: str | None, credentials: Credentials) -> Asking | None:
    from securefl.cli_network import address  # noqa: PLC0415
    from securefl.transport.asking import Asking  # noqa: PLC0415

    if server is None:
        return None
    address(server)
    return Asking(server, credentials)


def _own_policy(given: Path | None, keys: Path) -> PolicyFile | None:
    from securefl.cli_own import own_policy  # noqa: PLC0415

    return own_policy(given, keys) if given is not None or (keys / "policy.toml").exists() else None


def _hash_of(named: str, asking: Asking) -> bytes:
    """The whole hash, with the server's list where only its first digits are given."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", named):
        raise UserError(f"{named!r} names no bundle: 8 to 64 digits 0-9 a-f of its hash are needed")
    if len(named) == 64:
        return bytes.fromhex(named)
    found = [item.bundle for item in asking.listed()[0].items if item.bundle.hex().startswith(named)]
    if len(found) != 1:
        raise UserError(f"{'no bundle' if not found else f'{len(found)} bundles'} on the server's list begin with {named}")
    return found[0]


def _refusing(work: Any) -> Any:
    from protocols.errors import Refused  # noqa: PLC0415

    try:
        return work()
    except Refused as error:
        raise UserError(f"the bundle is refused: {error.check} ({printable(error.detail)})") from None


def _show_list(listed: Listed, kept: Kept, *, as_json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from securefl import console  # noqa: PLC0415
    from securefl.tables import Sheet  # noqa: PLC0415

    own = {one.bundle: one.verdict for one in kept.decisions()}
    tree: list[dict[str, Any]] = [
        {
            "bundle": item.bundle.hex(),
            "author": item.author,
            "title": item.title,
            "added": item.added,
            "running": item.bundle == listed.running,
            "own": own.get(item.bundle),
            "said": {one.party: one.verdict for one in item.decisions},
        }
        for item in listed.items
    ]
    if as_json:
        _print_json({"bundles": tree})
        return
    rows = [
        [
            str(one["bundle"])[:12] + (" (runs)" if one["running"] else ""),
            *(printable(one[key]) for key in ("author", "title")),
            printable(one["added"])[:16],
            str(one["own"] or "not decided"),
            printable(said(one["said"])),
        ]
        for one in tree
    ]
    sheet = Sheet(
        "Bundles on the server; what others decided is its word", ["bundle", "author", "title", "added", "here", "others"], rows
    )
    console.show_sheet(Console(highlight=False), sheet)


def _print_json(tree: dict[str, Any]) -> None:
    from json import dumps  # noqa: PLC0415

    typer.echo(dumps(tree, allow_nan=False))
