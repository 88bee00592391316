"""The bundles that a server keeps for the members of a consortium, and what each party says that it decided.

Bounded by author and in all.  Who sends one more than an author may have loses its oldest that no run was about; a bundle that is
here already stays, unless its author is not good any more: then another's signature takes the place.

What it does not protect: whoever may write the database may drop or withhold bundles.  It cannot make one: parties check
signatures, and read what they decided from their own disks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from protocols.errors import Refused, require
from securefl.store import tables
from securefl.store.runs import RunStore

MOST_OF_AUTHOR, MOST = 32, 1024
"""Most bundles of one author, and of all."""


@dataclass(frozen=True)
class Shelved:
    """What the shelf knows of a bundle.

    Attributes:
        digest: its hash, hexadecimal.
        author: who signed it.
        title: what its author calls it.
        added: when it came; UTC, without a zone.
        decisions: by party, the document that it signed.
    """

    digest: str
    author: str
    title: str
    added: datetime
    decisions: dict[str, bytes]


class Shelf:
    """The bundles in a store.

    Args:
        store: of the server.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def put(self, digest: str, author: str, title: str, document: bytes, good: Callable[[str], bool]) -> str:
        """Keep a bundle; the author under whom it is kept.

        Args:
            digest: its hash, hexadecimal.
            author: who signed it.
            title: what it is called.
            document: as it was signed.
            good: whether an author may still sign.

        Raises:
            Refused: ``bundle-room`` where there is no room.
            UserError: for what goes wrong at the database.
        """
        b = tables.bundles.c
        with self._store.transaction() as base:
            there = base.execute(select(b.author).where(b.digest == digest)).scalar()
            if there is not None and good(there):
                return str(there)
            self._make_room(base, author)
            values = {"author": author, "title": title, "document": document, "added": self._store.now()}
            if there is None:
                base.execute(tables.bundles.insert().values(digest=digest, **values))
            else:
                base.execute(tables.bundles.update().where(b.digest == digest).values(**values))
        return author

    def _make_room(self, base: Connection, author: str) -> None:
        b = tables.bundles.c
        own = base.execute(select(func.count()).where(b.author == author)).scalar_one()
        if own >= MOST_OF_AUTHOR:
            unused = select(b.digest).where(b.author == author, b.digest.not_in(select(tables.runs.c.job)))
            oldest = base.execute(unused.order_by(b.added, b.digest).limit(1)).scalar()
            if oldest is None:
                raise Refused("bundle-room", f"{author} has {own} bundles here, and a run is about each", sender=author)
            base.execute(delete(tables.decisions).where(tables.decisions.c.bundle == oldest))
            base.execute(delete(tables.bundles).where(b.digest == oldest))
        count = base.execute(select(func.count()).select_from(tables.bundles)).scalar_one()
        require(count < MOST, "bundle-room", f"the server keeps {count} bundles, and no more", sender=author)

    def get(self, digest: str) -> bytes | None:
        """The document of a bundle; None where it is not here."""
        b = tables.bundles.c
        with self._store.transaction() as base:
            found = base.execute(select(b.document).where(b.digest == digest)).scalar()
        return None if found is None else bytes(found)

    def listed(self) -> list[Shelved]:
        """All bundles, the newest first."""
        b, d = tables.bundles.c, tables.decisions.c
        with self._store.transaction() as base:
            rows = base.execute(select(b.digest, b.author, b.title, b.added).order_by(b.added.desc(), b.digest)).all()
            told = base.execute(select(d.bundle, d.party, d.document).order_by(d.party)).all()
        by_bundle = defaultdict[str, dict[str, bytes]](dict)
        for one in told:
            by_bundle[one.bundle][one.party] = bytes(one.document)
        return [Shelved(row.digest, row.author, row.title, row.added, by_bundle.get(row.digest, {})) for row in rows]

    def decide(self, digest: str, party: str, number: int, verdict: str, document: bytes) -> None:
        """Keep what a party says that it decided, unless a later word of its is here.

        Raises:
            Refused: ``bundle-missing`` where the bundle is not here.
        """
        d = tables.decisions.c
        with self._store.transaction() as base:
            here = base.execute(select(tables.bundles.c.digest).where(tables.bundles.c.digest == digest)).scalar()
            require(here is not None, "bundle-missing", f"the server has no bundle {digest}", sender=party)
            known = base.execute(select(d.number).where(d.bundle == digest, d.party == party)).scalar()
            values = {"number": number, "verdict": verdict, "document": document}
            if known is None:
                base.execute(tables.decisions.insert().values(bundle=digest, party=party, **values))
            elif known < number:
                base.execute(tables.decisions.update().where(d.bundle == digest, d.party == party).values(**values))
