"""What torch draws while single records are trained on, such as the masks of a dropout layer: from a state that nobody knows.

Masks are drawn in the order of a batch.  With masks that somebody knows (a seed set in a script, or 32 bits of one that are tried
out) a record more shifts those of all that follow, and their gradients change together by many clips.  With masks from a secret
state each record's are the same in law whoever else is in the batch, and ε holds as for any fixed masks.

What it does not protect: torch's generators are Mersenne Twister (here with all of its state drawn) and Philox (64 bits of a seed),
good for statistics, not for secrets; nothing but masks and the like may come from them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from protocols.rand import Rand

_WORDS = 624  # of 32 bits, each in one of 64
_HEAD, _TAIL = struct.Struct("<QiiQ"), 40  # seed, draws left, whether seeded, next; then normal draws that were kept: none


@contextmanager
def secret_draws(rand: Rand) -> Iterator[None]:
    """Within, torch's generators are in states from ``rand``; afterwards they are as they were.

    Args:
        rand: its draw ``torch`` is used up.
    """
    words = rand.words("torch", 2 + _WORDS)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        state = _HEAD.pack(int(words[0]), 1, 1, 0) + (words[2:] & np.uint64(2**32 - 1)).astype("<u8").tobytes() + bytes(_TAIL)
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        if devices:
            torch.cuda.manual_seed_all(int(words[1] >> np.uint64(1)))
        yield
