"""FedML's LightSecAgg arithmetic (`fedml.core.mpc.lightsecagg`), timed: one JSON object with CPU seconds of encoding and decoding.

FedML's own import wants many packages; its module of arithmetic alone is loaded from the installed wheel.  Python 3.11,
``pip install torch==2.13.0 numpy``, then ``pip install --no-deps fedml==0.9.6``.  T = n/2 as FedML has it, U = n − dropouts.

usage: OMP_NUM_THREADS=1 DIR/fedml/bin/python benchmarks/peers/fedml_masking.py --clients 100 --dim 1000000 --dropout 0.1 --reps 3
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import time
from statistics import median

import numpy as np

PRIME = 2**15 - 19


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--dim", type=int, default=1_000_000)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--reps", type=int, default=3)
    given = parser.parse_args()
    path = importlib.metadata.distribution("fedml").locate_file("fedml/core/mpc/lightsecagg.py")
    spec = importlib.util.spec_from_file_location("fedml_lightsecagg", str(path))
    if spec is None or spec.loader is None:
        raise SystemExit(f"no module at {path}")
    mpc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mpc)
    n, noise = given.clients, given.clients // 2
    u = n - int(n * given.dropout)
    padded = -(-given.dim // (u - noise)) * (u - noise)
    encoding, decoding, exact = list[float](), list[float](), True
    helpers = np.arange(n - u, n)
    for _ in range(given.reps):
        began = time.process_time()
        mask = np.random.randint(PRIME, size=(padded, 1))  # noqa: NPY002  (as FedML draws it)
        shares = mpc.mask_encoding(padded, n, u, noise, PRIME, mask)
        encoding.append(time.process_time() - began)
        held = np.stack([shares[j] for j in helpers])
        alpha, beta = np.arange(n) + 1, np.arange(u) + n + 1
        began = time.process_time()
        opened = mpc.LCC_decoding_with_points(held, alpha[helpers], beta, PRIME)
        decoding.append(time.process_time() - began)
        exact &= bool((opened.reshape(-1, 1)[: given.dim] == mask[: given.dim]).all())
    print(json.dumps({"exact": exact, "U": u, "T": noise, "encode_s": median(encoding), "decode_s": median(decoding)}))


if __name__ == "__main__":
    main()
