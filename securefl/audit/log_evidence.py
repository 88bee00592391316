"""Evidence out of logs: a signed line against a signed message, or against another signed line of the same party.

A party signs every line of its log.  Where a line and a message that it signed cannot both be what happened, both together convict
it, and a third party needs nothing else.  That something is missing from a log cannot be shown so: the whole log shows it.

What it does not protect: what a log says of others convicts nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocols.errors import Refused, require
from protocols.evidence import Evidence
from protocols.primitives.sign import verify
from protocols.said import Said
from protocols.suite import Terms
from securefl.audit.chain import Line, dump, load, signed_part
from securefl.audit.seen import a

TAGS: Mapping[str, str] = {
    **dict.fromkeys(("Advert", "KeyAdvert"), "keys"),
    **dict.fromkeys(("Boxes", "Shares"), "share"),
    "Dealt": "seed",
    **dict.fromkeys(("Masked", "Padded", "Enciphered"), "masked"),
    "Upload": "upload",
    "Agree": "agree",
    "Openings": "open",
    "Answer": "answer",
    "Decrypted": "decrypted",
}
"""For each signed message the tag of its statement."""
SURVIVORS = ("agree", "open", "answer", "decrypted")
DEALERS = ("masked", "upload")


def line_against_message(u: int, line: Line, said: Said, masked: Said | None) -> Evidence:
    """A line of u's log and a message of u that contradicts it; with its masked vector's statement, which holds U2."""
    return Evidence("log and message", u, (said,) if masked is None else (said, masked), {"line": dump(line.tree)})


def two_lines(u: int, one: Line, other: Line) -> Evidence:
    """Two lines of u's logs that contradict each other."""
    return Evidence("two log lines", u, (), {"line": dump(one.tree), "other": dump(other.tree)})


def contradicts(tree: Mapping[str, Any], said: Said, terms: Terms[Any], masked: Said | None = None) -> str:
    """In how far a line of a log contradicts what its party signed in a sum; empty where it does not.

    Args:
        tree: the line.
        said: what it signed.
        terms: of the sum.
        masked: what it signed with its masked vector, if it is at hand.
    """
    tag, _, _, *content = said.parts
    if tree.get("sid") != terms.sid.hex():
        return ""
    if tree["kind"] == "sent":
        ours = TAGS.get(tree["type"]) == tag and tree["statement"] is not None
        return f"it sent {a(tree['type'])} that says another thing" if ours and tree["statement"] != said.digest.hex() else ""
    sets = tree.get("sets", {}) if tree["kind"] == "told" else {}
    lies = {
        "it was told another list": "L" in sets and tag != "keys" and sets["L"] != content[0].hex(),
        "it was told another U2": "u2" in sets and tag in DEALERS and sets["u2"] != list(content[1]),
        "it was given other share hashes": bool(sets.get("receipt")) and tag == "masked" and sets["receipt"] != content[3].hex(),
        "it was told another U3": "dropped" in sets and tag in SURVIVORS and _other_survivors(sets["dropped"], content[1], masked),
    }
    return next((lie for lie, found in lies.items() if found), "")


def _other_survivors(dropped: list[int], u3: list[int], masked: Said | None) -> bool:
    """Whether a signed U3 does not follow from a dropped set; without U2 only those in both tell."""
    known = masked is not None and masked.parts[0] in DEALERS
    u2 = set(masked.parts[4]) if masked is not None and known else set(u3) | set(dropped)
    return set(u3) != u2 - set(dropped)


def collide(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In how far two signed lines of one party contradict each other; empty where they do not.

    Lines of two logs do so where both say what the party signed.  What it was told, and a farewell, may differ: it may have been
    asked again after it had begun another log, and have refused.
    """
    if one == other:
        return ""
    if one["n"] == other["n"] > 1 and one["prev"] == other["prev"]:
        return f"line {one['n']} of one log in two versions"
    same = all(one.get(key) == other.get(key) is not None for key in ("kind", "sid", "type", "epoch"))
    if not same or one["kind"] != "sent" or one["statement"] is None or other["statement"] is None:
        return ""
    return f"two logs that differ in the {one['type']} that it signed" if one["statement"] != other["statement"] else ""


def check_log_evidence(evidence: Evidence, terms: Terms[Any]) -> str:
    """What evidence out of logs proves, in one line.

    Raises:
        Refused: ``evidence-statement``, ``evidence-session``, ``evidence-signature`` or ``evidence-proof``: it proves nothing.
    """
    u = evidence.accused
    require(1 <= u <= len(terms.roster), "evidence-proof", "about nobody of the roster")
    identity, who = terms.roster.identity(u), f"party {u} ({terms.roster.name(u)})"
    try:
        trees = [signed_line(evidence.given[name], identity) for name in ("line", "other") if name in evidence.given]
        if evidence.kind == "two log lines":
            what = collide(*trees)
            require(what, "evidence-proof", "lines that can both be true")
            return f"{who} signed {what}"
        (said, *masked), (tree,) = evidence.said, trees
        for one in evidence.said:
            _, sid, signer, *_ = one.parts
            require(sid == terms.sid and signer == u, "evidence-session", "a statement of another session or another party")
            require(one.holds(identity), "evidence-signature", f"party {u} did not sign this")
        what = contradicts(tree, said, terms, masked[0] if masked else None)
        require(what, "evidence-proof", "line and message can both be true")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise Refused("evidence-proof", f"malformed ({type(error).__name__})") from None
    return f"{who} signed {said.parts[0]!r}, and in line {tree['n']} of its log that {what}"


def signed_line(line: bytes, identity: bytes) -> dict[str, Any]:
    """A line of a log, if it is signed; raises `Refused` where it is not, `ValueError` where it is none."""
    tree = load(line)
    if not isinstance(tree, dict) or dump(tree) != line:
        raise ValueError("no line")
    body = signed_part(dump({key: value for key, value in tree.items() if key != "signature"}))
    require(verify(identity, bytes.fromhex(tree["signature"]), body), "evidence-signature", "the line is not signed")
    return tree


KINDS = ("log and message", "two log lines")
"""The kinds of evidence that this module makes."""
