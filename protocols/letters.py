"""What passes between sessions and who moves it: addresses, letters, a farewell, and the guard that is asked before one leaves.

Channel assumed: none; see `protocols.session`.

What it does not protect: a letter says who sends it; that it does is the driver's word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Protocol

from protocols.schema import Count, Index, Message
from protocols.wire import Limits, encode


class Address(NamedTuple):
    """A party: its role, and its index within the role (roster index from 1; 0 for a role of one)."""

    role: str
    index: int = 0  # type: ignore[assignment]  # a tuple, as those are hashed quickly; nobody asks it for `tuple.index`

    def __str__(self) -> str:
        return self.role if self.index == 0 else f"{self.role} {self.index}"


SERVER = Address("server")


def client(index: int) -> Address:
    """The client with that roster index."""
    return Address("client", index)


@dataclass(frozen=True)
class Farewell(Message):
    """A party leaves.  ``blamed`` holds the roster index of the party whose message it refused, or nothing for the server's."""

    blamed: Annotated[tuple[Index, ...], Count(0, 1)]


@dataclass(frozen=True)
class Letter:
    """A message on its way.

    Attributes:
        sender: who sends it.
        to: who gets it; the bytes are the same for all.
        message: the content.
        epoch: how many of this kind the sender had sent before.
        limits: sizes of the session.
    """

    sender: Address
    to: tuple[Address, ...]
    message: Message
    epoch: int
    limits: Limits = field(repr=False)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The wire bytes, in frames."""
        return encode(self.message, self.epoch, self.limits)


class Guard(Protocol):
    """What a party writes down before something leaves it (see `protocols.policy.Journal`)."""

    def join(self) -> None:
        """Before the first message of this session leaves; raises `Refused` if it must not."""

    def spend(self) -> None:
        """Before the masked input leaves; raises `Refused` if it must not."""
