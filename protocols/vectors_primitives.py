"""Primitives as test vectors: one file each, every operation with what is given and what comes out, or the check that refuses it.

Bytes are hex, numbers are integers, as text from 2^53 on.  What our own side refuses as wrong use has the check ``misuse``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from protocols.errors import Misuse, Refused
from protocols.primitives import shamir
from protocols.rand import Replay
from protocols.vectors_operations import Given, did
from protocols.vectors_tree import FORMAT, Tree
from protocols.wire import canonical

PRIMITIVES = "primitives"
"""What stands for the primitives where a protocol is named."""
_b = bytes.fromhex


# What is given


def _hex(label: str, size: int = 32) -> str:
    return Replay("securefl vectors primitives")().bytes(label, size).hex()


def _flipped(data: str, at: int = 0) -> str:
    raw = bytearray(_b(data))
    raw[at] ^= 1
    return raw.hex()


def _ring() -> Iterator[tuple[str, Given]]:
    for bits in (2, 13, 16, 23, 32, 33, 61, 64):
        values = [(1 << bits) - 1, 0, 1, 1 << (bits - 1), 5 % (1 << bits)]
        yield "pack", {"bits": bits, "values": values}
        yield "unpack", {"bits": bits, "count": 5, "data": did("pack", bits=bits, values=values)["bytes"]}
    for bits, count in ((23, 70), (23, 262144), (23, 262144 + 37), (61, 2 * 262144 + 65)):
        yield "pack_steps", {"bits": bits, "step": 2654435761 % (1 << bits), "count": count}
    data = did("pack", bits=23, values=[1, 2, 3, 4, 5])["bytes"]
    for bad in (data[:-2], data + "00", data[:-2] + "80", ""):
        yield "unpack", {"bits": 23, "count": 5, "data": bad}
    for bits in (31, 61):
        for top in (2**bits - 2, 2**bits - 1):
            yield "unpack_field", {"bits": bits, "count": 3, "data": did("pack", bits=bits, values=[0, top, 1])["bytes"]}


def _rand() -> Iterator[tuple[str, Given]]:
    for step in (1, 2, 3):
        yield "step_seed", {"root": _hex("root"), "step": step}
    for label, size in (("c_sk", 32), ("", 5), ("blocks", 70)):
        yield "draw", {"seed": _hex("seed"), "label": label, "size": size}
    for bound in (1, 2, 5, 256, shamir.P):
        yield "below", {"seed": _hex("seed"), "label": "below", "bound": bound, "count": 4}
    yield "below", {"seed": _hex("seed"), "label": "below", "bound": 0, "count": 1}


def _masks() -> Iterator[tuple[str, Given]]:
    for word in (32, 64):
        yield "expand", {"key": _hex("key"), "size": 9, "word": word}
    keys = [_hex(f"key {i}") for i in range(3)]
    for bits in (16, 32, 40):
        yield "mask", {"bits": bits, "values": [0, 1, 2, 3, 2**bits - 1], "plus": keys[:2], "minus": keys[2:]}
    yield "mask", {"bits": 16, "values": [7, 8], "plus": keys[:1], "minus": keys[:1]}


def _agreement() -> Iterator[tuple[str, Given]]:
    alice, bob = _hex("alice"), _hex("bob")
    theirs, info = did("public_key", secret=bob)["public"], canonical(["pair", b"sid", 1, 2]).hex()
    for secret in (alice, bob):
        yield "public_key", {"secret": secret}
    yield "exchange", {"secret": alice, "public": theirs, "info": info}
    yield "exchange", {"secret": bob, "public": did("public_key", secret=alice)["public"], "info": info}
    prime = 2**255 - 19
    for u in (0, 1, prime - 1, prime, prime + 1, 2**255 - 1, 2**255 + 9):
        yield "exchange", {"secret": alice, "public": u.to_bytes(32, "little").hex(), "info": ""}
    order8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
    for public in (order8, theirs[:-2], theirs + "00"):
        yield "exchange", {"secret": alice, "public": public, "info": ""}


def _boxes() -> Iterator[tuple[str, Given]]:
    key, aad, plaintext = _hex("key"), canonical([b"sid", 1, 2]).hex(), _hex("plaintext", 70)
    box = did("seal", key=key, plaintext=plaintext, aad=aad)["box"]
    yield "seal", {"key": key, "plaintext": plaintext, "aad": aad}
    yield "seal", {"key": key, "plaintext": "", "aad": ""}
    yield "unseal", {"key": key, "box": box, "aad": aad}
    for bad in (
        {"box": _flipped(box)},
        {"box": _flipped(box, -1)},
        {"box": box[:-2]},
        {"box": ""},
        {"aad": ""},
        {"key": _flipped(key)},
    ):
        yield "unseal", {"key": key, "box": box, "aad": aad} | bad


def _signatures() -> Iterator[tuple[str, Given]]:
    seed, content = _hex("identity"), canonical(["agree", b"sid", 1, b"L", [1, 2]]).hex()
    made = did("sign", seed=seed, content=content)
    good = {"public": made["public"], "signature": made["signature"], "content": content}
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(_b(made["signature"])[32:], "little") + order
    yield "sign", {"seed": seed, "content": content}
    yield "verify", good
    for name, value in good.items():
        yield "verify", good | {name: _flipped(value)}
    yield "verify", good | {"signature": made["signature"][:64] + s.to_bytes(32, "little").hex()}
    yield "verify", good | {"signature": made["signature"][:-2]}


def _secret_sharing() -> Iterator[tuple[str, Given]]:
    secret, seed = _hex("secret"), _hex("seed")
    for t, xs in ((1, [1, 2]), (2, [1, 2, 3]), (3, [1, 2, 4, 7]), (4, [16384, 3, 2, 9])):
        given: Given = {"secret": secret, "threshold": t, "xs": xs, "seed": seed, "label": "share b"}
        yield "share", given
        yield "combine", {"xs": xs[-t:], "shares": did("share", **given)["shares"][-t:]}
    for t, xs in ((4, [1, 2, 3]), (2, [1, 1]), (2, [0, 1]), (0, [1, 2])):
        yield "share", {"secret": secret, "threshold": t, "xs": xs, "seed": seed, "label": "share b"}
    shares = did("share", secret=secret, threshold=2, xs=[1, 2], seed=seed, label="share b")["shares"]
    past, high = shamir.P.to_bytes(33, "big").hex(), (2**256).to_bytes(33, "big").hex()
    for bad in ([past, shares[1]], [shares[0][2:], shares[1]], [shares[0]], [high, high]):
        yield "combine", {"xs": [1, 2], "shares": bad}
    yield "combine", {"xs": [1, 2], "shares": [_flipped(shares[0], -1), shares[1]]}


def _graph() -> Iterator[tuple[str, Given]]:
    seed, graph = _hex("ring", 64), [8, 4, 3, 80, 0]
    for parties in (8, 100):
        yield "ring_order", {"parties": parties, "seed": seed}
    everybody = list(range(1, 9))
    for index, members in ((1, everybody), (5, everybody), (5, [1, 3, 5, 7])):
        yield "holders", {"graph": graph, "index": index, "members": members, "seed": seed}
    for present in (everybody, [1, 3, 6], [1, 2, 3, 5, 7, 8]):
        yield "thin_place", {"graph": graph, "present": present, "seed": seed}
    for n, corrupt, dropouts, sigma in ((1000, 100, 100, 80), (1000, 100, 100, 40), (500, 50, 25, 80), (100, 40, 40, 80)):
        yield "degree", {"parties": n, "corrupt": corrupt, "dropouts": dropouts, "security": sigma}
    for bad in ([8, 3, 3, 80, 0], [8, 8, 3, 80, 0], [8, 4, 5, 80, 0], [8, 4, 3, 80, 2]):
        yield "holders", {"graph": bad, "index": 1, "members": everybody, "seed": seed}


def _field() -> Iterator[tuple[str, Given]]:
    for bits in (31, 61):
        q = 2**bits - 1
        yield "multiply", {"bits": bits, "one": [1, 2, q - 1, q // 3], "other": [q - 1, q - 1, q - 1, 12345]}
        yield "uniform", {"bits": bits, "seed": _hex("seed"), "label": "blocks", "count": 6}
        rows = [[1, 2], [3, q - 4], [q // 2, 6]]
        yield "code", {"bits": bits, "sources": [5, 6, 7], "targets": [1, 2, 3, 4], "rows": rows}
        yield "code", {"bits": bits, "sources": [5, 6], "targets": [6, 7], "rows": rows[:2]}
        fits = [(7 + 5 * x) % q for x in range(1, 7)]
        for wrong in ((), (2,), (2, 5), (1, 2, 5)):
            values = [value + (x in wrong) * 1000 for x, value in enumerate(fits, 1)]
            yield "misfits", {"bits": bits, "points": list(range(1, 7)), "values": values, "degree": 2}
        yield "multiply", {"bits": bits, "one": [0], "other": [1]}
    yield "multiply", {"bits": 32, "one": [1], "other": [1]}


def _wire() -> Iterator[tuple[str, Given]]:
    roster = [[f"party-{u}", _hex(f"identity {u}")] for u in (1, 2, 3)]
    base = {"suite": "suite", "occasion": ["run", 0, 0, "00" * 32], "roster": roster, "parameters": [3, 5, 100, 16, 2, 0]}
    yield "session_id", base
    for change in ({"occasion": ["run", 1, 0, "00" * 32]}, {"roster": roster[::-1]}, {"parameters": [3, 5, 100, 16, 3, 0]}):
        yield "session_id", base | change
    yield "session_id", base | {"roster": roster[:2]}
    signature = bytes(range(64))
    masked = _framed(["Masked", 0, bytes(32), signature]) + did("pack", bits=16, values=[1, 2, 3])["bytes"]
    for data in (_framed(["Agree", 0, signature]), _framed(["Agree", 1, signature]), _framed(["Dropped", 0, [2, 3]]), masked):
        yield "decode", {"parties": 4, "data": data}
    plain, agree_ = canonical(["Agree", 0, signature]), _framed(["Agree", 0, signature])
    for control in (
        b"\x98\x03" + plain[1:],  # a longer length
        b"\x9f" + plain[1:] + b"\xff",  # indefinite
        plain.replace(b"\x00", b"\x18\x00", 1),  # a longer integer
        plain + b"\x00",
        b"\xd9\xd9\xf7" + plain,  # a tag
        b"\xc1\x1a\x00\x00\x00\x00",
        canonical({"Agree": 0}),
        canonical(["Agree", 0.0, signature]),
        canonical(["Agree", -1, signature]),
        canonical(["Agree", 2**32, signature]),
        canonical(["Nobody", 0, signature]),
        canonical(["Agree", 0]),
        canonical(["Agree", 0, signature[1:]]),
        canonical(["Agree", 0, signature.decode("latin-1")]),
        canonical(["Dropped", 0, [0]]),
        canonical(["Dropped", 0, [16385]]),
        canonical(["Dropped", 0, [1, 2, 3, 4, 5]]),
        canonical(["Dropped", 0, [True]]),
        b"",
    ):
        yield "decode", {"parties": 4, "data": (len(control).to_bytes(4, "little") + control).hex()}
    for data in (agree_ + "00", agree_[:-2], agree_[:6], "ffffffff", masked + "00", masked[:-2], masked[:-2] + "80"):
        yield "decode", {"parties": 4, "data": data}


def _framed(tree: list[Any]) -> str:
    control = canonical(tree)
    return (len(control).to_bytes(4, "little") + control).hex()


CASES: Mapping[str, tuple[str, Callable[[], Iterator[tuple[str, Given]]]]] = {
    "primitives_rand": ("labelled randomness from a seed", _rand),
    "primitives_ring": ("values of Z_2^b and of prime fields, packed to their width", _ring),
    "primitives_masks": ("keystreams, and masks on a vector", _masks),
    "primitives_agreement": ("X25519 and HKDF-SHA256; bad public keys", _agreement),
    "primitives_boxes": ("AES-256-GCM with one key a box", _boxes),
    "primitives_signatures": ("Ed25519", _signatures),
    "primitives_shamir": ("Shamir's secret sharing over the first prime above 2^256", _secret_sharing),
    "primitives_graph": ("the Harary graph on a random order; degree and threshold", _graph),
    "primitives_field": ("prime fields, Lagrange coding, wrong points", _field),
    "primitives_wire": ("session identity; messages, well and badly formed", _wire),
}


# Files


def primitive_tree(case: str) -> Tree:
    """The file of one primitive.

    Raises:
        Misuse: for a case that does not exist.
    """
    if case not in CASES:
        raise Misuse(f"no primitive {case!r}; there are {', '.join(CASES)}")
    about, source = CASES[case]
    operations = [_operation(name, given) for name, given in source()]
    tree = {"format": FORMAT, "case": case, "about": about, "protocol": PRIMITIVES, "operations": operations}
    return {key: _exact(value) for key, value in tree.items()}


def _exact(value: Any) -> Any:
    """Integers of 2^53 and more as text: many readers of JSON take numbers for floats."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return str(value) if type(value) is int and abs(value) >= 2**53 else value


def _operation(name: str, given: Given) -> Tree:
    out: Tree = {"operation": name, "given": given}
    try:
        return out | {"success": True, "result": did(name, **given)}
    except Refused as error:
        return out | {"success": False, "check": error.check}
    except Misuse:
        return out | {"success": False, "check": "misuse"}


def primitive_trees() -> Iterator[tuple[str, Tree]]:
    """Every file of a primitive, by name."""
    for case in CASES:
        yield case, primitive_tree(case)
