"""One secure sum, measured: CPU seconds by step, bytes by message, the server's peak memory, and the floor in the same process.

    python benchmarks/secure_sum.py --protocol secagg+ --clients 100 --dim 1000000 --dropout 0.1 --degree 30 --threshold 16 --json

The floor of masking is the AES-256-CTR keystream for the bytes of mask that a step had to make, 4 a value for rings of up to 32
bits, and the bare additions of so many bytes.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rounds import Measured, floor, measure

from protocols import degree, sums
from protocols.primitives.graph import Harary
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import SumParameters, default_threshold, ring_bits


def build(
    protocol: str,
    clients: int,
    dim: int,
    *,
    max_abs: int = 32767,
    corrupt: int | None = None,
    dropouts: int | None = None,
    security: int = degree.SECURITY,
    semi_honest: bool = False,
    graph: tuple[int, int] | None = None,
) -> SumParameters:
    """Parameters of a measured sum; ``graph`` is a degree and threshold of one's own, safe against nobody's collusion."""
    if protocol != "secagg+":
        return sums.scheme(protocol).parameters(clients, dim, max_abs, corrupt=corrupt)
    if graph is None:
        return Parameters.sparse(
            clients, dim, max_abs, corrupt=corrupt, dropouts=dropouts, security=security, semi_honest=semi_honest
        )
    k, t = graph
    ring = Ring(ring_bits(clients, max_abs))
    return Parameters(clients, dim, max_abs, ring, default_threshold(clients, 0), 0, Harary(clients, k, t, 40, 0))


def report(out: Measured, parameters: SumParameters) -> dict[str, Any]:
    """The measured sum as plain values."""
    rows: dict[str, Any] = {
        "exact": out.exact,
        "client_cpu_s_median": {step: round(out.median(step), 6) for step in out.client_s},
        "server_cpu_s": {step: round(value, 6) for step, value in out.server_s.items()},
        "server_cpu_s_total": round(sum(out.server_s.values()), 6),
        "messages": {kind: {"count": count, "bytes": size} for kind, (count, size) in out.sent.items()},
        "upload_bytes": out.upload,
        "upload_ratio": round(out.upload / (parameters.ring.bits * parameters.size / 8), 4),
        "server_peak_bytes": out.server_peak,
    }
    if out.masks and isinstance(parameters, Parameters):
        width = 4 if parameters.ring.bits <= 32 else 8
        mask = floor(out.masks, width * parameters.size, out.beside)
        unmask = floor(out.streams, width * parameters.size)
        rows["floor"] = {
            "mask_keystream_s": round(mask[0], 6),
            "mask_additions_s": round(mask[1], 6),
            "mask_ratio": round(out.median("mask") / mask[0], 3),
            "unmask_keystream_s": round(unmask[0], 6),
            "unmask_additions_s": round(unmask[1], 6),
            "unmask_ratio": round(out.server_s["reveal"] / unmask[0], 3),
        }
    return rows


def main(
    protocol: Annotated[str, typer.Option(help="Protocol.")] = "secagg",
    clients: Annotated[int, typer.Option(help="Invited parties.", min=2)] = 100,
    dim: Annotated[int, typer.Option(help="Values of a vector.", min=1)] = 100_000,
    dropout: Annotated[
        float, typer.Option(help="Share of the parties that vanish before their vector leaves.", min=0, max=0.9)
    ] = 0.0,
    degree_: Annotated[int | None, typer.Option("--degree", help="secagg+: a degree of one's own, with --threshold.")] = None,
    threshold: Annotated[int | None, typer.Option(help="secagg+: shares that rebuild a secret.")] = None,
    corrupt: Annotated[float, typer.Option(help="Corrupt share of the parties.", min=0, max=0.5)] = 0.1,
    tolerate: Annotated[float, typer.Option(help="secagg+: dropout share that the graph must stand.", min=0, max=0.8)] = 0.1,
    sigma: Annotated[int, typer.Option(help="secagg+: bits of security.", min=1, max=128)] = degree.SECURITY,
    semi_honest: Annotated[bool, typer.Option(help="secagg+: trust the server to follow the protocol.")] = False,
    few: Annotated[bool, typer.Option(help="Measure five parties and the server; the others share their public work.")] = False,
    memory: Annotated[bool, typer.Option(help="Trace the server's allocations; seconds are then of no use.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure one secure sum in one process."""
    if (degree_ is None) != (threshold is None):
        raise typer.BadParameter("--degree and --threshold go together")
    parameters = build(
        protocol,
        clients,
        dim,
        corrupt=int(corrupt * clients),
        dropouts=int(tolerate * clients),
        security=sigma,
        semi_honest=semi_honest,
        graph=None if degree_ is None or threshold is None else (degree_, threshold),
    )
    rows = report(measure(protocol, parameters, dropout=dropout, memory=memory, alone=range(2, 7) if few else None), parameters)
    if as_json:
        print(json.dumps({"protocol": protocol, "clients": clients, "dim": dim, "dropout": dropout, **rows}))
        return
    for key, value in rows.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    typer.run(main)
