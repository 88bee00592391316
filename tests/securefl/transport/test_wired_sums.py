"""Sums over gRPC on loopback: the same bits as in one process, and over the survivors where parties vanish."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wired import NAMES, vector, wired

from protocols.errors import Refused
from protocols.sums import scheme, secure_sum
from securefl.transport.envelope import FROM_PARTY, FROM_SERVER, HEAD, Frame, Parcel, control, read
from securefl.transport.link import Ending


def inputs(names: tuple[str, ...] = NAMES) -> list[np.ndarray]:
    return [vector(name, 50, 1000) for name in names]


@pytest.mark.parametrize("protocol", ["secagg", "kahe", "plain-insecure", "lightsecagg"])
def test_a_sum_over_grpc_has_the_same_bits_as_in_one_process(tmp_path: Path, protocol: str) -> None:
    async def run() -> None:
        async with wired(tmp_path, protocol) as net:
            found, endings = await net.total()
            known = secure_sum(inputs(), max_abs=1000, protocol=protocol)
            assert (found.values == known.values).all()
            assert (found.values == sum(inputs())).all()
            assert found.contributors == known.contributors == 4
            assert endings == [Ending("")] * 4

    asyncio.run(run())


def stages(protocol: str) -> list[str]:
    return [kind.__name__ for kind in scheme(protocol).flow.messages("server")]


VECTOR = {"secagg": "Masked", "kahe": "Enciphered", "plain-insecure": "Clear"}
EACH = [(protocol, stage) for protocol in VECTOR for stage in stages(protocol)]


@pytest.mark.parametrize(("protocol", "stage"), EACH)
def test_a_party_that_vanishes_is_left_out_or_was_in_already(tmp_path: Path, protocol: str, stage: str) -> None:
    """Cut at every message: the sum is over those whose vector had come, as in one process."""

    async def run() -> None:
        async with wired(tmp_path, protocol) as net:
            found, endings = await net.total({"b": stage})
            known = secure_sum(inputs(), max_abs=1000, protocol=protocol, dropouts={2: stage})
            late = stages(protocol).index(stage) > stages(protocol).index(VECTOR[protocol])
            assert (found.values == known.values).all()
            assert found.contributors == known.contributors == (4 if late else 3)
            assert isinstance(endings[1], asyncio.CancelledError)
            assert [ending for at, ending in enumerate(endings) if at != 1] == [Ending("")] * 3
            assert {line["party"] for line in net.log.of("gone")} == set(NAMES)

    asyncio.run(run())


@settings(max_examples=300)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=80).map(lambda tail: b"\x00" + tail)
    | st.binary(max_size=80).map(lambda tail: b"\x01" + tail)
)
def test_any_bytes_on_the_stream_are_a_message_or_refused(data: bytes) -> None:
    for kinds in (FROM_PARTY, FROM_SERVER):
        with suppress(Refused):
            found = read(data, kinds)
            if isinstance(found, Frame):
                assert len(found.chunk) == len(data) - HEAD
            else:
                assert control(found) == data  # one spelling


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.integers(1, 2**32 - 1))
def test_a_letter_goes_out_in_frames_and_comes_back_whole(parts: list[bytes], sitting: int) -> None:
    sent = [read(data, {}) for data in Parcel(sitting, tuple(parts)).frames()]
    assert all(isinstance(frame, Frame) and frame.sitting == sitting for frame in sent)
    assert b"".join(bytes(frame.chunk) for frame in sent) == b"".join(parts)  # type: ignore[union-attr]
    assert [frame.begins for frame in sent] == [True] + [False] * (len(sent) - 1)  # type: ignore[union-attr]
