"""Published test vectors, as PyPI's ``cryptography-vectors`` has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors

VECTORS = Path(cryptography_vectors.__file__).parent


def cases(path: str, first: str = "COUNT") -> Iterator[dict[str, str]]:
    """The cases of a NIST or RFC style file, each beginning with the field ``first``; names in capitals."""
    case: dict[str, str] = {}
    for line in (VECTORS / path).read_text().splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name.startswith("["):
            continue
        if name.upper() == first and case:
            yield case
            case = {}
        case[name.upper()] = value
    yield case
