"""The bundles that a server keeps: bounded, by their newest good author, with the newest word of each party."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from made_stores import JOB, clock, hold
from sqlalchemy import create_engine, make_url

from protocols.errors import Refused
from securefl.store import RunStore, Shelf
from securefl.store import shelf as shelves
from securefl.store.migrate import configured


def test_a_store_of_the_first_version_keeps_its_runs_and_gets_a_shelf(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        command.upgrade(configured(connection), "0001")
    engine.dispose()
    if url.startswith("sqlite"):
        Path(make_url(url).database or "").chmod(0o600)
    hold(url)
    with RunStore(url, clock=clock) as store:
        assert [row["name"] for row in store.rows("runs")] == ["trial"]
        assert Shelf(store).listed() == []


def test_a_shelf_keeps_bundles_and_the_newest_word_of_each_party(url: str) -> None:
    digest = "b" * 64
    with RunStore(url, clock=clock) as store:
        shelf, good = Shelf(store), {"ada", "bob"}
        assert shelf.get(digest) is None
        assert shelf.put(digest, "ada", "first", b"as ada signed it", good.__contains__) == "ada"
        assert shelf.put(digest, "bob", "mine", b"as bob signed it", good.__contains__) == "ada"  # it is there already
        assert shelf.get(digest) == b"as ada signed it"
        for number, verdict in ((3, "approved"), (2, "refused")):  # the older word comes later
            shelf.decide(digest, "north", number, verdict, f"{verdict} {number}".encode())
        (found,) = shelf.listed()
        assert (found.author, found.title, found.decisions) == ("ada", "first", {"north": b"approved 3"})
        assert [row["verdict"] for row in store.rows("decisions")] == ["approved"]
        assert shelf.put(digest, "bob", "mine", b"as bob signed it", {"bob"}.__contains__) == "bob"  # ada was revoked
        assert shelf.get(digest) == b"as bob signed it"
        assert shelf.listed()[0].decisions == {"north": b"approved 3"}  # they are about the contents
        with pytest.raises(Refused, match="bundle-missing"):
            shelf.decide("c" * 64, "north", 1, "approved", b"")


def test_a_shelf_has_room_for_so_many(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more of an author's takes the place of its oldest that no run is about; in all there are no more than that."""
    monkeypatch.setattr(shelves, "MOST_OF_AUTHOR", 2)
    monkeypatch.setattr(shelves, "MOST", 3)
    ticks = iter(range(60))
    one, two, three, four, five = (letter * 64 for letter in "12345")
    hold(url, job=one)
    with RunStore(url, clock=lambda: clock() + timedelta(seconds=next(ticks))) as store:
        shelf = Shelf(store)
        for digest in (one, two, three):
            shelf.put(digest, "ada", "", b"", lambda _: True)
            shelf.decide(digest, "north", 1, "approved", b"")
        assert [item.digest for item in shelf.listed()] == [three, one]
        shelf.put(four, "bob", "", b"", lambda _: True)
        with pytest.raises(Refused, match="bundle-room"):
            shelf.put(five, "bob", "", b"", lambda _: True)
        shelf.put(one, "ada", "", b"", lambda _: True)  # is there, and takes no room
        store.hold("second", job=three, cohort=JOB, text="", rounds=1)
        with pytest.raises(Refused, match="bundle-room"):
            shelf.put(five, "ada", "", b"", lambda _: True)
