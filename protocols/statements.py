"""What a message says to somebody who has only seen the traffic: what its signature covers, and the sets that it names.

A tape, a party's log and evidence are checked with public data alone.  The statement under a signature holds the session identity,
the hash L of the round-0 list and the sets that the signer was told; here these are read off the server's messages to it, and the
statement is put together as its signer did.  The labels are those of `protocols.secagg_labels`, `protocols.agreement`,
`protocols.lightsecagg` and `protocols.he`.

Channel assumed: none; messages are as somebody recorded them.  What it does not protect: messages of protocols that are not ours
have no statement here, and what no signature covers (a farewell, sealed boxes, all that the server says) stays somebody's word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocols import he, lightsecagg, secagg_labels
from protocols.agreement import Agree, Agreed, Dropped, masked_statement
from protocols.handshake import list_hash
from protocols.he_types import Dealt, Decrypted, Delivered, Upload
from protocols.kahe_types import Enciphered
from protocols.lightsecagg_recovery import answer_statement
from protocols.lightsecagg_types import Answer, KeyAdvert, KeyList, Padded, Relayed, Shares
from protocols.schema import Message, raw_fields
from protocols.secagg_types import Advert, Boxes, Listed, Masked, Openings, Sealed
from protocols.suite import Terms

Fields = Mapping[str, Any]
Digests = Mapping[str, bytes]


@dataclass(frozen=True)
class Told:
    """What the server has told one party in a session.

    Attributes:
        L: hash of the round-0 list; empty before it came.
        u1: who is in the list.
        keys: their fresh public keys.
        u2: who dealt.
        hashes: the share hashes that came with the boxes.
        receipt: what the party signs of them; None where the protocol has none.
        dropped: who of them did not survive.
        agreed: the signatures over U3 that it was shown, by signer.
    """

    L: bytes = b""
    u1: tuple[int, ...] = ()
    keys: Mapping[int, tuple[bytes, ...]] | None = None
    u2: tuple[int, ...] | None = None
    hashes: Any = None
    receipt: bytes | None = None
    dropped: tuple[int, ...] | None = None
    agreed: Mapping[int, bytes] | None = None

    @property
    def u3(self) -> tuple[int, ...] | None:
        """Who survived; None before both sets came, in whatever order."""
        if self.u2 is None or self.dropped is None:
            return None
        dropped = set(self.dropped)
        return tuple(v for v in self.u2 if v not in dropped)

    def after(self, kind: type[Message], fields: Fields) -> Told:
        """What it knows after one more message of the server."""
        reader = _READERS.get(kind)
        return self if reader is None else replace(self, **reader(kind, fields))


def _list(kind: type[Message], fields: Fields) -> Fields:
    keys = {entry.index: entry.keys for entry in fields["entries"]}
    return {"L": list_hash(kind(**fields)), "u1": tuple(keys), "keys": keys}


def _relayed(receipt: Callable[[Any], bytes]) -> Reader:
    return lambda _, f: {"u2": f["u2"], "hashes": f["hashes"], "receipt": receipt(f["hashes"])}


Reader = Callable[[type[Message], Fields], Fields]
_READERS: Mapping[type[Message], Reader] = {
    Listed: _list,
    KeyList: _list,
    Sealed: _relayed(secagg_labels.receipt_of),
    Relayed: _relayed(lightsecagg.receipt_of),
    Delivered: lambda _, f: {"u2": f["u2"]},
    Dropped: lambda _, f: {"dropped": f["dropped"]},
    Agreed: lambda _, f: {"agreed": {signed.index: signed.signature for signed in f["signatures"]}},
}

Maker = Callable[[Terms[Any], int, Told, Fields, Digests], bytes]


def _masked(digest: Callable[[Digests], bytes]) -> Maker:
    return lambda terms, u, told, f, d: masked_statement(terms, u, told.L, told.u2 or (), digest(d), f["receipt"])


def _pairs(hashes: Any) -> list[list[object]]:
    return [[x.peer, x.hash] for x in hashes]


_MAKERS: Mapping[type[Message], Maker] = {
    Advert: lambda terms, u, _, f, _d: terms.statement("keys", u, f["c_pk"], f["s_pk"]),
    KeyAdvert: lambda terms, u, _, f, _d: terms.statement("keys", u, f["c_pk"]),
    Boxes: lambda terms, u, told, f, _: secagg_labels.share_statement(
        terms, u, told.L, f["commitment"], f["own_hash"], f["hashes"]
    ),
    Shares: lambda terms, u, told, f, _: terms.statement("share", u, told.L, f["own_hash"], _pairs(f["hashes"])),
    Dealt: lambda terms, u, told, f, _: terms.statement("seed", u, told.L, f["commitment"], told.u1),
    Masked: _masked(lambda d: d["y"]),
    Padded: _masked(lambda d: d["y"]),
    Enciphered: _masked(lambda d: secagg_labels.joint_hash(d["y"], d["c"])),
    Upload: lambda terms, u, told, _, d: he.upload_statement(terms, u, told.L, told.u2 or (), d["seeds"], d["words"]),
    Agree: lambda terms, u, told, _f, _d: terms.statement("agree", u, told.L, told.u3 or ()),
    Openings: lambda terms, u, told, f, _: secagg_labels.opening_statement(terms, u, told.L, told.u3 or (), f["shares"]),
    Answer: lambda terms, u, told, _, d: answer_statement(terms, u, told.L, told.u3 or (), d["share"]),
    Decrypted: lambda terms, u, told, _, d: he.decrypted_statement(terms, u, told.L, told.u3 or (), d["values"]),
}
STAGE: Mapping[type[Message], int] = {
    **dict.fromkeys((Advert, KeyAdvert), 0),
    **dict.fromkeys((Boxes, Shares, Dealt), 1),
    **dict.fromkeys((Masked, Padded, Enciphered, Upload), 2),
    Agree: 3,
    **dict.fromkeys((Openings, Answer, Decrypted), 4),
}
"""The round in which a party sends a signed message."""
SETS: Mapping[type[Message], int] = {
    **dict.fromkeys((Listed, KeyList), 0),
    **dict.fromkeys((Sealed, Relayed, Delivered), 1),
    Dropped: 2,
    Agreed: 3,
}
"""The round whose set a message of the server names: U1, U2, U3, U4."""


def statement(terms: Terms[Any], u: int, told: Told, kind: type[Message], fields: Fields, digests: Digests) -> bytes | None:
    """What party u signs with a message, given what it was told; None where no signature is known here, or a vector is missing.

    Args:
        terms: of the sum.
        u: who sent it.
        told: what the server had told it.
        kind: of the message.
        fields: its control fields.
        digests: SHA-256 of the wire bytes of its vectors, by field.
    """
    maker = _MAKERS.get(kind)
    whole = all(name in digests for name, _ in raw_fields(kind))
    return None if maker is None or not whole else maker(terms, u, told, fields, digests)
