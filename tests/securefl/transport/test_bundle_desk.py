"""The server's desk for bundles: who may hand in, fetch and decide, and what a party makes of a false server's answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from trained import SITES, entropy, job, rows
from wired import LIMIT, Jumping, Lines, Tls, channel, tls_of, wired

from protocols.errors import Refused
from protocols.policy import MemoryJournal
from protocols.rand import fresh
from protocols.schema import Message
from securefl.attending import Attending
from securefl.bundles import signed
from securefl.bundles.contents import Bundle
from securefl.bundles.kept import Kept
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError
from securefl.shared_job import job_hash, run_name
from securefl.store import RunStore, Shelf
from securefl.transport import enrolment, keyfiles
from securefl.transport.asking import Asking
from securefl.transport.desk import Desk
from securefl.transport.desk_words import (
    ANSWERED,
    ASKED,
    METHOD,
    SERVICE,
    Declined,
    Fetch,
    Handed,
    Item,
    List,
    Listed,
    Said,
    Submit,
    Taken,
    Tell,
)
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.envelope import MOST_UP, WIRE, Hello, control, read
from securefl.transport.port import Port
from securefl.transport.roster import Entry

NOW = datetime.now(UTC)
JOB = {"job.toml": "[privacy]\nrounds = 3\n"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of two parties and two authors."""
    folder = tmp_path / "keys"
    enrolment.make_all(folder, ["north", "south"], fresh, NOW, ("localhost", "127.0.0.1"), ["ada", "bob"])
    return folder


def own(keys: Path, name: str) -> Credentials:
    return Credentials.load(keys / name, "party", "author")


def made(keys: Path, files: dict[str, str] | None = None, by: str = "ada") -> SignedBundle:
    author = own(keys, by)
    assert author.identity is not None
    return SignedBundle.make(Bundle(files or JOB), by, author.identity, author.authority)


def decided(keys: Path, name: str, about: bytes, number: int = 1) -> Decision:
    mine = own(keys, name)
    assert mine.identity is not None
    place = made(keys).consortium
    return Decision(place, name, about, "approved", "", number, NOW.isoformat()).signed(mine.identity)


@contextmanager
def desk(keys: Path, kind: type[Desk] = Desk) -> Iterator[tuple[Desk, Lines]]:
    """A desk with nothing on its shelf, and its log."""
    server, log = Credentials.load(keys / "server", "server"), Lines()
    with RunStore("sqlite://", clock=lambda: NOW) as store:
        yield kind(Shelf(store), RosterFile(server), server.authority, log=log, running=bytes(32)), log


def entry(keys: Path, name: str) -> Entry:
    return own(keys, name).entry


def declined(told: Message) -> str:
    assert isinstance(told, Declined), told
    return told.check


# What the desk takes


def test_who_signed_it_hands_it_in_and_all_members_see_it(keys: Path) -> None:
    bundle = made(keys)
    with desk(keys) as (found, _):
        assert found.answer(entry(keys, "ada"), control(Submit(WIRE, bundle.document))) == Taken(bundle.hash, "ada")
        for name in ("north", "bob"):
            handed = found.answer(entry(keys, name), control(Fetch(WIRE, bundle.hash)))
            assert handed == Handed(bundle.document, found.roster().document)
        assert isinstance(
            found.answer(entry(keys, "north"), control(Tell(WIRE, decided(keys, "north", bundle.hash).document))), Taken
        )
        listed = found.answer(entry(keys, "south"), control(List(WIRE)))
        assert isinstance(listed, Listed)
        at = NOW.replace(tzinfo=None).isoformat() + "Z"
        assert listed.items == (Item(bundle.hash, "ada", "", at, (Said("north", "approved"),)),)
        again = found.answer(entry(keys, "bob"), control(Submit(WIRE, made(keys, by="bob").document)))
        assert again == Taken(bundle.hash, "ada")  # the same files are there already


def test_what_is_not_the_callers_or_not_good_is_declined(keys: Path) -> None:
    bundle = made(keys)
    broken = made(keys, {"job.toml": "[privacy]\nrounds = 0\n"})
    coded = made(keys, {**JOB, "code/x.py": ""})
    altered = replace(bundle, bundle=Bundle({"job.toml": "[privacy]\nepsilon = 99.0\n"}))
    cases: list[tuple[str, bytes, str]] = [
        ("bob", control(Submit(WIRE, bundle.document)), "bundle-author"),  # another's
        ("ada", control(Submit(WIRE, altered.document)), "bundle-signature"),
        ("ada", control(Submit(WIRE, replace(bundle, signature=b"").document)), "bundle-form"),
        ("ada", control(Submit(WIRE, broken.document)), "bundle-job"),
        ("ada", control(Submit(WIRE, coded.document)), "bundle-job"),  # no entry
        ("ada", control(Submit(WIRE, b"\x80")), "bundle-form"),
        ("ada", control(Submit(WIRE + 1, bundle.document)), "net-wire"),
        ("north", control(Fetch(WIRE, bytes(32))), "bundle-missing"),
        ("north", control(Tell(WIRE, decided(keys, "north", bytes(32)).document)), "bundle-missing"),
        ("north", control(Tell(WIRE, decided(keys, "south", bundle.hash).document)), "decision-form"),
        ("ada", control(Tell(WIRE, decided(keys, "ada", bundle.hash).document)), "decision-form"),  # an author decides nothing
        ("north", control(Tell(WIRE, replace(decided(keys, "north", bundle.hash), number=2).document)), "decision-signature"),
        ("north", control(Tell(WIRE, b"\x80")), "decision-form"),
        ("north", b"", "net-envelope"),
        ("north", b"\x01" + bytes(20), "net-envelope"),  # a frame of a letter
        ("north", control(Hello(WIRE, "test", bytes(32), 0)), "wire-kind"),
        ("north", b"\x00garbage", "wire-"),
        ("north", b"\x00\x00\x04\x00\x00\x9a\x00\x00\x04\x00" + b"\x80" * 1024, "wire-canonical (more than 8 items)"),
    ]
    with desk(keys) as (found, _):
        found.answer(entry(keys, "ada"), control(Submit(WIRE, bundle.document)))
        for name, message, check in cases:
            told = found.answer(entry(keys, name), message)
            assert f"{declined(told)} ({told.detail})".startswith(check), check  # type: ignore[attr-defined]
        assert [one.decisions for one in found._shelf.listed()] == [{}]


def test_control_without_the_signature_the_desk_keeps_what_nobody_signed(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = replace(made(keys), bundle=Bundle({"job.toml": "[privacy]\nepsilon = 99.0\n"}))
    with desk(keys) as (found, _):
        assert declined(found.answer(entry(keys, "ada"), control(Submit(WIRE, altered.document)))) == "bundle-signature"
        monkeypatch.setattr(signed, "verify", lambda *_: True)
        assert isinstance(found.answer(entry(keys, "ada"), control(Submit(WIRE, altered.document))), Taken)


def test_what_a_revoked_author_signed_is_taken_no_more_and_another_takes_its_place(keys: Path) -> None:
    bundle, mine = made(keys), entry(keys, "ada")
    with desk(keys) as (found, _):
        assert isinstance(found.answer(mine, control(Submit(WIRE, bundle.document))), Taken)
        keyfiles.keep_roster(keys / "server", enrolment.revoke(keys / "operator", "ada"), own(keys, "ada").authority)
        assert declined(found.answer(mine, control(Submit(WIRE, bundle.document)))) == "bundle-author"
        assert found.answer(entry(keys, "bob"), control(Submit(WIRE, made(keys, by="bob").document))) == Taken(bundle.hash, "bob")


# Through the port


@asynccontextmanager
async def listening(keys: Path, kind: type[Desk] = Desk) -> AsyncIterator[tuple[str, Lines]]:
    """A server with a desk and nothing else: its address, and its log."""
    with desk(keys, kind) as (found, log):
        key, certificate, authority = Credentials.load(keys / "server", "server").tls
        port = Port("127.0.0.1:0", [(key, certificate)], [authority], [], clock=Jumping(), log=log, desks=[found])
        await port.start()
        try:
            yield f"localhost:{port.port}", log
        finally:
            await port.stop(0)


def through(keys: Path, work: Callable[[str], Any], kind: type[Desk] = Desk) -> tuple[Any, Lines]:
    """What a member's commands come to, and the server's log."""

    async def run() -> tuple[Any, Lines]:
        async with listening(keys, kind) as (target, log):
            return await asyncio.to_thread(work, target), log

    return asyncio.run(run())


def test_a_bundle_goes_through_the_port_and_the_newest_roster_comes_with_it(keys: Path) -> None:
    """Cy came after north's roster was written: its bundle is shown by the server's."""
    asked = enrolment.read(enrolment.request(keys / "cy", "cy", fresh, author=True))
    enrolment.accept(keys / "cy", enrolment.issue(keys / "operator", asked, NOW))
    enrolment.accept_roster(keys / "server", (keys / "operator/roster.cbor").read_bytes())
    largest = {**JOB, "code/x.py": "# " + "x" * 1_000_000, "bundle.toml": 'entry = "x:f"\n'}
    bundle = made(keys, largest, by="cy")

    def work(target: str) -> None:
        assert Asking(target, own(keys, "cy")).submit(bundle) == "cy"
        before = own(keys, "north").roster.serial
        fetched, roster = Asking(target, own(keys, "north")).fetch(bundle.hash)
        assert fetched == bundle
        assert own(keys, "north").roster.serial == roster.serial == before + 1
        Kept(own(keys, "north")).keep(fetched)
        decision = Kept(own(keys, "north")).decide(bundle.hash, "approved", NOW)
        Asking(target, own(keys, "north")).tell(decision)
        listed, _ = Asking(target, own(keys, "south")).listed()
        assert [one.decisions for one in listed.items] == [(Said("north", "approved"),)]

    _, log = through(keys, work)
    assert [(line["party"], line["bundle"]) for line in log.of("bundle")] == [
        ("cy", bundle.hash.hex()),
        ("north", bundle.hash.hex()),
    ]


async def asked(target: str, keys: Path, mine: Tls, data: bytes) -> str:
    """What a raw call comes to."""
    authority = (keys / "server/ca.pem").read_bytes()
    async with asyncio.timeout(LIMIT), channel(target, authority, *mine) as line:
        try:
            told = read(await line.unary_unary(f"/{SERVICE}/{METHOD}")(data), ANSWERED)
        except grpc.aio.AioRpcError as error:
            return str(error.details()) if error.code() is grpc.StatusCode.PERMISSION_DENIED else error.code().name
        return told.check if isinstance(told, Declined) else type(told).__name__.lower()


def test_who_is_on_no_roster_or_revoked_is_not_heard(keys: Path, tmp_path: Path) -> None:
    async def run() -> list[str]:
        other = tmp_path / "other"
        enrolment.make_all(other, ["north", "south"], fresh, NOW, ("localhost",), ["ada"])
        async with listening(keys) as (target, log):
            question = control(List(WIRE))
            told = [await asked(target, keys, tls_of(keys / name), question) for name in ("north", "ada")]
            told.append(await asked(target, keys, tls_of(other / "ada"), question))
            told.append(await asked(target, keys, (None, None), question))
            told.append(await asked(target, keys, tls_of(keys / "server"), question))
            told.append(await asked(target, keys, tls_of(keys / "ada"), bytes(MOST_UP + 1)))
            keyfiles.keep_roster(keys / "server", enrolment.revoke(keys / "operator", "ada"), own(keys, "ada").authority)
            told.append(await asked(target, keys, tls_of(keys / "ada"), question))
            told.append(await asked(target, keys, tls_of(keys / "north"), question))
            assert [line["party"] for line in log.of("refused")] == ["ada"]
            return told

    assert asyncio.run(run()) == [
        "listed", "listed", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "peer-revoked", "listed",
    ]  # fmt: skip


def test_a_servers_certificate_is_no_members(keys: Path) -> None:
    """The handshake refuses it by its purpose; where TLS did not look, `peer-part` would."""

    class Context:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {"x509_pem_cert": [(keys / "server/tls.pem").read_bytes()]}

        def peer(self) -> str:
            return "ipv4:127.0.0.1:1"

        async def abort(self, _code: grpc.StatusCode, detail: str) -> None:
            raise grpc.aio.AbortError(detail)

    async def run() -> None:
        with desk(keys) as (found, log):
            key, certificate, authority = Credentials.load(keys / "server", "server").tls
            port = Port("127.0.0.1:0", [(key, certificate)], [authority], [], clock=Jumping(), log=log, desks=[found])
            with pytest.raises(grpc.aio.AbortError, match="peer-part"):
                await port._ask(control(List(WIRE)), Context())

    asyncio.run(run())


def test_an_author_is_in_no_sum(tmp_path: Path) -> None:
    async def run() -> None:
        enrolment.make_all(tmp_path / "keys", list(SITES), fresh, NOW, ("localhost", "127.0.0.1"), ["ada"])
        async with wired(tmp_path, names=SITES) as net:
            assert [member.name for member in net.hall.cohort.members] == list(SITES)
            mine = Credentials.load(net.folder / "ada", "author")
            authority = (net.folder / "server/ca.pem").read_bytes()
            async with channel(net.target, authority, *mine.tls[:2]) as line:
                stream = line.stream_stream("/securefl.v1.Federation/Attend")()
                with pytest.raises(grpc.aio.AioRpcError, match="peer-part"):
                    await stream.read()

    asyncio.run(run())


# What a false server says


class Lying(Desk):
    """Answers what a test puts in the place of the truth."""

    lie: Callable[[Message], Message]

    def answer(self, entry: Entry, data: bytes) -> Message:
        """The answer, bent."""
        return type(self).lie(super().answer(entry, data))


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        (lambda keys, told: replace(told, bundle=made(keys, {"job.toml": ""}).document), "bundle-hash"),
        (lambda keys, told: replace(told, bundle=replace(made(keys), signature=bytes(64)).document), "bundle-signature"),
        (lambda keys, told: replace(told, bundle=replace(made(keys), author="eve").document), "bundle-author"),
        (lambda keys, told: replace(told, bundle=b"\x80"), "bundle-form"),
        (lambda keys, told: replace(told, roster=told.roster[:-1] + b"\0"), "roster-signature"),
        (lambda keys, told: replace(told, roster=(keys / "first").read_bytes()), "roster-older"),
        (lambda keys, told: Taken(bytes(32), "ada"), "net-envelope"),
        (lambda keys, told: Declined("made-up\x1b[2J", "\u202e"), "the server declines: made-up\\x1b[2J (\\u202e)"),
    ],
)
def test_a_false_server_is_refused_by_name_of_the_check(keys: Path, lie: Callable[..., Message], check: str) -> None:
    """Another bundle than was asked for (bundle-hash), altered or signed by nobody, with another's roster or an old one."""
    bundle, first = made(keys), enrolment.keyfiles.read_roster(keys / "operator", own(keys, "ada").authority)
    (keys / "first").write_bytes(first.document)
    newer = enrolment.revoke(keys / "operator", "bob")
    for name in ("north", "server"):
        enrolment.accept_roster(keys / name, newer.document)

    class Liar(Lying):
        lie = staticmethod(lambda told: lie(keys, told) if isinstance(told, Handed) else told)

    def work(target: str) -> str:
        assert Asking(target, own(keys, "ada")).submit(bundle) == "ada"
        with pytest.raises(UserError) as caught:
            Asking(target, own(keys, "north")).fetch(bundle.hash)
        return str(caught.value)

    said, _ = through(keys, work, Liar)
    assert check in said
    assert said.isprintable()
    assert not (keys / "north/bundles").exists()
    assert own(keys, "north").roster.serial == newer.serial


def test_a_server_that_fails_or_is_away_is_one_line(keys: Path) -> None:
    class Failing(Lying):
        @staticmethod
        def lie(_told: Message) -> Message:
            raise UserError("the store sqlite:///secret/place cannot be used")

    def work(target: str) -> str:
        with pytest.raises(UserError) as caught:
            Asking(target, own(keys, "north")).listed()
        return str(caught.value)

    said, log = through(keys, work, Failing)
    assert said.endswith("cannot be reached: failed")
    assert [(line["party"], line["error"]) for line in log.of("failed")] == [("north", "UserError")]
    with pytest.raises(UserError, match="the server localhost:1 cannot be reached"):
        Asking("localhost:1", own(keys, "north")).listed()


def test_a_server_that_is_away_is_called_again_for_as_long_as_the_party_waits(keys: Path) -> None:
    class Ticking(Jumping):
        waits = 0

        def now(self) -> float:
            return float(self.waits)

        async def until(self, at: float) -> None:
            self.waits += 1

    for patience, waits in ((0.0, 0), (3.0, 3)):
        clock = Ticking()
        with pytest.raises(UserError, match="cannot be reached"):
            Asking("localhost:1", own(keys, "north"), clock=clock).listed(patience)
        assert clock.waits == waits


# A run of a bundle


def test_a_party_in_a_run_of_a_bundle_holds_it_to_the_bundle_and_the_newest_roster(tmp_path: Path) -> None:
    """The run's name ends in the hash of the bundle, not of the job; an author that a newer roster shows revoked is refused."""
    some = job()

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            keys = net.folder
            mine = own(keys, "a")
            assert mine.identity is not None
            bundle = made(keys, {"job.toml": "# a note\n"}, by="b")
            party = Attending(some, "a", mine.identity, MemoryJournal(), rows(some)["a"], bundle=bundle)
            assert party.hash == bundle.hash
            good = run_name(bundle.hash, entropy("one"))
            with pytest.raises(Refused, match="net-run"):
                party.welcome(run_name(job_hash(some), entropy("one")), net.hall.members)
            party.welcome(good, net.hall.members)
            with pytest.raises(UserError, match=r"bundle-author.*revoked"):
                party.welcome(good, enrolment.revoke(keys / "operator", "b"))

    asyncio.run(run())


# The bytes

WORDS: dict[str, Message] = {
    "submit": Submit(1, b"\x82\x41\x01\x41\x02"),
    "fetch": Fetch(1, bytes(range(32))),
    "tell": Tell(1, b"\x82\x41\x03\x41\x04"),
    "list": List(1),
    "taken": Taken(bytes(range(32)), "ada"),
    "handed": Handed(b"\x82\x41\x01\x41\x02", b"\x82\x41\x05\x41\x06"),
    "listed": Listed(
        bytes(32), b"\x82\x41\x05", (Item(bytes(range(32)), "ada", "a study", "2026-01-02", (Said("north", "refused"),)),)
    ),
    "declined": Declined("bundle-author", "revoked"),
}
FROZEN = Path(__file__).with_name("desk-1.json")


def test_the_desks_bytes_of_wire_version_1_are_as_they_were_written_down() -> None:
    assert WIRE == 1
    kept = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert {name: control(message).hex() for name, message in WORDS.items()} == kept
    for name, text in kept.items():
        assert read(bytes.fromhex(text), {**ASKED, **ANSWERED}) == WORDS[name]


if __name__ == "__main__":
    print(json.dumps({name: control(message).hex() for name, message in WORDS.items()}, indent=1))
