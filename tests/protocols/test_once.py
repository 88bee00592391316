"""Work that is shared by the parties of one process: done once within a context, by key and object, and forgotten after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.once import lately, once, own_work, shared_work, sharing


class Counted:
    """A computation that says how often it was made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        return self.times


def kept(key: object, compute: Callable[[], int]) -> int:
    return once(key, compute, of=None)


def last(key: object, compute: Callable[[], int]) -> int:
    return lately("slot", key, compute)


@pytest.mark.parametrize("remember", [kept, last])
def test_work_is_done_once_within_a_context_and_forgotten_after_it(remember: Callable[[object, Callable[[], int]], int]) -> None:
    work = Counted()
    assert [remember("key", work) for _ in range(2)] == [1, 2]
    for first in (3, 4):
        with shared_work():
            assert [remember("key", work) for _ in range(2)] == [first, first]
            with shared_work():
                assert remember("key", work) == first
            assert remember("key", work) == first
    assert not sharing()


@pytest.mark.parametrize("remember", [kept, last])
def test_own_work_shares_nothing_and_ends(remember: Callable[[object, Callable[[], int]], int]) -> None:
    work = Counted()
    with shared_work():
        assert remember("key", work) == 1
        with own_work():
            assert not sharing()
            assert [remember("key", work) for _ in range(2)] == [2, 3]
        assert sharing()
        assert remember("key", work) == 1


def test_results_are_told_apart_by_key_and_by_object() -> None:
    work, one, other = Counted(), [0], [0]
    with shared_work():
        assert [once(key, work, of=of) for key in ("a", "b") for of in (one, other)] == [1, 2, 3, 4]
        assert [once(key, work, of=of) for key in ("a", "b") for of in (one, other)] == [1, 2, 3, 4]


def test_only_the_last_result_of_a_slot_is_kept() -> None:
    work = Counted()
    with shared_work():
        assert [lately(slot, key, work) for slot, key in (("s", 1), ("t", 1), ("s", 2), ("t", 1), ("s", 1))] == [1, 2, 3, 2, 4]


def test_what_was_not_done_is_not_remembered() -> None:
    def fails() -> int:
        raise ValueError

    with shared_work():
        for remember in (kept, last):
            with pytest.raises(ValueError):  # noqa: PT011  (of its own)
                remember("key", fails)
            assert remember("key", lambda: 7) == 7
