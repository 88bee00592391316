"""Protocols of other packages: found by name, loaded when asked for, held to the seam's terms, and never in place of ours."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_package import SOURCE, install

from protocols import admission, plugins, secure_sum, simulate, sums
from protocols.errors import Abort, Misuse
from protocols.flow import Flow, Inbox, Output, Port
from protocols.plugins import Origin
from protocols.policy import Policy
from protocols.schema import Message, Span
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, client
from protocols.suite import SECAGG, Occasion
from protocols.vector import Sum, Vector

MODULES = ("ring_protocol", "other_protocol")
VECTORS = [[u, 10 * u, -(2**u)] for u in range(1, 5)]


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has its own packages, and leaves none."""
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_loaded", {})
    for module in MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package for one test."""

    def put(*args: Any, name: str = "", **options: Any) -> None:
        monkeypatch.syspath_prepend(install(tmp_path / (name or "first"), *args, name=name, **options))

    return put


@pytest.fixture
def toy(put: Callable[..., None]) -> ModuleType:
    """The module of the toy, installed without an entry point."""
    put({})
    return importlib.import_module("ring_protocol")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(Misuse) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_package_s_protocol_runs_by_its_name(put: Callable[..., None]) -> None:
    put()
    assert sums.names() == (*sums.SCHEMES, "ring")
    total = secure_sum(VECTORS, max_abs=100, protocol="ring")
    assert (total.values.tolist(), total.contributors) == ([sum(column) for column in zip(*VECTORS, strict=True)], 4)
    ring = sums.scheme("ring")
    assert ring.origin == Origin("ring-protocol", "0.1", "ring_protocol:SCHEME")
    assert sums.scheme("ring") is ring
    assert "ring-protocol 0.1 (ring_protocol:SCHEME)" in sums.foreign(ring)


def test_names_of_ours_are_those_that_no_plug_in_takes() -> None:
    assert tuple(sums.SCHEMES) == plugins.BUILT_IN
    assert all(name == one.name and one.origin is None and not sums.foreign(one) for name, one in sums.SCHEMES.items())


@given(st.integers(3, 6), st.integers(1, 40), st.integers(1, 10**6), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_its_sum_is_that_of_the_plain_protocol(toy: ModuleType, n: int, d: int, most: int, data: st.DataObject) -> None:
    sums.register(toy.SCHEME, again=True)
    values = st.lists(st.integers(-most, most), min_size=d, max_size=d)
    vectors = [np.array(data.draw(values), dtype=np.int64) for _ in range(n)]
    own, bare = (secure_sum(vectors, max_abs=most, protocol=name) for name in ("ring", "plain-insecure"))
    assert np.array_equal(own.values, bare.values)
    assert own.contributors == bare.contributors == n


def test_a_package_is_imported_when_its_protocol_is_asked_for_and_not_before(put: Callable[..., None]) -> None:
    put()
    sums.names()
    sums.scheme("secagg")
    assert "no protocol 'rong'" in refusal(lambda: sums.scheme("rong"))
    assert "ring_protocol" not in sys.modules
    sums.scheme("ring")
    assert "ring_protocol" in sys.modules


# Names


def test_a_package_that_offers_one_of_our_names_is_refused_by_name(put: Callable[..., None]) -> None:
    put({"secagg": "ring_protocol:SCHEME", "fedavg": "ring_protocol:SCHEME", "ring": "ring_protocol:SCHEME"})
    for ask in (lambda: sums.scheme("secagg"), lambda: secure_sum(VECTORS, max_abs=100)):
        assert refusal(ask) == (
            "the protocol 'secagg' is securefl's own, and ring-protocol 0.1 (ring_protocol:SCHEME) offers another by that name: "
            "remove that package"
        )
    assert sums.names() == (*sums.SCHEMES, "ring")
    assert sums.scheme("lightsecagg") is sums.SCHEMES["lightsecagg"]
    assert "ring_protocol" not in sys.modules


def test_control_unless_our_names_are_reserved_a_plug_in_runs_as_secagg(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the refusal ours still comes first; without that order the package's code runs under our name."""
    put({"secagg": "ring_protocol:SCHEME"}, source=SOURCE.replace('    "ring",\n', '    "secagg",\n'))
    seen = set[str]()
    run = lambda: secure_sum(VECTORS, max_abs=100, watch=lambda letter, *_: seen.add(type(letter.message).__name__))  # noqa: E731
    monkeypatch.setattr(plugins, "RESERVED", frozenset())
    monkeypatch.setattr(admission, "RESERVED", frozenset())
    run()
    assert "Masked" in seen
    assert "Padded" not in seen
    seen.clear()
    monkeypatch.setattr(sums, "SCHEMES", {name: one for name, one in sums.SCHEMES.items() if name != "secagg"})
    run()
    assert seen == {"Hello", "Beside", "Padded"}


def test_one_name_of_two_packages_is_refused_and_both_are_named(put: Callable[..., None]) -> None:
    put()
    put({"ring": "other_protocol:SCHEME"}, name="another-ring", module="other_protocol")
    line = refusal(lambda: sums.scheme("ring"))
    assert "another-ring 0.1 (other_protocol:SCHEME) and by ring-protocol 0.1 (ring_protocol:SCHEME)" in line
    assert sums.names().count("ring") == 1
    assert not {*MODULES} & {*sys.modules}


@pytest.mark.parametrize("name", ["Ring", "a" * 33, "two words", "[bold]x", "..", "ring\x1b"])
def test_names_that_are_none_are_neither_listed_nor_loaded(put: Callable[..., None], name: str) -> None:
    put({name: "ring_protocol:SCHEME"})
    assert sums.names() == tuple(sums.SCHEMES)
    assert refusal(lambda: sums.scheme(name)).startswith("no protocol ")
    assert "ring_protocol" not in sys.modules


def test_a_program_registers_its_own(toy: ModuleType, put: Callable[..., None]) -> None:
    made = sums.register(toy.SCHEME)
    assert made is sums.scheme("ring")
    assert made.origin == Origin()
    assert "this program" in sums.foreign(made)
    assert "registered already" in refusal(lambda: sums.register(toy.SCHEME))
    assert sums.register(toy.SCHEME, again=True) is sums.scheme("ring")
    plugins.unregister("ring")
    assert "no protocol 'ring'" in refusal(lambda: sums.scheme("ring"))
    put(name="another-ring", module="other_protocol")
    assert "another-ring 0.1 (ring_protocol:SCHEME) offers that name" in refusal(lambda: sums.register(toy.SCHEME, again=True))
    for name in plugins.RESERVED:
        assert "securefl's own" in refusal(lambda name=name: sums.register(replace(toy.SCHEME, name=name), again=True))


# What does not fit


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nosuchlibrary", "ModuleNotFoundError: No module named 'nosuchlibrary'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("def (", "SyntaxError"),
        ("", "AttributeError: module 'ring_protocol' has no attribute 'SCHEME'"),
        ("SCHEME = 3", "it is a int, not a protocols.sums.Scheme"),
        ("from protocols.sums import Scheme as SCHEME", "it is a type, not a protocols.sums.Scheme"),
        ("from protocols.sums import SCHEMES\nSCHEME = SCHEMES['secagg']", "its scheme is named 'secagg'"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_one_line_that_names_it(put: Callable[..., None], source: str, reason: str) -> None:
    put(source=source)
    line = refusal(lambda: sums.scheme("ring"))
    assert line.startswith("the protocol 'ring' of ring-protocol 0.1 (ring_protocol:SCHEME) is refused: ")
    assert reason in line


@dataclass(frozen=True)
class Call(Message):
    number: Annotated[int, Span(0, 9)]


@dataclass(frozen=True)
class Helper:
    me: int


def third_role(flow: Flow) -> Flow:
    copy = flow.swap()

    @copy.role("helper")
    def help_out(_me: Helper) -> None: ...

    return copy


def second_output(flow: Flow) -> Flow:
    def total(srv: Any, arrived: Any) -> Any: ...

    @dataclass(frozen=True)
    class More:
        more: int

    step = flow.step("total")
    return flow.swap(total=replace(step, gives=(*step.gives, replace(step.gives[0], type=More))))


@dataclass(frozen=True)
class Kept:
    more: int


def server_input(flow: Flow) -> Flow:
    step = flow.step("total")
    return flow.swap(total=replace(step, takes=(*step.takes, Port("input", Kept, "kept"))))


def silent(flow: Flow) -> Flow:
    pad = flow.step("pad")
    copy = Flow(flow.name)
    for step in flow.steps:
        copy.add(replace(pad, gives=(Port("value", Kept),)) if step is pad else step)
    copy.add(replace(pad, name="send", takes=(Port("value", Kept, "kept"),), spends=False))
    return copy


def without(name: str) -> Callable[[Flow], Flow]:
    def cut(flow: Flow) -> Flow:
        copy = Flow(flow.name)
        copy.steps = [step for step in flow.steps if step.name != name]
        return copy

    return cut


def spending(**steps: bool) -> Callable[[Flow], Flow]:
    return lambda flow: flow.swap(**{name: replace(flow.step(name), spends=spends) for name, spends in steps.items()})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (third_role, "its flow has the role helper"),
        (second_output, "its server must give one output"),
        (server_input, "its clients must take one input from outside"),
        (silent, "the step pad takes the input and sends nothing"),
        (without("greet"), "flow ring: Hello, awaited by introduce, is sent by nobody"),
        (without("total"), "flow ring: Padded, sent by pad, has no receiver"),
        (spending(pad=False), "the step pad takes the input, so it and no other must be declared with spends=True"),
        (spending(greet=True), "the step pad takes the input, so it and no other must be declared with spends=True"),
        (spending(greet=True, pad=False), "the step pad takes the input, so it and no other must be declared with spends=True"),
    ],
)
def test_a_flow_with_other_ends_is_refused(toy: ModuleType, change: Callable[[Flow], Flow], reason: str) -> None:
    line = refusal(lambda: sums.register(replace(toy.SCHEME, flow=change(toy.SCHEME.flow))))
    assert line.startswith(f"the protocol 'ring' of this program (register) is refused: {reason}")
    assert "ring" not in sums.names()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("name", "Ring", "a name has 1 to 32 of the letters"),
        ("name", 3, "a name has 1 to 32 of the letters"),
        ("suite", "Ring", "its suite is a str, not a function"),
        ("parameters", lambda parties, size, max_abs: None, "parameters(parties, size, max_abs, *, bits, threshold, corrupt)"),
        ("flow", None, "AttributeError"),
    ],
)
def test_a_scheme_with_other_fields_is_refused(toy: ModuleType, field: str, value: Any, reason: str) -> None:
    assert f" is refused: {reason}" in refusal(lambda: sums.register(replace(toy.SCHEME, **{field: value})))


def threshold_ignored(*args: int, bits: int | None = None, **_: Any) -> Parameters:
    return Parameters.of(*args, bits=bits)


def other_sizes(parties: int, size: int, max_abs: int, **_: Any) -> Parameters:
    return Parameters.of(parties, size + 1, max_abs)


@dataclass(frozen=True)
class Odd:
    parties: int
    size: int
    max_abs: int
    ring: Any
    threshold: Any
    corrupt: int
    security: float = 80.0
    lying_server: bool = True
    content: Any = ()

    @classmethod
    def of(cls, **changes: Any) -> Callable[..., Odd]:
        def make(parties: int, size: int, max_abs: int, **_: Any) -> Odd:
            usual = Parameters.of(parties, size, max_abs)
            return replace(cls(parties, size, max_abs, usual.ring, usual.threshold, usual.corrupt), **changes)

        return make


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (threshold_ignored, "its threshold is 3 of 4 parties, 4 asked: it must be from 4 to 4"),
        (Odd.of(threshold=4, corrupt=0), "its number of corrupt parties is 0: it must be from 1 to 3"),
        (other_sizes, "its parameters are for 4 parties, 4 values up to 100; asked: 4, 3, 100"),
        (lambda *_, bits, threshold, corrupt: object(), "its parameters, object, lack parties, size, max_abs, ring"),
        (Odd.of(threshold=1), "its threshold is 1 of 4 parties, 4 asked"),
        (Odd.of(threshold="4"), "TypeError"),
        (Odd.of(threshold=4, corrupt=4), "its number of corrupt parties is 4: it must be from 1 to 3"),
        (Odd.of(threshold=4, ring=object()), "the ring of its parameters, object, lacks bits"),
        (Odd.of(threshold=4, content=object()), "the content of its parameters cannot enter a session identity"),
    ],
)
def test_parameters_that_are_not_those_asked_for_are_refused(toy: ModuleType, parameters: Any, reason: str) -> None:
    made = sums.register(replace(toy.SCHEME, parameters=lambda *args, **options: parameters(*args, **options)))
    line = refusal(lambda: made.parameters(4, 3, 100, bits=None, threshold=4, corrupt=1))
    assert line.startswith(f"the protocol 'ring' of this program (register) is refused: {reason}")


def test_what_nobody_asked_for_has_the_least_that_is_safe(toy: ModuleType) -> None:
    def made(threshold: int, corrupt: int = 0) -> Any:
        plugins._registered.clear()
        scheme = sums.register(replace(toy.SCHEME, parameters=Odd.of(threshold=threshold, corrupt=corrupt)))
        return scheme.parameters(4, 3, 100)

    assert made(2).threshold == 2
    assert refusal(lambda: made(1)).endswith("its threshold is 1 of 4 parties: it must be from 2 to 4")
    assert refusal(lambda: made(2, -1)).endswith("its number of corrupt parties is -1: it must be from 0 to 3")


@pytest.mark.parametrize("suite", ["R", 256 * "R"])
def test_a_suite_string_has_up_to_256_bytes(toy: ModuleType, suite: str) -> None:
    assert sums.register(replace(toy.SCHEME, suite=lambda _: suite)).suite(None) == suite


@pytest.mark.parametrize(
    ("suite", "reason"),
    [(f"{SECAGG}16", "begins like a built-in"), ("", "1 to 256 bytes"), (257 * "R", "1 to 256 bytes"), (b"Ring", "b'Ring'")],
)
def test_no_plug_in_calls_itself_by_the_suite_of_another(toy: ModuleType, suite: Any, reason: str) -> None:
    """A party's policy lists the suites that it accepts."""
    sums.register(replace(toy.SCHEME, suite=lambda _: suite))
    assert reason in refusal(lambda: secure_sum(VECTORS, max_abs=100, protocol="ring"))
    for own in sums.SCHEMES.values():
        assert own.suite(own.parameters(5, 4, 7)).startswith(admission.SUITES)


@pytest.mark.parametrize(
    ("field", "function", "reason"),
    [
        ("client_start", lambda party, terms: terms, "its client_start gives a Terms, and its flow awaits a Invited"),
        ("server_start", lambda terms: None, "its server_start gives a NoneType, and its flow awaits a Meeting"),
        ("suite", lambda _: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_scheme_computes_is_looked_at(toy: ModuleType, field: str, function: Any, reason: str) -> None:
    sums.register(replace(toy.SCHEME, **{field: function}))
    line = refusal(lambda: secure_sum(VECTORS, max_abs=100, protocol="ring"))
    assert line.startswith(f"the protocol 'ring' of this program (register) is refused: {reason}")


def test_metadata_that_nobody_can_read_stops_nobody(put: Callable[..., None], tmp_path: Path) -> None:
    put()
    (info,) = (tmp_path / "first").glob("*.dist-info")
    (info / "METADATA").unlink()
    assert sums.scheme("secagg") is sums.SCHEMES["secagg"]
    assert "(ring_protocol:SCHEME)" in str(sums.scheme("ring").origin)


def test_a_vector_without_a_layout_is_refused(toy: ModuleType) -> None:
    sums.register(replace(toy.SCHEME, layouts=lambda _: {"else": None}))
    assert "its layouts lack padded" in refusal(lambda: secure_sum(VECTORS, max_abs=100, protocol="ring"))


def test_what_is_done_to_a_flow_after_it_was_admitted_changes_nothing(toy: ModuleType) -> None:
    made = sums.register(toy.SCHEME)
    toy.SCHEME.flow.steps.clear()
    assert [step.name for step in made.flow.steps] == ["greet", "introduce", "pad", "total"]
    assert {step.layer for step in made.flow.steps} == {"security"}


def test_two_messages_of_one_name_are_refused() -> None:
    def named(name: str) -> type[Message]:
        return dataclass(frozen=True)(type(name, (Message,), {"__annotations__": {}}))

    def linked(first: type[Message], second: type[Message]) -> Flow:
        flow = Flow("two")
        state, done = (type(name, (), {}) for name in ("State", "Done"))

        def send(_s: Any) -> Any: ...

        def take(_s: Any, _a: Any, _b: Any) -> Any: ...

        send.__annotations__ = {"_s": Helper, "return": tuple[first, second]}
        take.__annotations__ = {"_s": state, "_a": Inbox[first], "_b": Inbox[second], "return": Output[done]}
        flow.client(send)
        flow.server(quorum=lambda _: 1)(take)
        return flow

    linked(named("One"), named("Two")).check()
    assert "two messages are named One" in refusal(lambda: linked(named("One"), named("One")).check())
    assert "Farewell is the session's own" in refusal(lambda: linked(named("One"), named("Farewell")).check())


# What holds for a plug-in as for ours


def ends(scheme: sums.Scheme, parties: int, policy: Policy | None = None, **options: Any) -> simulate.Outcome:
    roster, members = sums.enrol(parties, policy=policy)
    terms = scheme.terms(Occasion("test", 1), roster, scheme.parameters(parties, 3, 100))
    sessions = {SERVER: sums.server_session(scheme, terms)}
    sessions |= {client(m.index): sums.client_session(scheme, m, terms, **options) for m in members}
    outcome = simulate.run(sessions, {client(m.index): [Vector([1, 2, m.index])] for m in members})
    outcome.members, outcome.terms = members, terms  # type: ignore[attr-defined]
    return outcome


@pytest.mark.parametrize(
    ("parties", "policy", "check"),
    [
        (10, Policy(), "policy-corrupt"),
        (5, Policy(min_cohort=6), "policy-cohort"),
        (5, Policy(suites=frozenset({f"{SECAGG}16"})), "policy-suite"),
        (5, Policy(registered=frozenset()), "policy-roster"),
    ],
)
def test_a_party_s_policy_is_asked_before_anything_leaves(toy: ModuleType, parties: int, policy: Policy, check: str) -> None:
    """The toy's own steps never ask; the control takes away that the engine does."""
    made = sums.register(toy.SCHEME)
    outcome = ends(made, parties, policy)
    assert {outcome.sessions[client(u)].ended.check for u in range(1, parties + 1)} == {check}
    assert {kind for kind, sender, _, _ in outcome.traffic if sender != SERVER} <= {"Farewell"}
    control = ends(replace(made, origin=None), parties, policy)
    assert isinstance(control.outputs[0], Sum)


def test_an_input_is_spent_once(toy: ModuleType) -> None:
    made = sums.register(toy.SCHEME)
    outcome = ends(made, 4)
    again = sums.client_session(made, outcome.members[0], outcome.terms)
    assert [type(letter.message).__name__ for letter in again.begin()] == ["Farewell"]
    assert again.ended.check == "journal-replay"
    later = replace(outcome.terms, occasion=Occasion("test", 1, 1))
    again = sums.client_session(made, outcome.members[0], later)
    again.begin()
    assert again.ended.check == "journal-spent"


def test_too_few_end_in_a_typed_abort(toy: ModuleType) -> None:
    sums.register(toy.SCHEME)
    with pytest.raises(Abort, match="quorum"):
        secure_sum(VECTORS, max_abs=100, protocol="ring", dropouts={2: "Padded"})
    with pytest.raises(Abort, match=r"policy-corrupt \(\|C\| = 1, own least 3\)"):
        secure_sum(VECTORS + [[0, 0, 0]] * 6, max_abs=100, protocol="ring")
    with pytest.raises(Misuse, match="a ring has 3 parties or more, not 2"):
        secure_sum(VECTORS[:2], max_abs=100, protocol="ring")
