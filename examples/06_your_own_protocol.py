"""A protocol of your own: the toy in ring_protocol/ runs like ours, and what does not fit is refused by name.

Here a program registers it; installed (`pip install examples/ring_protocol`) it is found by its entry point, and the command line
has it too: `securefl run --protocol ring`, `securefl demo ring`, `securefl draw ring`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from protocols import Misuse, secure_sum, simulate, sums
from protocols.primitives.agree import KeyPair
from protocols.rand import fresh
from protocols.session import SERVER, client
from protocols.suite import Occasion
from protocols.vector import Vector

sys.path.insert(0, str(Path(__file__).with_name("ring_protocol")))
from ring_protocol import SCHEME, Beside

COUNTS = [[12 + u, 30 - u, 7 * u] for u in range(1, 11)]
ring = sums.register(SCHEME)


def first_party(parties, network=None, scheme=ring):
    """How a sum of so many parties ends for the first of them."""
    roster, members = sums.enrol(parties)
    terms = scheme.terms(Occasion("example", 0), roster, scheme.parameters(parties, 3, 100))
    sessions = {SERVER: sums.server_session(scheme, terms)}
    sessions |= {client(m.index): sums.client_session(scheme, m, terms) for m in members}
    simulate.run(sessions, {client(u): [Vector(COUNTS[u - 1])] for u in range(1, parties + 1)}, network=network)
    return sessions[client(1)].ended


def other_key(letter):
    """A server that gives party 1 a key of its own as its neighbour's."""
    if isinstance(letter.message, Beside) and letter.to == (client(1),):
        mine = KeyPair.generate(fresh(), "mine").public
        letter = replace(letter, message=replace(letter.message, key_after=mine))
    return (letter,)


total = secure_sum(COUNTS[:5], max_abs=100, protocol="ring")
print(f"sum over {total.contributors}: {total.values.tolist()}")
print("by the protocol's own check:", first_party(5, other_key))
print("by every party's policy:", first_party(10))
spending = replace(ring.flow.step("pad"), spends=False)
for what, wrong in (
    ("another's name", replace(SCHEME, name="secagg")),
    ("an input that nobody writes down", replace(SCHEME, name="loop", flow=SCHEME.flow.swap(pad=spending))),
):
    try:
        sums.register(wrong)
    except Misuse as error:
        print(f"{what}: {error}")
