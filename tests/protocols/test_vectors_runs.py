"""Runs of test vectors: where flow and reference end, and what a run must agree with."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from protocols import handshake
from protocols.errors import Refused
from protocols.reference import Transcript
from protocols.session import Farewell, client
from protocols.sums import SCHEMES, scheme
from protocols.vector import Sum
from protocols.vectors import Mismatch
from protocols.vectors_run import REFERENCES, check_run, run
from protocols.vectors_setting import Setting, standard


@pytest.mark.parametrize("protocol", SCHEMES)
def test_flow_and_reference_end_alike_where_too_few_are_left_at_any_stage(protocol: str) -> None:
    base = standard(scheme(protocol))
    n, t = base.parameters.parties, base.parameters.threshold
    assert twice(base).survivors == tuple(range(1, n + 1))
    for kind in base.scheme.flow.messages("server"):
        first = 2 if kind.__name__ == "Decrypted" else t  # two who open are enough
        told = twice(replace(base, dropouts=dict.fromkeys(range(first, n + 1), kind.__name__)))
        assert told.aborted is not None
        assert (told.total, told.survivors) == (None, ())


def twice(setting: Setting) -> Transcript:
    """What the reference tells, after flow and reference have been compared."""
    check_run(run(setting))
    entropy = {u: setting.entropy(u) for u in setting.inputs}
    return REFERENCES[setting.scheme.name](setting.terms(), setting.keys(), setting.inputs, entropy, setting.dropouts)


def test_a_run_that_ends_otherwise_or_sends_more_or_less_than_its_reference_is_found() -> None:
    base = standard(scheme("secagg"))
    got, ended = run(base), run(replace(base, dropouts=dict.fromkeys((3, 4), "Boxes")))
    check_run(got)
    (total,), first = got.outcome.outputs, got.letters[0]
    more = replace(first, to=(client(2),))
    for wrong, told in (
        (replace(got, outcome=ended.outcome), "the flow ended in (None, 'relay'), the reference in ((4000, "),
        (replace(ended, outcome=got.outcome), "the flow opened [4000, "),
        (replace(got, outcome=replace(got.outcome, outputs=[Sum(total.values, 3)])), "over 3 parties; the inputs add up to [4000"),
        (replace(got, events=got.events[1:]), "flow and reference differ in Advert from client 1 to server"),
        (replace(got, events=(more, *got.events)), "flow and reference differ in Advert from client 1 to client 2"),
    ):
        with pytest.raises(Mismatch, match=re.escape(told)):
            check_run(wrong)
    check_run(replace(got, events=(*got.events, replace(first, message=Farewell(())))))  # of which references know nothing


def test_a_run_in_which_an_honest_message_is_refused_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Refused("key-signature", "not today")

    monkeypatch.setattr(handshake, "_check_all_keys", refuse)
    with pytest.raises(Mismatch, match="in a run of honest parties a message was .*not today"):
        run(standard(scheme("secagg")))
