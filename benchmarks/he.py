"""Homomorphic sums in figures: bytes a value, error, security level and CPU seconds, beside TenSEAL's CKKS at its common default.

The default is N = 8192, moduli of 60, 40 and 40 bits, scale 2^40, a public key: what NVFlare's homomorphic filter is shipped with.
Both are measured in this process on one core; a ratio is ours over theirs, of medians.  The client's step is encoding, encryption
and serialising; ours also computes the tag, packs words to 60 bits and hashes them.  Errors are of the sum of three vectors, in
units of one step of the 16-bit inputs.

usage: OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/he.py [--clients 100] [--dim 1000000] [--reps 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from protocols import he_codec
from protocols.bulk import Bulk
from protocols.he_parameters import HeParameters, layouts, security
from protocols.primitives.homomorphic import Adder, Ciphertexts, decrypt, decrypt_raw, encrypt
from protocols.rand import Seed, fresh
from protocols.vector import Vector

LIMIT, SUMMED = 2**15 - 1, 3


def timed(act: Callable[[], Any], reps: int) -> tuple[float, Any]:
    """Median CPU seconds, and the last result."""
    seconds, out = list[float](), None
    for _ in range(reps):
        began = time.process_time()
        out = act()
        seconds.append(time.process_time() - began)
    return median(seconds), out


def inputs(dim: int) -> list[Any]:
    words = fresh().words("inputs", SUMMED * dim).reshape(SUMMED, dim)
    return list((words % np.uint64(2 * LIMIT + 1)).astype(np.int64) - LIMIT)


def ours(p: HeParameters, xs: list[Any], reps: int) -> dict[str, Any]:
    key, shapes = Seed(fresh().bytes("key", 32)), layouts(p)

    def step(me: int) -> tuple[Bulk, Bulk, Ciphertexts]:
        sealed = encrypt(p.shape, key, he_codec.encode(p, key, me, Vector(xs[me - 1])), fresh())
        return Bulk.of(shapes["seeds"], sealed.seeds), Bulk.of(shapes["words"], sealed.words), sealed

    step(1)
    client, _ = timed(lambda: step(1), reps)
    parts, adder = [step(u) for u in range(1, SUMMED + 1)], Adder(p.shape, p.ciphertexts)
    adds = [timed(lambda one=part[2]: adder.add(one), 1)[0] for part in parts]
    total = adder.total()
    opener, sums = timed(lambda: he_codec.decode(p, key, range(1, SUMMED + 1), decrypt(p.shape, key, total)), 1)
    raw, rounded = decrypt_raw(p.shape, key, total), decrypt(p.shape, key, total)
    return {
        "name": p.scheme,
        "N": p.degree,
        "log_q": str(p.modulus),
        "security": p.security,
        "values_a_slot": p.digits / p.limbs,
        "up_bytes_a_value": (len(parts[0][0].data or b"") + len(parts[0][1].data or b"")) / p.size,
        "opener_down_bytes_a_value": shapes["total"].nbytes / p.size,
        "error_bound": p.error,
        "error": float(np.abs(raw - rounded).max() if p.scheme == "ckks" else np.abs(sums[:-1] - np.sum(xs, axis=0)).max()),
        "exact": bool((sums[:-1] == np.sum(xs, axis=0)).all()),
        "client_s": client,
        "server_add_s": median(adds),
        "opener_s": opener,
    }


def theirs(xs: list[Any], reps: int) -> dict[str, Any]:
    import tenseal as ts  # noqa: PLC0415  (what is compared with)

    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], n_threads=1)
    context.global_scale = 2**40
    slots, reals = 4096, [x / LIMIT for x in xs]

    def step(x: Any) -> list[bytes]:
        return [ts.ckks_vector(context, x[i : i + slots]).serialize() for i in range(0, x.size, slots)]

    step(reals[0][:slots])
    client, first = timed(lambda: step(reals[0]), reps)
    total: list[Any] = []
    adds = list[float]()
    for blobs in (first, *(step(x) for x in reals[1:])):
        began = time.process_time()
        loaded = [ts.ckks_vector_from(context, blob) for blob in blobs]
        total = [a + b for a, b in zip(total, loaded, strict=True)] if total else loaded
        adds.append(time.process_time() - began)
    opener, sums = timed(lambda: np.concatenate([np.array(one.decrypt()) for one in total]), 1)
    return {
        "name": "TenSEAL CKKS",
        "N": 8192,
        "log_q": "60+40+40",
        "security": security(8192, 140),
        "values_a_slot": 1.0,
        "up_bytes_a_value": sum(map(len, first)) / xs[0].size,
        "opener_down_bytes_a_value": sum(len(one.serialize()) for one in total) / xs[0].size,
        "error_bound": float("nan"),
        "error": float(np.abs(sums - np.sum(reals, axis=0)).max() * LIMIT),
        "exact": False,
        "client_s": client,
        "server_add_s": median(adds),
        "opener_s": opener,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dim", type=int, default=1_000_000)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    xs = inputs(given.dim)
    sets = [make(given.clients, given.dim, LIMIT) for make in (HeParameters.bfv, HeParameters.ckks)]
    rows = [*(ours(p, xs, given.reps) for p in sets), theirs(xs, given.reps)]
    for row in rows:
        row["client_ratio"] = row["client_s"] / rows[-1]["client_s"]
    if given.json:
        print(json.dumps({"bench": "he", "clients": given.clients, "dim": given.dim, "rows": rows}))
        return
    heads = ("set", "N", "log q", "security", "values a slot", "bytes a value", "down to an opener", "error (bound)")
    show(*heads, "client s", "server s", "opener s", "ratio")
    show(*["---"] * 12)
    for row in rows:
        error = f"{row['error']:.1g}" + (f" ({row['error_bound']:.2g})" if row["name"] == "ckks" else "")
        sizes = (f"{row[key]:.2f}" for key in ("up_bytes_a_value", "opener_down_bytes_a_value"))
        seconds = (f"{row[key]:.2f}" for key in ("client_s", "server_add_s", "opener_s", "client_ratio"))
        show(row["name"], row["N"], row["log_q"], row["security"], f"{row['values_a_slot']:g}", *sizes, error, *seconds)


def show(*cells: object) -> None:
    print("|" + "|".join(f" {cell} " for cell in cells) + "|")


if __name__ == "__main__":
    main()
