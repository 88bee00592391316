"""Both shares by one request: a server asks for the key *and* the seed of hospital 1, with which both its masks come off.

The protocol's request has room for the dropped set alone.  Who survived follows from it, so nobody is on both lists; a request with
two lists is refused by "wire-field".  Give it room for two, as an obvious design would, and the server reads what hospital 1 has.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from cracking import combined, unmask
from lying_server import ALL, SECRET, Server

from protocols import agreement, secagg
from protocols.agreement import Agree
from protocols.primitives.agree import KeyPair
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import PARTIES, Count, Index, Message, strings
from protocols.secagg_types import Consenting, Finished, Openings


@dataclass(frozen=True)
class Dropped(Message):
    """The request with room for both: whose key is to be opened, and whose seed."""

    keys_of: Annotated[tuple[Index, ...], Count(0, PARTIES)]
    seeds_of: Annotated[tuple[Index, ...], Count(0, PARTIES)]


@dataclass(frozen=True)
class Asked(Consenting):
    keys_of: tuple[int, ...]


def consent(covered, said):
    """As in the protocol, but for the survivors: they are what the server says, not those who did not drop out."""
    asked = Asked(covered.invited, covered.L, covered.u2, said.seeds_of, covered.held, said.keys_of)
    return asked, agreement.sign_survivors(covered.invited, covered.L, said.seeds_of)


def open_shares(consenting, agreed):
    """As in the protocol, signatures and all; and one share for each name on each list."""
    asked, me = consenting, consenting.invited.me
    agreement.check_agreement(asked.invited, asked.L, asked.u3, agreed)
    keys = [asked.held[v].s_share for v in asked.keys_of if v != me]
    seeds = [asked.held[v].b_share for v in asked.u3 if v != me]
    return Finished(me), Openings(b"".join(keys + seeds), bytes(64))


def with_room_for_both():
    """The flow with that request in the place of its own."""
    asks, answers = secagg.flow.step("survey"), secagg.flow.step("consent")
    asks = replace(asks, gives=(asks.gives[0], replace(asks.gives[1], type=Dropped)))
    answers = replace(answers, fn=consent, takes=(answers.takes[0], replace(answers.takes[1], type=Dropped)))
    return secagg.flow.swap(survey=asks, consent=answers, open_shares=replace(secagg.flow.step("open_shares"), fn=open_shares))


def both_shares(server):
    """Hospital 1 stands on both lists."""
    server.share_keys()
    for u in ALL:
        server.tell(u, Dropped((1,), ALL))
    for u in ALL:
        if (Agree, u) in server.heard:
            server.tell(u, server.agreed())
    sent = {u: strings(server.heard[Openings, u].shares, SHARE_SIZE) for u in (2, 3, 4) if (Openings, u) in server.heard}
    keys, seeds = ({u: shares[at] for u, shares in sent.items()} for at in (0, 1))  # the key of 1, then the seeds of 1, 2, …
    return unmask(server, seeds, {1: KeyPair(combined(keys))}) if keys else None


server = Server()
print(f"one list: server reads {both_shares(server)}; hospital 2 {server.parties[2].ended}")
print(f"two lists: server reads {both_shares(Server(flow=with_room_for_both()))}, hospital 1 has {SECRET}")
