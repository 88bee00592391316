"""What torch, numpy and `random` draw while single records are trained on, as for dropout and augmentation: from secret states.

Masks are drawn in the order of a batch.  With masks that somebody knows (a seed set in a script, or 32 bits of one that are tried
out) a record more shifts those of all that follow, and their gradients change together by many clips.  With masks from a secret
state each record's are the same in law whoever else is in the batch, and ε holds as for any fixed masks.

What it does not protect: a generator object that a data set or a layer holds itself.  The generators here are Mersenne Twister
(with all of its state drawn) and Philox (64 bits of a seed), good for statistics, not for secrets; nothing but masks and the like
may come from them.
"""

from __future__ import annotations

import random  # noqa: TID251  (its state is put aside)
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from protocols.rand import Rand

_WORDS = 624  # of 32 bits, each in one of 64
_HEAD, _TAIL = struct.Struct("<QiiQ"), 40  # seed, draws left, whether seeded, next; then normal draws that were kept: none


@contextmanager
def secret_draws(rand: Rand) -> Iterator[None]:
    """Within, the global generators of torch, numpy and `random` are in states from ``rand``; afterwards they are as they were.

    Args:
        rand: its draws ``torch``, ``numpy`` and ``random`` are used up.
    """
    words = rand.words("torch", 2 + _WORDS)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002, TID251
    with torch.random.fork_rng(devices=devices):
        state = _HEAD.pack(int(words[0]), 1, 1, 0) + (words[2:] & np.uint64(2**32 - 1)).astype("<u8").tobytes() + bytes(_TAIL)
        torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
        if devices:
            torch.cuda.manual_seed_all(int(words[1] >> np.uint64(1)))
        try:
            np.random.set_state(("MT19937", _state(rand, "numpy"), _WORDS, 0, 0.0))  # noqa: NPY002, TID251
            random.setstate((3, (*_state(rand, "random").tolist(), _WORDS), None))
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002, TID251
            random.setstate(of_python)


def _state(rand: Rand, label: str) -> NDArray[np.uint32]:
    """A state of Mersenne Twister that is twisted before the first draw; shape (624,)."""
    return (rand.words(label, _WORDS) & np.uint64(2**32 - 1)).astype(np.uint32)
