"""The kernel of key-additive masking beside its floors: one party's encryption and the server's opening, one core.

    taskset -c 0 python benchmarks/kahe.py --clients 100 --dim 1000000

The floor is what the arithmetic cannot do without, bare and in reused memory, for as many elements: elementwise products with the
kept public transforms, inverse transforms, and for a party the keystream of its errors.  Both run by turns in one process; each
figure is a median of CPU seconds, each ratio one of medians.
"""

from __future__ import annotations

import json as dumper
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from scipy import fft

from protocols.kahe_parameters import KaheParameters
from protocols.lanes import by_rows
from protocols.primitives import negacyclic, rlwe
from protocols.rand import fresh
from protocols.vector import Vector, signed

SIDES = ("party", "opening")


def transforms(public: negacyclic.Elements, split: negacyclic.Limbs, count: int) -> list[NDArray[np.complex128]]:
    """The kept transforms of the first elements: those that the kernel reads."""
    chunk, room = negacyclic.CHUNK, negacyclic.Room.of(split)
    return [public.spectra(split, first, room).limbs[:, : count - first] for first in range(0, count, chunk)]


def kernel_floor(p: KaheParameters, public: negacyclic.Elements, side: str) -> Callable[[], object]:
    """A function that does the bare arithmetic of one side, chunk by chunk as the kernel does it, so that it stays in cache."""
    split = p.limbs[SIDES.index(side)]
    kept = transforms(public, split, p.shape.elements)
    short = kept[0][0, 0].copy()
    work = np.empty(kept[0].size, np.complex128)
    words, stream = np.empty((negacyclic.CHUNK, negacyclic.DEGREE), np.uint64), fresh().stream("floor")

    @by_rows()
    def run() -> None:
        for limbs in kept:
            products = work[: limbs.size].reshape(limbs.shape)
            np.multiply(limbs, short, out=products)
            fft.ifft(products, axis=-1, norm="forward", overwrite_x=True)
            if side == "party":
                stream.fill(words[: limbs.shape[1]])

    return run


def kernel(p: KaheParameters, x: NDArray[np.int64], public: negacyclic.Elements) -> dict[str, Callable[[], object]]:
    """What is measured: by name a function without arguments."""
    shape, coefficients = p.shape, np.empty(p.shape.coefficients, p.shape.ring.dtype)

    def encrypt(out: NDArray[Any]) -> None:
        write = rlwe.encrypt(shape, public, rlwe.Key.draw(fresh()), signed(Vector(x), p.size, p.max_abs), fresh())
        for start in range(0, out.size, 8 * negacyclic.CHUNK * negacyclic.DEGREE):
            write(start, out[start : start + 8 * negacyclic.CHUNK * negacyclic.DEGREE])

    def packed() -> None:
        values = signed(Vector(x), p.size, p.max_abs)
        shape.ring.pack_by(shape.coefficients, rlwe.encrypt(shape, public, rlwe.Key.draw(fresh()), values, fresh()))

    key = rlwe.Key.draw(fresh())
    total = np.empty_like(coefficients)
    rlwe.encrypt(shape, public, key, signed(Vector(x), p.size, p.max_abs), fresh())(0, total)
    return {
        "party_floor": kernel_floor(p, public, "party"),
        "party": lambda: encrypt(coefficients),
        "party_packed": packed,
        "opening_floor": kernel_floor(p, public, "opening"),
        "opening": lambda: rlwe.open_sum(shape, public, total, key.coefficients, 1),
    }


def measure(p: KaheParameters, repeat: int) -> Mapping[str, float]:
    """Median CPU seconds by name, measured by turns after one turn that is not counted."""
    public = negacyclic.Elements("benchmark")
    words = fresh().words("x", p.size)
    x = (words % np.uint64(2 * p.max_abs + 1)).astype(np.int64) - p.max_abs
    room, started = negacyclic.Room.of(p.limbs[0]), time.process_time()
    for first in range(0, p.shape.elements, negacyclic.CHUNK):
        public.spectra(p.limbs[0], first, room)
    setup = time.process_time() - started
    tasks = kernel(p, x, public)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeat + 1):
        for name, task in tasks.items():
            started = time.process_time()
            task()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {"expansion": setup, **{name: median(values) for name, values in seconds.items()}}


def main(
    clients: Annotated[int, typer.Option(help="n.", min=2)] = 100,
    dim: Annotated[int, typer.Option(help="d.", min=1)] = 1_000_000,
    precision: Annotated[int, typer.Option(help="Bits of a value.", min=2)] = 16,
    repeat: Annotated[int, typer.Option(help="Turns.", min=1)] = 15,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure the kernel and its floors."""
    p = KaheParameters.of(clients, dim, 2 ** (precision - 1) - 1)
    found = measure(p, repeat)
    ratios = {side: found[side] / found[f"{side}_floor"] for side in SIDES}
    if json:
        print(dumper.dumps({"clients": clients, "dim": dim, "wire": p.wire, "seconds": found, "over_floor": ratios}))
        return
    print(f"n = {clients}, d = {dim}: W = {p.width}, P = {p.digits}, ℓ = {p.wire}, {p.bits_per_value:g} bits a value")
    for name, value in found.items():
        print(f"{name:14s} {1000 * value:9.2f} ms" + (f"   {ratios[name]:.2f} × its floor" if name in ratios else ""))


if __name__ == "__main__":
    typer.run(main)
