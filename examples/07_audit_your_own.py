"""Audit a protocol of your own: pairwise masks as one would first write them, in naive_protocol/, with three planted faults.

The harness attacks it as a black box, and finds them: masks that repeat (row 7), a row count in clear (row 18), a vector that lies
open once its party is called dropped (row 24).  A ten-line adversary of our own finds a fourth that nobody planted on purpose.
In a test suite the same is one line: `def test_mine(audit): audit("mine")`.  From the command line: `pip install
./examples/naive_protocol`, then `securefl audit naive`.
"""

import sys
from pathlib import Path

from protocols import sums
from protocols.primitives import agree, prg
from protocols.rand import fresh
from securefl.audit import Adversary, audit_protocol
from securefl.audit.target import PAYLOAD

sys.path.insert(0, str(Path(__file__).with_name("naive_protocol")))
import naive_protocol as naive

sums.register(naive.SCHEME)


def in_the_middle(server):
    """Tell party 1 that everybody else's key is ours: nobody has signed them."""
    mine, p = agree.KeyPair.generate(fresh(), "mine"), server.fed.terms.parameters
    true = server.heard[1, naive.Hello].key
    (masked,) = yield 1, naive.Everybody((true, *[mine.public] * (p.parties - 1)))
    keys = [agree.derive(mine.exchange(true), naive.canonical(["naive mask", 1, v])) for v in range(2, p.parties + 1)]
    y = masked.y.values.copy()
    prg.apply_masks(y, [], keys)
    return {1: p.ring.centre(y)[:PAYLOAD]}


audit = audit_protocol("naive", rows={0, 7, 18, 24}, adversaries=[Adversary.server("in the middle", in_the_middle)])
for result in audit.broken:
    verdict = result.verdict
    print(f"{f'row {result.row}' if result.row else 'our own'}, {result.name}: {verdict.why}")
    print(f"  recovered of {verdict.whose} {list(verdict.recovered)}, true {list(verdict.true)}")
print(f"{len(audit.broken)} of {len(audit.results)} attacks succeed")
