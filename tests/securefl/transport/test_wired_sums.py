"""Sums over gRPC on loopback: the same bits as in one process, and over the survivors where parties vanish."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from wired import NAMES, Ending, vector, wired

from protocols.sums import scheme, secure_sum


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


STAGES = [kind.__name__ for kind in scheme("secagg").flow.messages("server")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_party_that_vanishes_is_left_out_or_was_in_already(tmp_path: Path, stage: str) -> None:
    """Cut at every message: the sum is over those whose vector had come, as in one process."""

    async def run() -> None:
        async with wired(tmp_path) as net:
            found, endings = await net.total({"b": stage})
            known = secure_sum(inputs(), max_abs=1000, protocol="secagg", dropouts={2: stage})
            assert (found.values == known.values).all()
            assert found.contributors == known.contributors == (4 if STAGES.index(stage) > STAGES.index("Masked") else 3)
            assert isinstance(endings[1], asyncio.CancelledError)
            assert [ending for at, ending in enumerate(endings) if at != 1] == [Ending("")] * 3
            assert {line["party"] for line in net.log.of("gone")} == set(NAMES)

    asyncio.run(run())
