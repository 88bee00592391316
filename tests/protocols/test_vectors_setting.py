"""What a test vector starts from, as its file says it, and what is no such file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols import plain
from protocols.errors import Misuse
from protocols.flow import Arrived, Flow, Output
from protocols.rand import Rand, Replay
from protocols.session import SERVER, client
from protocols.sums import SCHEMES, scheme
from protocols.vector import Sum
from protocols.vectors_run import run
from protocols.vectors_setting import header, setting_of, settings, standard
from protocols.vectors_tree import Tree

FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (Path(__file__).parents[1] / "vectors").glob("*.json")}


@pytest.mark.parametrize("protocol", SCHEMES)
def test_every_run_starts_from_what_its_file_says(protocol: str) -> None:
    files = {name: tree for name, tree in FILES.items() if tree["protocol"] == protocol and "bad" not in tree}
    found = dict(settings(scheme(protocol)))
    assert found.keys() == files.keys()
    for name, setting in found.items():
        head = {key: value for key, value in files[name].items() if key != "operations"}
        assert json.loads(json.dumps(header(name, head["about"], setting))) == head
        assert setting_of(head, scheme(protocol)) == setting


@pytest.mark.parametrize("protocol", SCHEMES)
def test_only_sums_of_floats_are_approximate(protocol: str) -> None:
    assert standard(scheme(protocol)).approximate == (protocol == "ckks")


@pytest.mark.parametrize("protocol", SCHEMES)
def test_sizes_are_those_of_the_sessions(protocol: str) -> None:
    setting = standard(scheme(protocol))
    assert setting.limits == setting.session(SERVER).limits == setting.session(client(1)).limits
    assert setting.limits.parties == len(setting.inputs)


def test_no_setting_prints_what_is_secret() -> None:
    setting = standard(scheme("secagg"))
    assert not {"identities", "seeds", "inputs"} & set(re.findall(r"\w+(?==)", repr(setting)))
    assert str(setting.identities[1]) not in repr(setting)


def test_as_many_parties_and_values_as_are_allowed_and_no_more() -> None:
    tree = FILES["plain_insecure_no_dropout"]
    most, many = tree["parameters"] | {"size": 4096}, tree["parameters"] | {"parties": 64}
    assert setting_of({**tree, "parameters": most}, scheme("plain-insecure")).parameters.size == 4096
    refused({**tree, "parameters": many}, "identities must be those of the parties 1, 2, 3")  # it is not their number
    refused({**tree, "parameters": {**most, "size": 4097}}, "at most 64 parties and 4096 values")
    refused({**tree, "parameters": {**many, "parties": 65}}, "at most 64 parties and 4096 values")


def refused(tree: Tree, words: str) -> None:
    with pytest.raises(Misuse, match=re.escape(words)):
        setting_of(tree, scheme(tree["protocol"]))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("parameters", [], "'parameters' is missing or no object"),
        ("parameters", {"max_abs": None}, "integers, or null for bits, threshold, corrupt"),
        ("parameters", {"corrupt": "1"}, "integers, or null for bits, threshold, corrupt"),
        ("parameters", {"threshold": True}, "integers, or null for bits, threshold, corrupt"),
        ("parameters", {"graph": {"degree": 2, "threshold": 2, "security": 80}}, "'gap' is missing or no integer"),
        ("occasion", {"run": 1}, "'run' is missing or no text"),
        ("occasion", {"round": "1"}, "'round' is missing or no integer"),
        ("occasion", {"attempt": True}, "'attempt' is missing or no integer"),
        ("occasion", {"model": None}, "'model' is missing or no text"),
        ("occasion", {"model": "0"}, "'model' holds what is no lower-case hex"),
        ("identity_seeds", {"1": "0"}, "'identity_seeds' holds what is no lower-case hex"),
        ("identity_seeds", {"1": "00" * 31}, "'identity_seeds' holds a seed of 31 bytes, not of 32"),
        ("identity_seeds", {"5": "00" * 32}, "identities must be those of the parties 1, 2, 3, 4, not of 1, 2, 3, 4, 5"),
        ("seeds", {"1": "0"}, "'seeds' holds what is no lower-case hex"),
        ("seeds", {"1": "00" * 33}, "'seeds' holds a seed of 33 bytes, not of 32"),
        ("seeds", {"1": "00" * 32}, "seeds must be those of the parties , not of 1"),
        ("inputs", {"5": [1, 2, 3, 4, 5]}, "inputs must be those of the parties 1, 2, 3, 4, not of 1, 2, 3, 4, 5"),
        ("inputs", {"1": [0.5]}, "no list of integers below 2^63"),
        ("inputs", {"1": [True]}, "no list of integers below 2^63"),
        ("inputs", {"1": ["1"]}, "no list of integers below 2^63"),
        ("inputs", {"1": "12345"}, "no list of integers below 2^63"),
        ("inputs", {"1": [2**63]}, "no list of integers below 2^63"),
        ("inputs", {"1": [-(2**63)]}, "no list of integers below 2^63"),
        ("inputs", {"01": []}, "the keys of 'inputs' are roster indexes"),
        ("inputs", {"100000": []}, "the keys of 'inputs' are roster indexes"),
        ("inputs", {"1\u0661": []}, "the keys of 'inputs' are roster indexes"),  # an Arabic digit, which is one to `int` too
        ("dropouts", {"5": "Clear"}, "dropouts are of the parties 1 to 4, before one of Clear"),
        ("dropouts", {"1": "Masked"}, "dropouts are of the parties 1 to 4, before one of Clear"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(key: str, value: Any, words: str) -> None:
    tree = FILES["plain_insecure_no_dropout"]
    refused({**tree, key: tree[key] | value if isinstance(value, dict) else value}, words)


def test_what_another_protocol_has_is_refused() -> None:
    tree, sparse = FILES["lightsecagg_no_dropout"], FILES["secagg_plus_no_dropout"]["parameters"]["graph"]
    refused({**tree, "parameters": tree["parameters"] | {"graph": sparse, "parties": 6}}, "lightsecagg has no graph")
    refused({**FILES["secagg_no_dropout"], "dropouts": {"1": "Listed"}}, "before one of Advert, Agree, Boxes, Masked, Openings")


def test_what_is_at_its_bound_is_taken() -> None:
    tree = FILES["plain_insecure_no_dropout"]
    everybody = dict.fromkeys(map(str, range(1, 5)), "Clear")
    setting = setting_of(
        {**tree, "inputs": tree["inputs"] | {"1": [2**63 - 1, 1 - 2**63]}, "dropouts": everybody}, scheme("plain-insecure")
    )
    assert setting.inputs[1] == (2**63 - 1, 1 - 2**63)
    assert setting.dropouts == {int(u): stage for u, stage in everybody.items()}


def test_a_graph_of_little_security_is_no_partys_to_refuse() -> None:
    base = standard(scheme("secagg+"))
    assert base.graph is not None
    weak = run(replace(base, graph=replace(base.graph, security=1)))
    assert weak.outcome.abort is None
    assert weak.outcome.outputs[0].values.tolist() == run(base).outcome.outputs[0].values.tolist()


def test_a_server_that_draws_has_a_seed_and_draws_from_it() -> None:
    drawn = list[bytes]()

    def total(srv: plain.Adding, arrived: Arrived[plain.Clear], rand: Rand) -> Output[Sum]:
        drawn.append(rand.bytes("lot", 8))
        return plain.flow.step("total").fn(srv, arrived)

    flow = Flow("lottery")
    flow.client(spends=True)(plain.submit)
    flow.server(fold=plain.absorb_clear, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)(total)
    setting = standard(replace(scheme("plain-insecure"), name="lottery", flow=flow.check()))
    assert list(setting.seeds) == [0]
    assert run(setting).outcome.abort is None
    assert drawn == [Replay(setting.seeds[0])().bytes("lot", 8)]
