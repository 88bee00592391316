"""Primitives as test vectors: how an operation is written down, whatever it is."""

from __future__ import annotations

import pytest

from protocols import vectors_primitives
from protocols.vectors_primitives import primitive_tree
from protocols.vectors_tree import same


def test_numbers_that_readers_take_for_floats_are_text_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"numbers": [0, True, 2**53 - 1, 2**53, 2**53 + 1, [1 - 2**53, -(2**53)]], "least": 2**53}
    written = {"numbers": [0, True, 2**53 - 1, str(2**53), str(2**53 + 1), [1 - 2**53, str(-(2**53))]], "least": str(2**53)}
    monkeypatch.setattr(vectors_primitives, "did", lambda _name, **given: given)
    monkeypatch.setattr(vectors_primitives, "CASES", {"own": ("numbers", lambda: iter([("any", given)]))})
    (operation,) = primitive_tree("own")["operations"]
    assert same(operation, {"operation": "any", "given": written, "success": True, "result": written})
