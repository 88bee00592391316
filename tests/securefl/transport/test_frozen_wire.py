"""The bytes of wire version 1, as they were first written down: a change of any of them is another version.

`python -P tests/securefl/transport/test_frozen_wire.py` prints the files anew; only ever for a new version, beside the old one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocols.errors import Refused
from protocols.plugins import BUILT_IN
from protocols.schema import Message
from protocols.sums import scheme
from securefl.transport.envelope import (
    FROM_PARTY,
    FROM_SERVER,
    WIRE,
    Adjourn,
    Convene,
    Dismiss,
    Frame,
    Hello,
    Invite,
    Parcel,
    Ready,
    Welcome,
    control,
    read,
)

FILE, SUITES = (Path(__file__).with_name(name) for name in ("wire-1.json", "suites-1.json"))
MESSAGES: dict[str, Message] = {
    "hello": Hello(1, "securefl 0.1", bytes(range(32)), 7),
    "welcome": Welcome(1, "0123456789abcdef-job", b"\x82\x41\x01\x41\x02"),
    "ready": Ready(),
    "convene": Convene(3, "round", 12, 2),
    "invite": Invite(4, "round", 13, 0, b"\x05\x01"),
    "adjourn": Adjourn(3, "quorum"),
    "adjourn, done": Adjourn(2**32 - 1, ""),
    "dismiss": Dismiss("net-stopped", "the operator said so"),
}
PARCEL = Parcel(70000, (b"\x01\x02", memoryview(b"\x03")))


def made() -> dict[str, str]:
    return {**{name: control(message).hex() for name, message in MESSAGES.items()}, "frame": b"".join(PARCEL.frames()).hex()}


def test_this_version_writes_the_bytes_that_were_written_down() -> None:
    assert WIRE == 1
    assert made() == json.loads(FILE.read_text(encoding="utf-8"))


def test_this_version_reads_them() -> None:
    for name, text in json.loads(FILE.read_text(encoding="utf-8")).items():
        found = read(bytes.fromhex(text), {**FROM_PARTY, **FROM_SERVER})
        if name == "frame":
            assert isinstance(found, Frame)
            assert (found.sitting, found.begins, bytes(found.chunk)) == (70000, True, b"\x01\x02\x03")
        else:
            assert found == MESSAGES[name]


def suites() -> dict[str, str]:
    """Of every built-in protocol, for ten parties."""
    return {name: one.suite(one.parameters(10, 50, 1000)) for name, one in ((name, scheme(name)) for name in BUILT_IN)}


def test_the_suites_of_this_wire_are_those_that_were_written_down() -> None:
    """Who runs another suite under the same wire would be blamed for its signatures: a suite that changes is another wire."""
    assert WIRE == 1
    assert suites() == json.loads(SUITES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_a_field_more_or_fewer_is_another_wire(name: str) -> None:
    """Why a change needs a new number: neither side would read the other."""
    data = control(MESSAGES[name])
    with pytest.raises(Refused):
        read(data + b"\x00", {**FROM_PARTY, **FROM_SERVER})
    with pytest.raises(Refused):
        read(data[:-1], {**FROM_PARTY, **FROM_SERVER})
    if name == "hello":
        other = replace(MESSAGES[name], wire=2)  # type: ignore[type-var]
        assert control(other) != data


if __name__ == "__main__":
    print(json.dumps(made(), indent=1))
    print(json.dumps(suites(), indent=1))
