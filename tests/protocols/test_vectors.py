"""The committed vectors hold, cover every message of every protocol, and nothing can be changed in one unseen."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocols import agreement, handshake, lightsecagg, plain, secagg, vectors, vectors_run
from protocols.bulk import Bulk, Packed
from protocols.errors import Misuse
from protocols.flow import Arrived, Flow, Input, Output
from protocols.primitives import homomorphic
from protocols.ring import Accumulator
from protocols.schema import Message, Raw, Signature, has_vector, schema
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert
from protocols.sums import SCHEMES, Scheme, scheme
from protocols.vector import Sum, Vector, checked_sum, with_count
from protocols.vectors import Mismatch, check, trees
from protocols.vectors_bad import goods, pair, refusal
from protocols.vectors_primitives import CASES
from protocols.vectors_run import run_tree
from protocols.vectors_setting import setting_of, slug, standard
from protocols.vectors_spoil import WAYS
from protocols.vectors_tree import same
from securefl.vectors import to_json

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "vectors"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
CHECKS = set(re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs" / "checks.md").read_text(encoding="utf-8"), re.MULTILINE))
PROTOCOLS = [vectors.PRIMITIVES, *SCHEMES]
EVERY_MESSAGE = ("truncated", "trailing_byte", "encoding", "bound", "sender", "twice")
TAKEN = {
    ("members", "the last of entries is missing"),  # as if that party had not come
    ("members", "the last of signatures is missing"),  # as if it had gone
    ("members", "the receiver is missing in signatures"),
    ("field", "one bit of boxes is another"),  # the server cannot open it; its addressee refuses it
    ("field", "one bit of boxes.box is another"),
    ("signature", "one bit of signatures.signature is another"),  # it counts for nothing, and the others are enough
    ("survivor_signature", "one bit of a signature is another"),
    ("swapped_signature", "two signatures of signatures have changed places"),
    ("vector", "the first bit of the vectors is another"),  # the same of sealed shares, and noise of a ciphertext
}
"""What a receiver takes, as it cannot tell or need not."""
LATER = {"Agree": {"secagg", "secagg+", "kahe"}, "Openings": {"secagg", "secagg+", "kahe"}}
"""Messages whose signatures and shares the server of these protocols looks at only where it must find out who lied."""


@cache
def text(name: str) -> str:
    return FILES[name].read_text(encoding="utf-8")


def tree(name: str) -> Any:
    return json.loads(text(name))


def of(protocol: str) -> Iterator[tuple[str, Any]]:
    for name in FILES:
        if (found := tree(name))["protocol"] == protocol:
            yield name, found


# They hold


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_committed_vector_holds(protocol: str) -> None:
    counts = [check(name, found) for name, found in of(protocol)]
    assert len(counts) >= 10
    assert all(count > 0 for count in counts)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_writing_again_gives_the_same_files_and_no_other(protocol: str) -> None:
    made = vectors.primitive_trees() if protocol == vectors.PRIMITIVES else trees(scheme(protocol))
    assert {name: to_json(found).decode() for name, found in made} == {name: text(name) for name, _ in of(protocol)}


def test_they_are_small() -> None:
    assert len(FILES) > 100
    assert sum(path.stat().st_size for path in FILES.values()) < 2_000_000


# They cover everything


@pytest.mark.parametrize("protocol", SCHEMES)
def test_every_message_stands_in_a_run_and_in_every_bad_case_that_fits_it(protocol: str) -> None:
    flow, name = scheme(protocol).flow, slug(protocol)
    kinds = {kind.__name__: kind for kind in flow.messages()}
    everybody = tree(f"{name}_no_dropout")["operations"]
    assert {o["type"] for o in everybody if o["operation"] == "message"} == set(kinds)
    for way in EVERY_MESSAGE:
        assert {o["type"] for o in tree(f"{name}_bad_{way}")["operations"]} == set(kinds), way
    if protocol != "plain-insecure":
        signed = {n for n, kind in kinds.items() if any(hint == Signature for _, hint in schema(kind))}
        assert signed
        for way in ("signature", "swapped_signature"):
            assert {o["type"] for o in tree(f"{name}_bad_{way}")["operations"]} == signed | {_listing(kinds), "Agreed"}
        same = {"Dropped"}  # it says the same in every round
        assert {o["type"] for o in tree(f"{name}_bad_round")["operations"]} == set(kinds) - same
    assert {o["type"] for o in tree(f"{name}_bad_vector")["operations"]} == {n for n, kind in kinds.items() if has_vector(kind)}


def _listing(kinds: dict[str, type[Message]]) -> str:
    return next(name for name, kind in kinds.items() if "entries" in dict(schema(kind)))


@pytest.mark.parametrize("protocol", SCHEMES)
def test_a_dropout_before_every_message_is_survived_and_too_many_end_in_an_abort(protocol: str) -> None:
    name, stages = slug(protocol), [kind.__name__ for kind in scheme(protocol).flow.messages("server")]
    assert [n for n, _ in of(protocol) if "dropout_before" in n] == sorted(f"{name}_dropout_before_{slug(s)}" for s in stages)
    for stage in stages:
        (ended,) = (o for o in tree(f"{name}_dropout_before_{slug(stage)}")["operations"] if o["operation"] == "open")
        assert ended["success"]
    few = [found["operations"][-1] for n, found in of(protocol) if "_too_few_" in n]
    assert few
    assert {(o["success"], o["check"]) for o in few} == {(False, "quorum")}


@pytest.mark.parametrize("protocol", SCHEMES)
def test_what_is_bad_is_refused_by_a_check_of_the_table(protocol: str) -> None:
    bad = [(found["bad"], o) for _, found in of(protocol) for o in found["operations"] if "bad" in found]
    refused = [o["check"] for _, o in bad if not o["success"]]
    assert set(refused) <= CHECKS
    taken = {(way, o["how"]) for way, o in bad if o["success"] and protocol not in LATER.get(o["type"], ())}
    if protocol == "plain-insecure":
        assert {way for way, _ in taken} == {"bound", "sender", "vector"}  # nothing is signed
    else:
        assert taken <= TAKEN
        assert len(set(refused)) > 15


def test_primitives_are_refused_by_checks_of_the_table() -> None:
    found = {case: tree(case)["operations"] for case in CASES}
    assert all(len(operations) >= 6 for operations in found.values())
    assert {o["check"] for operations in found.values() for o in operations if not o["success"]} <= CHECKS


def test_every_bad_way_is_in_some_file() -> None:
    assert {found["bad"] for name in FILES if "bad" in (found := tree(name))} == set(WAYS)
    assert {slug(p) + "_bad_survivor_signature" for p in SCHEMES if p != "plain-insecure"} <= set(FILES)


@pytest.mark.parametrize("name", ["ckks_no_dropout", "bfv_no_dropout"])
def test_what_depends_on_the_machine_is_recorded_by_its_length(name: str) -> None:
    operations = tree(name)["operations"]
    long = [o for o in operations if "length" in o]
    assert {o["type"] for o in long} == {"Upload", "Summed"}
    assert all(("sha256" in o) == name.startswith("bfv") for o in long)
    assert [o["success"] for o in operations if o["operation"] == "error"] == [True] * name.startswith("ckks")


# Nothing is changed unseen

LOOKED_AT = ("secagg_no_dropout", "secagg_bad_signature", "lightsecagg_dropout_before_answer", "primitives_shamir")


def differs(name: str, changed: Any) -> str:
    assert not same(changed, tree(name))
    with pytest.raises(Mismatch) as mismatch:
        check(name, changed)
    return str(mismatch.value)


@pytest.mark.parametrize("name", [*LOOKED_AT[:3], "bfv_no_dropout"])
def test_a_flipped_digit_in_any_message_is_found_and_named(name: str) -> None:
    for number, operation in enumerate(tree(name)["operations"], 1):
        for key in {"bytes", "sha256"} & operation.keys():
            changed = tree(name)
            digits = operation[key]
            at = (7 * number) % len(digits)
            changed["operations"][number - 1][key] = digits[:at] + ("0" if digits[at] != "0" else "f") + digits[at + 1 :]
            told = differs(name, changed)
            assert told.startswith(f"operation {number} (message {operation['type']} from {operation['from']}): {key}: ")
            assert len(digits) < 41 or f" at byte {at // 2} of " in told


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_flipped_success_is_found_in_any_operation(name: str) -> None:
    for number, operation in enumerate(tree(name)["operations"], 1):
        for value in [not operation["success"], int(operation["success"])][: 2 if number == 1 else 1]:
            changed = tree(name)
            changed["operations"][number - 1]["success"] = value
            assert differs(name, changed).startswith(f"operation {number} (")


@pytest.mark.parametrize("name", LOOKED_AT)
def test_operations_that_are_missing_doubled_or_swapped_are_found(name: str) -> None:
    whole = tree(name)["operations"]
    for at in {0, len(whole) // 2, len(whole) - 1}:
        for operations in (whole[:at] + whole[at + 1 :], whole[: at + 1] + whole[at:], whole[at:] + whole[:at]):
            if operations != whole:
                assert "operation" in differs(name, {**tree(name), "operations": operations})


@pytest.mark.parametrize("name", LOOKED_AT[:3])
def test_another_seed_identity_occasion_or_input_is_found(name: str) -> None:
    for key in ("seeds", "identity_seeds"):
        for u, seed in tree(name)[key].items():
            changed = tree(name)
            changed[key][u] = seed[:-1] + ("0" if seed[-1] != "0" else "1")
            assert differs(name, changed).startswith("roster: " if key == "identity_seeds" else "draws: ")
    for key, other in (("run", "other"), ("round", 8), ("attempt", 2), ("model", "00" * 32)):
        changed = tree(name)
        changed["occasion"][key] = other
        assert differs(name, changed).startswith("sid: ")
    changed = tree(name)
    changed["inputs"]["2"][3] += 1
    if "bad" not in changed:
        assert re.match(r"operation \d+ \(message (Masked|Padded) from client 2\): ", differs(name, changed))


@pytest.mark.parametrize("key", ["about", "suite", "sid", "roster", "parameters", "dropouts"])
def test_what_is_derived_is_compared_too(key: str) -> None:
    name = "secagg_dropout_before_masked"
    changed = tree(name)
    match changed[key]:
        case str() as words:
            changed[key] = ("0" if words[0] != "0" else "1") + words[1:]
        case list() as members:
            changed[key] = members[::-1]
        case dict() as entries if "content" in entries:
            entries["content"][2] += 1
        case dict() as entries:
            changed[key] = {"1": "Masked"} if "1" not in entries else {}
    differs(name, changed)
    differs(name, {**tree(name), "more": 1})


def test_the_order_of_keys_does_not_matter() -> None:
    name = "secagg_plus_too_few_masked"
    found = tree(name)
    turned = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in reversed(found.items())}
    assert check(name, turned) == len(found["operations"])


def test_a_way_that_is_not_the_files_own_is_found() -> None:
    changed = tree("secagg_bad_truncated")
    changed["bad"] = "encoding"
    differs("secagg_bad_truncated", changed)


# What is no vector


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


JUNK = st.sampled_from([None, True, -1, 0, 2, 10**30, 0.5, "", "zz", "00", [], [1], {}, {"x": 1}])


@given(st.sampled_from(["secagg_plus_bad_round", "plain_insecure_no_dropout", "lightsecagg_no_dropout"]), JUNK, st.data())
@settings(max_examples=80, deadline=None)
def test_whatever_stands_in_a_file_it_differs_or_is_no_vector(name: str, junk: Any, data: st.DataObject) -> None:
    changed = tree(name)
    *path, last = data.draw(st.sampled_from(sorted(_places({k: v for k, v in changed.items() if k != "operations"}), key=str)))
    inner = changed
    for key in path:
        inner = inner[key]
    assume((*path, last) != ("parameters", "bits"))  # of lightsecagg only a lower bound
    inner[last] = copy.deepcopy(junk)
    if same(changed, tree(name)):
        check(name, changed)
        return
    with pytest.raises((Mismatch, Misuse)) as told:
        check(name, changed)
    assert "\n" not in str(told.value)


def test_a_file_of_another_name_format_or_protocol_is_refused() -> None:
    found = tree("secagg_no_dropout")
    for name, changed, words in (
        ("other", found, "holds the case"),
        ("secagg_no_dropout", {**found, "format": "securefl vectors 2"}, "format"),
        ("secagg_no_dropout", [], "format"),
        ("secagg_no_dropout", {**found, "protocol": "nosuch"}, "no protocol 'nosuch'"),
        ("secagg_no_dropout", {k: v for k, v in found.items() if k != "operations"}, "'operations' is missing"),
        ("secagg_no_dropout", {**found, "bad": "nosuch"}, "in one of the ways"),
        ("primitives_none", {**found, "protocol": "primitives", "case": "primitives_none"}, "no primitive"),
    ):
        with pytest.raises(Misuse, match=re.escape(words)):
            check(name, changed)


# Flow and reference hold each other


def test_a_flow_that_differs_from_its_reference_is_found() -> None:
    """Both keys of a party swapped: the sum comes out right, and the bytes are others."""

    def advertise(invited: Any, rand: Any) -> Any:
        adv, _ = secagg.flow.step("advertise").fn(invited, rand)
        signature = secagg.sign_keys(invited, [adv.s.public, adv.c.public])
        return replace(adv, c=adv.s, s=adv.c), Advert(adv.s.public, adv.c.public, signature)

    other = replace(scheme("secagg"), flow=secagg.flow.replace(advertise=advertise))
    with pytest.raises(Mismatch, match="flow and reference differ in Advert from client 1 to server"):
        run_tree("x", standard(other))
    run_tree("x", standard(replace(other, name="of-ones-own")))  # control: without a reference there is nothing to differ from


def test_a_sum_that_is_not_the_plain_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(values: Any, contributors: int, parameters: Any) -> Sum:
        return Sum(values[:-1] + 1, contributors)

    monkeypatch.setattr(secagg, "checked_sum", off)
    with pytest.raises(Mismatch, match="the inputs add up to"):
        run_tree("x", standard(scheme("secagg")))


def test_an_approximate_sum_that_is_far_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = homomorphic.decrypt_raw
    monkeypatch.setattr(vectors_run.homomorphic, "decrypt_raw", lambda *args: true(*args) + (args[0].scheme == "ckks") * 0.4)
    name = "ckks_no_dropout"
    with pytest.raises(Mismatch, match=r"\(error\): success: recorded True, made False"):
        check(name, tree(name))


@pytest.mark.parametrize("protocol", SCHEMES)
def test_the_good_message_is_taken_where_its_bad_ones_are_refused(protocol: str) -> None:
    """Control: it is what is wrong with a message that is refused, not the state that it comes to."""
    runs = pair(standard(scheme(protocol)))
    found = list(goods(*runs))
    assert len(found) == len(scheme(protocol).flow.messages())
    assert [good.letter for good in found if refusal(good, good.letter.sender, good.data, good.at) is not None] == []


@pytest.mark.parametrize(
    ("module", "name", "case", "told"),
    [
        (lightsecagg, "check_agree", "lightsecagg_bad_survivor_signature", "message Agree from client 1"),
        (handshake, "_check_all_keys", "lightsecagg_bad_signature", "message KeyList from server"),
    ],
)
def test_a_check_that_was_taken_out_is_found(module: Any, name: str, case: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, name, lambda *_: None)
    noticed(case, told)


def test_signatures_that_are_not_counted_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_count_valid", lambda *_: 99)
    noticed("secagg_bad_survivor_signature", "message Agreed from server")


def noticed(case: str, told: str) -> None:
    with pytest.raises(Mismatch, match=rf"\({told}\): success: recorded False, made True"):
        check(case, tree(case))


# A protocol of one's own


@dataclass(frozen=True)
class Bare(Message):
    """A vector in clear, and a number."""

    x: Annotated[Bulk, Raw("masked")]
    signature: Signature


own = Flow("own")


@own.client
def submit(attending: plain.Attending, x: Input[Vector]) -> Bare:
    p = attending.terms.parameters
    return Bare(Bulk.of(Packed(p.ring, p.size + 1), with_count(x, p)), bytes(64))


@own.server(quorum=lambda srv: srv.terms.parameters.threshold, within=1.0, fold=lambda srv, _, m: plain.absorb_clear(srv, 0, m))
def total(srv: plain.Adding, arrived: Arrived[Bare]) -> Output[Sum]:
    p = srv.terms.parameters
    return Output(checked_sum(p.ring.centre(srv.total.total()), len(arrived), p))


OWN = Scheme(
    "of-ones-own",
    Parameters.of,
    lambda p: f"Own{p.ring.bits}",
    own.check(),
    lambda party, terms: plain.Attending(party.index, terms, party.policy),
    lambda terms: plain.Adding(terms, Accumulator(terms.parameters.ring, terms.parameters.size + 1)),
    lambda p: {"masked": Packed(p.ring, p.size + 1)},
)


def test_a_protocol_of_ones_own_has_vectors_without_a_change() -> None:
    made = {name: json.loads(to_json(found)) for name, found in trees(OWN)}
    assert {"of_ones_own_no_dropout", "of_ones_own_dropout_before_bare", "of_ones_own_bad_signature"} <= set(made)
    for name, found in made.items():
        assert check(name, found, {"of-ones-own": OWN}.__getitem__) == len(found["operations"])
    broken = made["of_ones_own_no_dropout"]
    broken["operations"][-1]["sum"][0] += 1
    with pytest.raises(Mismatch, match="open"):
        check("of_ones_own_no_dropout", broken, lambda _: OWN)


def test_a_setting_comes_back_from_its_file() -> None:
    for protocol in SCHEMES:
        base = standard(scheme(protocol))
        assert setting_of(tree(f"{slug(protocol)}_no_dropout"), scheme(protocol)) == base
