"""What key-additive masking (`protocols.kahe`) adds to the SecAgg flow that carries its keys: terms, one message, and states.

A state's type has room for what its party may still know, and for nothing else: none has room for a key or an input.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any

from protocols.bulk import Bulk
from protocols.kahe_parameters import SUITE, KaheParameters
from protocols.ring import Accumulator
from protocols.schema import Digest, Message, Raw, Signature
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Summing
from protocols.suite import Terms
from protocols.vector import Sum


def suite(parameters: KaheParameters) -> str:
    """The suite string: the whole configuration by name, that of the key sum included."""
    return f"{SUITE}{parameters.keys.suite}"


@dataclass(frozen=True)
class KeyParameters(Parameters):
    """The parameters of the sum of the keys, in the name of the sum of the vectors: its suite, and its session identity.

    Attributes:
        vectors: the parameters of the whole sum.
    """

    vectors: KaheParameters | None = None

    @classmethod
    def within(cls, vectors: KaheParameters) -> KeyParameters:
        """Those of the keys of a sum."""
        keys: dict[str, Any] = {field.name: getattr(vectors.keys, field.name) for field in fields(Parameters)}
        return cls(**keys, vectors=vectors)

    @property
    def whole(self) -> KaheParameters:
        """The parameters of the whole sum."""
        if self.vectors is None:
            raise TypeError("these are parameters of no keys: build them with within()")
        return self.vectors

    @property
    def suite(self) -> str:
        """The suite string of the whole sum."""
        return suite(self.whole)

    @cached_property
    def content(self) -> list[object]:
        """What enters the session identity: the parameters of the whole sum, so that both flows run under one sid."""
        return self.whole.content


def key_terms(terms: Terms[KaheParameters]) -> Terms[Parameters]:
    """The terms under which the keys are summed: the same sid."""
    return Terms(terms.suite, terms.occasion, terms.roster, KeyParameters.within(terms.parameters))


@dataclass(frozen=True)
class Enciphered(Message):
    """Round 2, u → server: the vector under a key of u's own, that key as SecAgg masks it, and one signature over both.

    The rest of the signed statement is SecAgg's: L, U2 and the accepted share hashes.
    """

    c: Annotated[Bulk, Raw("cipher")]
    y: Annotated[Bulk, Raw("masked")]
    receipt: Digest
    signature: Signature


@dataclass(frozen=True)
class Adding:
    """Server: ciphertexts and masked keys come in, and are added at once."""

    keys: Summing
    total: Accumulator


@dataclass(frozen=True)
class Folded:
    """Server: the sum of the ciphertexts of U3, shut until SecAgg opens that of their keys."""

    terms: Terms[Parameters]
    total: Accumulator


@dataclass(frozen=True)
class KeySum:
    """What the SecAgg flow opens: the sum of the keys of U3."""

    keys: Sum
