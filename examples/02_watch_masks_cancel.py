"""Watch masks cancel: each vector that leaves a party looks like noise, and their sum is the sum of the inputs.

Writes masks_cancel.png into the current folder, or into the one given as the first argument.  The masked vectors are read off the
real messages; no party and no server does anything that it would not do otherwise.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from protocols import secure_sum
from protocols.secagg_types import Masked
from protocols.session import Address, Letter

PARTIES, SIZE, PEAK = 5, 400, 1000
DROPPED = 4

at = np.linspace(0, 2 * np.pi, SIZE)
inputs = [np.rint(PEAK * np.sin((u + 1) * at) * np.cos(at / 2) ** 2).astype(int) for u in range(PARTIES)]
masked: dict[int, np.ndarray] = {}
moduli: set[int] = set()


def watch(letter: Letter, _to: Address, _size: int) -> None:
    """Keep every masked vector as it passes on the wire."""
    if isinstance(letter.message, Masked):
        ring = letter.limits.vectors["masked"].ring
        moduli.add(ring.modulus)
        masked[letter.sender.index] = ring.unpack(letter.message.y.data, SIZE + 1)[:SIZE]


total = secure_sum(inputs, max_abs=PEAK, dropouts={DROPPED: "Masked"}, watch=watch)
stayed = [u for u in range(1, PARTIES + 1) if u != DROPPED]
exact = np.array_equal(total.values, sum(inputs[u - 1] for u in stayed))

(modulus,) = moduli
figure = Figure(figsize=(10, 1.5 * PARTIES + 2), layout="constrained")
axes = figure.subplots(PARTIES + 1, 2, sharex=True)
for u, (left, right) in enumerate(axes[:-1], 1):
    left.plot(inputs[u - 1], color="tab:green")
    left.set_ylabel(f"party {u}")
    if u in masked:
        right.plot(masked[u], ".", color="tab:red", markersize=2)
        right.set_ylim(0, modulus)
    else:
        right.text(0.5, 0.5, "vanished before it sent", ha="center", va="center", transform=right.transAxes)
        right.set_yticks([])
axes[0][0].set_title("what a party holds")
axes[0][1].set_title(f"what the server gets: values modulo {modulus}")
wrong = sum(vector.astype(np.int64) for vector in masked.values()) % modulus
axes[-1][0].plot(total.values, color="tab:blue")
axes[-1][0].set_ylabel("sum")
axes[-1][0].set_title(f"opened by the protocol: {total.contributors} parties")
axes[-1][1].plot(wrong, ".", color="tab:red", markersize=2)
axes[-1][1].set_ylim(0, modulus)
axes[-1][1].set_title("masked vectors only added up: still noise")
path = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "masks_cancel.png"
figure.savefig(path, dpi=110)
print(f"sum of {total.contributors} parties exact: {exact}")
print(f"wrote {path}")
