"""Many sums of key-additive masking after one handshake: steps as `protocols.batch` has them, for the keys.

Source: as `protocols.kahe`.  The handshake is that of SecAgg, as it is the sum of the keys that it prepares.  Key, errors and mask
of a vector are drawn under the session identity of its step: a key masks one vector and enters one sum, here as there.

Channel assumed, and what it does not protect: as `protocols.kahe` and `protocols.batch`.
"""

from __future__ import annotations

from dataclasses import replace

from protocols import batch, kahe
from protocols.flow import Flow, Input
from protocols.kahe_types import Enciphered, KeySum
from protocols.rand import Rand
from protocols.secagg_types import Covered, Unsealed
from protocols.vector import Sum, Vector

_own = Flow("kahe-step")


@_own.client(spends=True)
def encrypt(unsealed: Unsealed, x: Input[Vector], rand: Rand) -> tuple[Covered, Enciphered]:
    """Encrypt the input under a fresh key, mask the key with the secrets of this sum; forget keys, seed and input."""
    return kahe.enciphered(unsealed, x, rand)


steps = Flow("kahe-step").include(
    batch.steps,
    instead={
        "mask": [replace(_own.step("encrypt"), layer="vector")],
        "survey": [kahe.flow.step("prepare"), kahe.flow.step("survey")],
    },
    ends={Sum: KeySum},
)
steps.add(kahe.flow.step("decrypt"))
steps.check()
