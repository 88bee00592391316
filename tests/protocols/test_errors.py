"""What an error says: who, in which step, which check and what of it, each where it is known, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Abort, Refused, require

WORD = st.from_regex(r"[a-z]{3,8}-[0-9]{2}", fullmatch=True)
MAYBE = st.none() | WORD


@given(WORD, MAYBE, MAYBE, MAYBE)
def test_an_error_says_what_is_known_and_keeps_it(check: str, detail: str | None, sender: str | None, step: str | None) -> None:
    words = {"check": check, "detail": detail or "", "sender": sender, "step": step}
    refused, abort = Refused(check, detail or "", sender=sender, step=step), Abort(check, detail or "", step=step)
    for error, kinds in ((refused, "refused"), (abort, "aborted")):
        said = str(error)
        known = {name: word for name, word in words.items() if word and hasattr(error, name)}
        assert said.startswith(kinds)
        assert all(word in said for word in known.values())
        assert {name: getattr(error, name) for name in known} == known
        labels = {"detail": " ()", "sender": " from ", "step": " in step "}
        rest = (
            len(kinds) + len(": ") + len(check) + sum(len(labels[name] + word) for name, word in known.items() if name != "check")
        )
        assert len(said) == rest


def test_an_error_of_which_only_the_check_is_known_says_it_alone() -> None:
    assert (str(Refused("some-check")), str(Abort("some-check"))) == ("refused: some-check", "aborted: some-check")
    with pytest.raises(Refused, match="^refused: some-check$"):
        require(False, "some-check")


@pytest.mark.parametrize("ok", [False, 0, (), None])
def test_what_is_required_and_is_not_so_is_refused_in_the_name_of_whom_it_blames(ok: object) -> None:
    with pytest.raises(Refused) as error:
        require(ok, "some-check", "a detail", sender="client 3")
    assert (error.value.check, error.value.detail, error.value.sender) == ("some-check", "a detail", "client 3")
    require(not ok, "some-check")
