"""Evidence in files: one a conviction, for a third party that has the roster and nothing else (`protocols.evidence`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protocols.errors import Misuse, Refused
from protocols.evidence import Evidence, check_evidence
from protocols.said import Said
from protocols.suite import Roster, Terms
from protocols.sums import Scheme
from securefl import files
from securefl.audit.chain import Tree, Unreadable, is_count, load, no_json
from securefl.audit.log_evidence import KINDS, check_log_evidence
from securefl.audit.seen import BAD, why_bad
from securefl.audit.tape import Sitting, roster_of, roster_tree, session_tree
from securefl.errors import UserError, quoted

FORMAT = "securefl evidence 1"
MOST = 64 << 20
"""Longest file that is read."""

Conviction = tuple[Evidence, Scheme, Terms[Any]]


def write_evidence(folder: Path, convictions: Iterable[Conviction]) -> list[Path]:
    """Write one file for each conviction, under a name that its content makes; the files."""
    contents = dict[str, bytes]()
    for evidence, scheme, terms in convictions:
        data = json.dumps(tree_of(evidence, scheme, terms), indent=1, sort_keys=True).encode() + b"\n"
        o = terms.occasion
        about = f"round{o.round}-party{evidence.accused}-{evidence.kind.replace(' ', '-')}"
        contents[f"evidence-{about}-{hashlib.sha256(data).hexdigest()[:8]}.json"] = data
    return files.write_all(folder, contents) if contents else []


def tree_of(evidence: Evidence, scheme: Scheme, terms: Terms[Any]) -> Tree:
    """Ready for JSON."""
    return {
        "format": FORMAT,
        "kind": evidence.kind,
        "accused": evidence.accused,
        "session": session_tree(scheme, terms),
        "roster": roster_tree(terms.roster),
        "said": [{"statement": said.statement.hex(), "signature": said.signature.hex()} for said in evidence.said],
        "given": {name: value.hex() for name, value in evidence.given.items()},
    }


def read_evidence(path: Path, roster: Roster | None = None) -> tuple[Evidence, Sitting]:
    """Evidence, and the sum that it is about; by the given roster, else by the one that it carries.

    Raises:
        UserError: for a file that is none.
        Refused: ``evidence-roster`` where it is about other parties than the given roster's, ``evidence-session`` where its
            session identity is not that of what it declares.
        OSError: where it cannot be read.
    """
    tree = _json(path)
    try:
        own = roster_of(tree["roster"])
        said = tuple(Said(bytes.fromhex(one["statement"]), bytes.fromhex(one["signature"])) for one in tree["said"])
        given = {str(name): bytes.fromhex(value) for name, value in tree["given"].items()}
        if not is_count(tree["accused"]) or type(tree["kind"]) is not str:
            raise TypeError("it accuses nobody of anything")
        evidence = Evidence(tree["kind"], tree["accused"], said, given)
        sitting = Sitting.read(tree["session"], roster or own)
    except (*BAD, Misuse) as error:
        raise Unreadable(f"{path} is refused: it is no evidence: {why_bad(error)}") from None
    if roster is not None and roster != own:
        raise Refused("evidence-roster", "it is about other parties than those of the roster, or in another order")
    if sitting.sid != sitting.terms.sid or sitting.suite != sitting.terms.suite:
        raise Refused("evidence-session", "its session identity does not follow from what it declares")
    return evidence, sitting


def proven(path: Path, roster: Roster | None = None) -> str:
    """What a file of evidence proves, in one line.

    Raises:
        UserError, OSError: as `read_evidence`.
        Refused: where it proves nothing; the check says why.
    """
    evidence, sitting = read_evidence(path, roster)
    check = check_log_evidence if evidence.kind in KINDS else check_evidence
    o, what = sitting.terms.occasion, check(evidence, sitting.terms)
    return f"proven: in round {o.round}, attempt {o.attempt} of {quoted(o.run)}: {what}"


def read_roster(path: Path) -> Roster:
    """A roster: a file of its own, ``{"roster": [{"name", "identity"}]}``, the first line of a tape, or evidence.

    Raises:
        UserError: for a file that has none.
        OSError: where it cannot be read.
    """
    try:
        return roster_of(_json(path, line=True)["roster"])
    except (*BAD, Misuse) as error:
        raise Unreadable(
            f"{path} is refused: it holds no roster ({why_bad(error)}); one is a tape, evidence, or a JSON object with "
            'the key "roster", a list of {"name", "identity"}'
        ) from None


def _json(path: Path, *, line: bool = False) -> Tree:
    with path.open("rb") as file:
        first = file.readline(MOST + 1)
        data = first if line and first.rstrip().endswith(b"}") and first.startswith(b"{") else first + file.read(MOST + 1)
    if len(data) > MOST:
        raise UserError(f"{path} is refused: it is longer than {MOST} bytes")
    try:
        tree = load(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path} is refused: {no_json(error)}") from None
    if not isinstance(tree, dict):
        raise Unreadable(f"{path} is refused: it holds no object")
    return tree
