"""Pictures of flows word for word: one flow with everything in it, as Mermaid, as tables, and as what the drawing is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols import draw
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.rand import Rand
from protocols.schema import Digest, Message


class HelperStart: ...


class Idle: ...


class Vector: ...


class Rows: ...


class Tally: ...


@dataclass(frozen=True)
class Standing:
    sid: bytes
    place: int


@dataclass(frozen=True)
class Start:
    standing: Standing
    roster: tuple[int, ...]
    nonce: str
    passphrase: str


@dataclass(frozen=True)
class Ready:
    standing: Standing
    keys: bytes
    sums: int
    id: int


@dataclass(frozen=True)
class HelperReady:
    keys: Digest


@dataclass(frozen=True)
class ServerStart:
    sid: bytes
    order: bytes


@dataclass(frozen=True)
class ServerReady:
    start: ServerStart
    spare: Idle
    total: Vector


@dataclass(frozen=True)
class HelperKey(Message):
    key: Digest


@dataclass(frozen=True)
class Keys(Message):
    key: Digest


@dataclass(frozen=True)
class Answer(Message):
    text: Digest


@dataclass(frozen=True)
class ShareOfKey(Message):
    text: Digest


@dataclass(frozen=True)
class Cipher(Message):
    text: Digest


@dataclass(frozen=True)
class Model(Message):
    text: Digest


def one(_: object) -> int:
    return 1


def fold(state: Any, _index: int, _message: object) -> Any:
    return state


def committee() -> Flow:
    """Three roles, one set-up, many sums; the server's last step takes what the one before gives out."""
    flow = Flow("committee")
    helper = flow.role("key helper", many=True)

    @helper
    def publish(start: HelperStart, rand: Rand) -> tuple[HelperReady, HelperKey]:
        """Make a key #1; send it <out> & "away", before > a lot else."""

    @flow.server(quorum=one)
    def spread(start: ServerStart, keys: Inbox[HelperKey]) -> tuple[ServerReady, Broadcast[Keys]]:
        """Pass the keys on; who comes later is left out."""

    @flow.client
    def learn(start: Start, keys: Keys) -> Ready:
        """Remember the keys."""

    @flow.client(spends=True)
    def submit(ready: Ready, x: Input[Vector], rand: Rand) -> tuple[Ready, Cipher, Fanout[ShareOfKey]]:
        """Encrypt the input."""

    @helper(quorum=one, within=2.5)
    def add_up_all_keys(ready: HelperReady, parts: Inbox[ShareOfKey]) -> tuple[HelperReady, Answer]:
        """Add the parts."""

    @flow.server(fold=fold, quorum=one)
    def open_sum(
        ready: ServerReady, rows: Input[Rows], texts: Arrived[Cipher], answers: Arrived[Answer]
    ) -> tuple[ServerReady, Output[Tally]]:
        """Decrypt the sum."""

    @flow.server
    def improve(idle: Idle, total: Input[Tally]) -> Output[Model]:
        """Step by the mean."""

    return flow.check()


MERMAID = """\
sequenceDiagram
    participant client_1 as every client
    participant server_2 as server
    participant key_helper_3 as every key helper
    Note over key_helper_3: publish<br/>Make a key #35;1#59; send it #lt;out#gt; & "away", before #gt;<br/>a lot else.<br/>\
HelperStart → HelperReady
    key_helper_3->>server_2: HelperKey
    Note over server_2: spread<br/>Pass the keys on#59; who comes later is left out.<br/>ServerStart → ServerReady
    server_2->>client_1: Keys (the same for all)
    Note over client_1: learn<br/>Remember the keys.<br/>Start → Ready
    loop once for every sum
    Note over client_1: submit<br/>Encrypt the input.<br/>Ready → Ready<br/>input Vector
    client_1->>server_2: Cipher
    client_1->>key_helper_3: ShareOfKey (one for each)
    Note over key_helper_3: add_up_all_keys<br/>Add the parts.<br/>HelperReady → HelperReady
    key_helper_3->>server_2: Answer
    Note over server_2: open_sum<br/>Decrypt the sum.<br/>ServerReady → ServerReady, Tally<br/>input Rows
    end
    Note over server_2: improve<br/>Step by the mean.<br/>Idle, Tally → nothing<br/>output Model
"""

TABLE = """\
committee: who remembers what, when

every client
step      remembers before              receives      sends                    remembers after               forgets
--------  ----------------------------  ------------  -----------------------  ----------------------------  --------------
learn     Start: standing, roster,      Keys                                   Ready: standing, keys, sums,  roster, nonce,
          nonce, passphrase                                                    id                            passphrase
submit *  Ready: standing, keys, sums,  input Vector  Cipher, ShareOfKey (one  Ready: standing, keys, sums,  x (Vector)
          id                                          for each)                id

server
step        remembers before          receives         sends                    remembers after           forgets
----------  ------------------------  ---------------  -----------------------  ------------------------  -----------
spread      ServerStart: sid, order   HelperKey        Keys (the same for all)  ServerReady: sid, order,
                                                                                spare, total
open_sum *  ServerReady: sid, order,  Cipher, Answer,                           ServerReady, Tally: sid,  rows (Rows)
            spare, total              input Rows                                order, spare, total
improve     Idle, Tally                                output Model

every key helper
step             remembers before   receives    sends      remembers after    forgets
---------------  -----------------  ----------  ---------  -----------------  -------
publish          HelperStart                    HelperKey  HelperReady: keys
add_up_all_keys  HelperReady: keys  ShareOfKey  Answer     HelperReady: keys
*

* runs once for every sum
"""

LISTS = """\
committee: who remembers what, when

every client
learn
  remembers before  Start: standing,
                    roster, nonce,
                    passphrase
  receives          Keys
  remembers after   Ready: standing,
                    keys, sums, id
  forgets           roster, nonce,
                    passphrase
submit *
  remembers before  Ready: standing,
                    keys, sums, id
  receives          input Vector
  sends             Cipher,
                    ShareOfKey (one
                    for each)
  remembers after   Ready: standing,
                    keys, sums, id
  forgets           x (Vector)

server
spread
  remembers before  ServerStart:
                    sid, order
  receives          HelperKey
  sends             Keys (the same
                    for all)
  remembers after   ServerReady:
                    sid, order,
                    spare, total
open_sum *
  remembers before  ServerReady:
                    sid, order,
                    spare, total
  receives          Cipher, Answer,
                    input Rows
  remembers after   ServerReady,
                    Tally: sid,
                    order, spare,
                    total
  forgets           rows (Rows)
improve
  remembers before  Idle, Tally
  sends             output Model

every key helper
publish
  remembers before  HelperStart
  sends             HelperKey
  remembers after   HelperReady:
                    keys
add_up_all_keys *
  remembers before  HelperReady:
                    keys
  receives          ShareOfKey
  sends             Answer
  remembers after   HelperReady:
                    keys

* runs once for every sum
"""


def test_the_diagram_in_mermaids_words() -> None:
    assert draw.mermaid(committee()) == MERMAID


def test_the_table_letter_by_letter() -> None:
    assert draw.table(committee()) == TABLE


def test_a_table_that_is_too_wide_letter_by_letter() -> None:
    """Sixteen letters beside the heads are the least; a table that just fits stays one."""
    narrowest = len("  remembers before  ") + 16
    assert draw.table(committee(), width=1) == draw.table(committee(), width=narrowest) == LISTS
    assert max(map(len, LISTS.splitlines())) == narrowest
    widest = max(map(len, TABLE.splitlines()))
    assert draw.table(committee(), width=widest) == TABLE != draw.table(committee(), width=widest - 1)


def test_what_a_step_before_all_others_holds_is_nothing_and_classes_within_a_function_have_fields_too() -> None:
    @dataclass(frozen=True)
    class Own:
        first: Rows
        second: Own | None

    def hear(keys: Keys) -> Own:
        return Own(Rows(), None)

    hear.__annotations__ = {"keys": Keys, "return": Own}
    flow = Flow("hearing")
    flow.client(hear)
    plan = draw.chart(flow)
    assert [scene.change for scene in plan.scenes] == ["nothing → Own"]
    assert plan.fields([Own]) == ["first", "second"]


def test_all_ways_out_of_a_step_are_followed_to_the_end() -> None:
    """A step with two ways back to it: all five run again and again, the first and the last declared as well."""
    flow = Flow("forked")

    @flow.server
    def back(x: Start) -> Idle: ...

    @flow.server
    def fork(x: Idle, go: Input[Rows]) -> tuple[Ready, ServerReady]: ...

    @flow.server
    def left(x: Ready) -> Start: ...

    @flow.server
    def right(x: ServerReady) -> ServerStart: ...

    @flow.server
    def home(x: ServerStart) -> Idle: ...

    plan = draw.chart(flow.check())
    assert [scene.step.name for scene in plan.scenes] == ["back", "fork", "left", "right", "home"]
    assert plan.loops == ((0, 4),)


def test_loops_that_nothing_connects_stay_apart_and_an_output_that_is_taken_stays_with_the_party() -> None:
    flow = Flow("apart")

    @flow.server
    def turn(x: Idle, go: Input[Rows]) -> Output[Idle]: ...

    @flow.client
    def spin(x: Ready, go: Input[Vector]) -> Ready: ...

    plan = draw.chart(flow.check())
    assert plan.loops == ((0, 0), (1, 1))
    assert [(scene.after, scene.outputs) for scene in plan.scenes] == [((Idle,), ()), ((Ready,), ())]
