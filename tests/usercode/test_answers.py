"""Whatever a child writes, it is a frame that was asked for, or named and refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import rows
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.wire import canonical
from securefl import UserError
from securefl.models import from_vector, to_vector
from securefl.usercode import process, remote, shell
from securefl.usercode.frames import MOST_HEAD, SIZES, CodeFault, packed, read
from securefl.usercode.isolation import Isolation
from securefl.usercode.process import Child

LIAR = """
import os, struct, sys
sys.path[:0] = {paths!r}
from securefl.usercode.frames import SIZES, packed
from protocols.wire import canonical
import numpy as np

def take(count):
    found = b""
    while len(found) < count:
        got = os.read(0, count - len(found))
        if not got:
            os._exit(0)
        found += got
    return found

def put(parts):
    data = b"".join(map(bytes, parts))
    while data:
        data = data[os.write(1, data):]

def asked():
    head, body = SIZES.unpack(take(SIZES.size))
    take(head)
    take(body)

put(packed({{"ready": True}}, {{}}))
asked()
put(packed({start}, {{}}))
while True:
    asked()
    put({answer})
"""
D = 5
START = {"parameters": [["weight", [1, 4]], ["bias", [1]]], "own": []}
GRADIENTS = ("float32", (6, D))


def liar(answer: str, start: object = START) -> Child:
    """A child that answers so, whatever it is asked."""
    from pathlib import Path

    folder = str(Path(process.__file__).parents[2])
    child = Child({"files": {}, "entry": "a:b", "learning_rate": 0.5}, Isolation(step=10.0))
    child_program = ["-c", LIAR.format(paths=[folder], start=repr(start), answer=answer)]
    child._isolation = Told(child_program)  # type: ignore[assignment]
    return child


class Told(Isolation):
    def __init__(self, program: list[str], step: float = 10.0) -> None:
        super().__init__(step=step)
        object.__setattr__(self, "program", program)

    def command(self, _program: list[str], calls: int | None = None) -> list[str]:
        return super().command(self.program, calls)  # type: ignore[attr-defined]


def gradients(child: Child) -> Any:
    x, y = rows()
    return child.ask("gradients", {}, {"vector": np.zeros(D, np.float32), "x": x, "y": y}, {"gradients": GRADIENTS})["gradients"]


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ("packed({}, {'gradients': np.zeros((6, 5), np.float32)})", ""),
        ("packed({}, {'gradients': np.zeros((5, 6), np.float32)})", "code-answer"),
        ("packed({}, {'gradients': np.zeros((6, 5), np.float64)})", "code-answer"),
        ("packed({}, {'gradients': np.zeros((6, 5), np.float32), 'more': np.zeros(1)})", "code-answer"),
        ("packed({}, {})", "code-answer"),
        ("[SIZES.pack(2**31, 0)]", "code-frame"),
        ("[SIZES.pack(3, 2**62), b'abc']", "code-frame"),
        ("[SIZES.pack(len(h := canonical([{}, [['gradients', 'float32', [6, 5]]]])), 2**50), h]", "code-frame"),
        ("[SIZES.pack(len(h := canonical([{}, [['gradients', 'object', [6, 5]]]])), 240), h, bytes(240)]", "code-frame"),
        ("[SIZES.pack(len(h := canonical([{}, [['gradients', 'float32', [-6, -5]]]])), 120), h, bytes(120)]", "code-frame"),
        ("[SIZES.pack(len(h := canonical([{}, [[1, 2]]])), 0), h]", "code-frame"),
        ("[SIZES.pack(1, 0), b'\\xff']", "code-frame"),
        ("[b'short'] if os.write(1, SIZES.pack(9, 9)) and not os.close(1) else []", "code-gone"),
        ("packed({'error': 'x' * 9000 + chr(27) + '[2J'}, {})", "code-error"),
        ("os._exit(0)", "code-gone"),
    ],
)
def test_a_child_that_answers_something_else_is_named(answer: str, check: str) -> None:
    child = liar(answer)
    try:
        if not check:
            assert (gradients(child) == 0).all()
            return
        with pytest.raises(CodeFault) as found:
            gradients(child)
        assert found.value.check == check
        assert len(found.value.detail) < 500
        assert found.value.detail.isprintable()
        if check != "code-error":
            assert child._process is None  # it is not asked again
    finally:
        child.end()


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"parameters": 3},
        {"parameters": []},
        {"parameters": [["weight", [1, -4]]]},
        {"parameters": [["weight", [2**20, 2**20]]]},
        {"parameters": [["weight", [4]], ["weight", [4]]]},
        {"parameters": [["a.b", [4]], ["a", [4]]]},
        {"parameters": [["a.b", [4]], ["c", [4]], ["a.d", [1]]]},
        {"parameters": [["", [4]]]},
        {"parameters": [["forward", [4]]]},
        {"parameters": [["weight", [True]]]},
        {"parameters": [["weight\x1b[2J", [4]]]},
    ],
)
def test_parameters_that_no_model_has_are_refused(told: dict[str, Any]) -> None:
    code = remote.Code({"m.py": ""}, "m:build", Isolation(), 0.5)
    child = liar("packed({}, {'vector': np.zeros(4, np.float32)})", told)
    code._children["training"] = child
    try:
        with pytest.raises(CodeFault) as found:
            code.template()
        assert found.value.check == "code-parameters"
        assert found.value.detail.isprintable()
    finally:
        code.close()


@pytest.mark.parametrize(
    ("what", "answer", "check"),
    [
        ("train", "packed({}, {'vector': np.full(5, np.nan, np.float32)})", "code-finite"),
        ("train", "packed({}, {'vector': np.full(5, np.inf, np.float32)})", "code-finite"),
        ("template", "packed({}, {'vector': np.full(5, np.nan, np.float32)})", "code-finite"),
        ("scores", "packed({}, {'scores': np.full(6, 1.5)})", "code-score"),
        ("scores", "packed({}, {'scores': np.full(6, np.nan)})", "code-score"),
    ],
)
def test_numbers_that_are_none_are_refused(what: str, answer: str, check: str) -> None:
    import torch
    from torch.utils.data import TensorDataset

    from securefl.privacy.plain import PlainTraining

    code = remote.Code({"m.py": ""}, "m:build", Isolation(), 0.5)
    code._children |= {name: liar(answer) for name in ("training", "held-out")}
    trainer, data = remote.RemoteTrainer(code), TensorDataset(*map(torch.from_numpy, rows()))
    model = shell.shell_of([("weight", (1, 4)), ("bias", (1,))])
    from_vector(model, np.ones(D, dtype=np.float32))
    asked: dict[str, Callable[[], object]] = {
        "train": lambda: trainer.train(model, data, PlainTraining(sample_rate=1.0), 1),
        "template": code.template,
        "scores": lambda: trainer.scores(model, data),
    }
    try:
        with pytest.raises(CodeFault) as found:
            asked[what]()
        assert found.value.check == check
        assert (to_vector(model) == 1).all()
    finally:
        trainer.close()


def reader(data: bytes) -> Callable[[int], bytearray]:
    left = [data]

    def take(count: int) -> bytearray:
        assert count <= MOST_HEAD + len(data), "more is asked for than a bound allows"
        if count > len(left[0]):
            raise CodeFault("code-gone", "no more bytes")
        found, left[0] = left[0][:count], left[0][count:]
        return bytearray(found)

    return take


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


HEADS = st.one_of(
    st.binary(max_size=60), TREES.map(canonical), TREES.map(lambda tree: canonical([{}, [["v", "float32", tree]]]))
)  # fmt: skip
SIZED = st.one_of(st.none(), st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)))


@given(head=HEADS, body=st.binary(max_size=40), sizes=SIZED)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_frame_that_was_asked_for_or_a_fault(head: bytes, body: bytes, sizes: tuple[int, int] | None) -> None:
    data = SIZES.pack(*(sizes or (len(head), len(body)))) + head + body
    try:
        facts, arrays = read(reader(data), lambda _facts: {"v": ("float32", (2,))})
    except CodeFault as error:
        fault = error.check
    else:
        fault = "" if isinstance(facts, dict) and arrays["v"].shape == (2,) else "wrong"
    assert fault in {"", "code-frame", "code-answer", "code-gone"}


@given(
    st.lists(st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]), max_size=3), st.lists(st.integers(0, 3), max_size=3)
)
def test_frames_carry_arrays_as_they_are(dtypes: list[str], shape: list[int]) -> None:
    arrays = {f"a{i}": np.ones(shape, dtype=dtype) * (i + 1) for i, dtype in enumerate(dtypes)}
    arrays = {name: values.astype(dtype) for (name, values), dtype in zip(arrays.items(), dtypes, strict=True)}
    facts, found = read(reader(b"".join(map(bytes, packed({"x": 1}, arrays)))), lambda _facts: None)
    assert facts == {"x": 1}
    assert {name: (v.dtype, v.shape) for name, v in found.items()} == {name: (v.dtype, v.shape) for name, v in arrays.items()}
    assert all((found[name] == values).all() for name, values in arrays.items())


def test_a_name_that_leads_out_of_the_childs_folder_is_refused() -> None:
    for name in ("../x.py", "/x.py", "a/../../x.py", "a\\b.py", "a\n.py"):
        with pytest.raises(UserError, match="a relative path is allowed"):
            remote.Code({name: ""}, "m:build", Isolation(), 0.5)
    for entry in ("m", "m:", "m:a b", "m;x:y", ":y"):
        with pytest.raises(UserError, match="module:function is allowed"):
            remote.Code({}, entry, Isolation(), 0.5)


def test_what_is_no_model_file_is_told() -> None:
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 40):
        with pytest.raises(UserError, match="is no file of model_file"):
            remote.Code({}, "m:build", Isolation(), 0.5, content).template()
