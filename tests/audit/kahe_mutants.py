"""Mutants of the ciphertexts of kahe."""

from __future__ import annotations

from typing import Any

import numpy as np
from mutating import Mutant, Patch, Scheme, declaring, everywhere, without

from protocols import kahe_parameters, rand, vector
from protocols.primitives import rlwe
from securefl.audit.federation import MAX_ABS

MUTANTS: list[Mutant] = []
mutant = declaring(MUTANTS)


@mutant("one key for every vector", 36, on="kahe")
def kept_key(patch: Patch, _scheme: Scheme) -> None:
    ones = np.bitwise_count(rand.Replay("kept")().words("s", rlwe.DEGREE)).astype(np.int64) - rlwe.LARGEST
    patch.setattr(rlwe.Key, "draw", lambda _rand, _label="s": rlwe.Key(ones))


@mutant("errors left out", 36, on="kahe")
def no_errors(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rand.Stream, "fill", lambda _self, out: out.fill(2**32 - 1))


@mutant("every party has the same errors", 36, on="kahe")
def same_errors(patch: Patch, _scheme: Scheme) -> None:
    stream = rand.Rand.stream
    patch.setattr(rand.Rand, "stream", lambda _self, label: stream(rand.Replay("one")(), label))


@mutant("residual not looked at", 37, on="kahe")
def no_residual(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(rlwe._Opening, "_check", lambda *_: None)


@mutant("any suite is taken", 38, on="kahe")
def any_suite(patch: Patch, scheme: Scheme) -> None:
    without("terms-suite")(patch, scheme)


@mutant("any parameters are taken", 38, on="kahe")
def any_parameters(patch: Patch, _scheme: Scheme) -> None:
    patch.setattr(kahe_parameters.KaheParameters, "__post_init__", lambda _self: None)


@mutant("values clamped after noise", 39, on="kahe")
def clamped(patch: Patch, _scheme: Scheme) -> None:
    signed = vector.signed

    def clipping(x: Any, size: int, most: int | None) -> Any:
        read = signed(x, size, most)
        return read if most is not None else lambda at, count: np.clip(read(at, count), -MAX_ABS, MAX_ABS)

    everywhere(patch, "signed", clipping)
