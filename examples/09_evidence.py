"""A party lies and signs it: the server names it, and a file proves it to anybody who has the roster.

Party 2 opens another share of party 1's secret than it had accepted.  The server finds that it does not fit the hash that party 2
signed for, goes on without it, and keeps both signatures.  `securefl verify` asks for nothing but the file and the roster.

    python examples/09_evidence.py DIR     # what the server saw in DIR/run.tape, what convicts in DIR/evidence

Without DIR a temporary folder is made.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from protocols import sums
from protocols.secagg import open_shares
from protocols.secagg_labels import opening_statement
from protocols.secagg_types import Openings
from protocols.session import SERVER, client
from protocols.simulate import run
from protocols.suite import Occasion
from protocols.vector import Vector
from securefl.audit.evidence import proven
from securefl.audit.recording import Recording

LIAR, PARTIES = 2, 6
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())


def open_zeros(consenting, agreed):
    """Open nothing but zeros, and sign that."""
    finished, honest = open_shares(consenting, agreed)
    me, shares = consenting.invited, bytes(len(honest.shares))
    said = opening_statement(me.terms, me.me, consenting.L, consenting.u3, shares)
    return finished, Openings(shares, me.identity.sign(said))


scheme = sums.scheme("secagg")
roster, parties = sums.enrol(PARTIES)
terms = scheme.terms(Occasion("example", 1), roster, scheme.parameters(PARTIES, 4, 100))
flows = {LIAR: scheme.flow.replace(open_shares=open_zeros)}
sessions = {SERVER: sums.server_session(scheme, terms)}
sessions |= {client(p.index): sums.client_session(scheme, p, terms, flow=flows.get(p.index)) for p in parties}
inputs = {client(p.index): [Vector(np.arange(4) + p.index)] for p in parties}

folder.mkdir(exist_ok=True)
with Recording(tape=folder / "run.tape", evidence=folder / "evidence") as recording:
    recording.begin(scheme, terms, parties)
    outcome = run(sessions, inputs, watch=recording.watch)
    recording.end(outcome, outcome.outputs[0].contributors)

(total,) = outcome.outputs
(fault,) = outcome.sessions[SERVER].faults
(file,) = (folder / "evidence").iterdir()
print(f"sum over {total.contributors}: {total.values.tolist()}; named: {fault.sender} ({fault.check})")
print(proven(file, roster))
print(f"securefl verify {file} --roster {folder / 'run.tape'}")
