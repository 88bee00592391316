"""One thing taken out of SecAgg at a time, as patches of this process: what the exploration of all states must then find.

`python tests/audit/controls.py` prints the table of docs/audit.md, `python tests/audit/controls.py NAME` the attack that is found
without the thing of that name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mutating
import pytest
from mutating import everywhere

from protocols import handshake, policy, secagg, secagg_labels, secagg_parameters, sums
from protocols.primitives import agree, seal
from protocols.suite import Terms
from protocols.wire import canonical
from securefl.audit.symbolic import Result, Setting, World, explore, story
from securefl.audit.symbolic.setting import BOXES

Patch = pytest.MonkeyPatch
Apply = Callable[[Patch], None]
SCHEME = sums.scheme("secagg")
BAR = "\\|"


def without(*checks: str) -> Apply:
    """Checks taken out of the whole package."""
    return lambda patch: mutating.without(*checks)(patch, SCHEME)


@dataclass(frozen=True)
class Control:
    """Something that the exploration rests on, taken out.

    Attributes:
        name: what is taken out.
        setting: where it is looked for.
        apply: takes it out.
        found: whether an attack is there then; if not, something else stands behind what was taken out.
    """

    name: str
    setting: Setting
    apply: Apply
    found: bool = True

    def explore(self) -> tuple[World, Result]:
        """Everything without it."""
        with pytest.MonkeyPatch.context() as patch:
            self.apply(patch)
            world = World.of(self.setting)
            return world, explore(world, seek="few" if self.setting.parties < 5 else "many", victims=1)


def nothing(_patch: Patch) -> None:
    """Where the setting itself is what is wrong."""


def any_threshold(patch: Patch) -> None:
    """Parameters that no party would accept."""
    patch.setattr(secagg_parameters.Parameters, "__post_init__", lambda self: None)
    patch.setattr(policy.Policy, "check", lambda self, terms: None)


def no_self_mask(patch: Patch) -> None:
    """Vectors carry the masks of pairs alone."""
    derive, seeds, masks = agree.derive, set[bytes](), secagg.Masks

    def noting(secret: Any, info: bytes) -> Any:
        key = derive(secret, info)
        if info.startswith(b"\x84\x64self"):
            seeds.add(key.reveal())
        return key

    def fewer(plus: Sequence[Any], minus: Sequence[Any], dtype: Any) -> Any:
        return masks([k for k in plus if k.reveal() not in seeds], minus, dtype)

    everywhere(patch, "derive", noting)
    patch.setattr(secagg, "Masks", fewer)


def open_boxes(patch: Patch) -> None:
    """Boxes that anybody reads."""
    patch.setattr(seal, "seal", lambda key, plain, aad: plain + bytes(seal.OVERHEAD))
    patch.setattr(seal, "unseal", lambda key, box, aad: box[: -seal.OVERHEAD])


def agreements(content: Callable[[Terms, int, tuple[Any, ...]], list[Any]]) -> Apply:
    """Other content of what is signed about who survived."""

    def apply(patch: Patch) -> None:
        bound = Terms.statement

        def statement(terms: Terms, tag: str, signer: int, *said: Any) -> bytes:
            return canonical([tag, *content(terms, signer, said)]) if tag == "agree" else bound(terms, tag, signer, *said)

        patch.setattr(Terms, "statement", statement)

    return apply


NO_SESSION = agreements(lambda terms, signer, said: [signer, *said[1:]])
NO_SET = agreements(lambda terms, signer, said: [terms.sid, signer, said[0]])
NO_LIST = agreements(lambda terms, signer, said: [terms.sid, signer, *said[1:]])
distinct = without("listed-distinct")


def no_list(*names: str) -> Apply:
    """L left out of the functions of these names, all of which take terms, L and more."""

    def apply(patch: Patch) -> None:
        for name in names:
            bound = getattr(secagg_labels, name, None) or getattr(handshake, name)
            everywhere(patch, name, _without_list(bound))

    return apply


def _without_list(bound: Callable[..., Any]) -> Callable[..., Any]:
    return lambda terms, L, *more, **rest: bound(terms, bytes(32), *more, **rest)


def no_hash(patch: Patch) -> None:
    """L is the same for every list."""
    everywhere(patch, "list_hash", lambda listed: bytes(32))


def no_names(patch: Patch) -> None:
    """The keys of masks hold neither indexes nor public keys."""

    def pair_key(terms: Any, L: bytes, pair: Any, theirs: bytes, u: int, v: int) -> Any:
        return agree.derive(pair.exchange(theirs), canonical(["pair", terms.sid, L]))

    everywhere(patch, "pair_key", pair_key)


def all_of(*several: Apply) -> Apply:
    """Several things at once."""

    def apply(patch: Patch) -> None:
        for one in several:
            one(patch)

    return apply


THREE, FOUR = Setting.of(3), Setting.of(4)
FIVE = Setting.of(5, 0, 3, lies=[BOXES])
"""The fewest parties among whom t is small enough for agreement to be needed: the views of three can differ."""
ALONE = ("dropped-cohort", "dropped-neighbours")

AGAIN = replace(FIVE, again=True)

CONTROLS = [
    Control("signatures over keys (`listed-signature`)", THREE, without("listed-signature")),
    Control("boxes are sealed", THREE, open_boxes),
    Control("the mask of the seed b", THREE, no_self_mask),
    Control("a state is used once (`wire-late`)", replace(THREE, uses=2), nothing),
    Control("2t > n + |C|", Setting.of(4, 0, 2), any_threshold),
    Control("t − |C| ≥ 2", Setting.of(3, 2, 3), any_threshold),
    Control("no more than |C| help the server", Setting.of(4, colluding=2), nothing),
    Control("agreement: good signatures (`agreed-signature`)", FIVE, without("agreed-signature")),
    Control("agreement: t of them (`agreed-count`)", FIVE, without("agreed-count")),
    Control("agreement: distinct signers (`agreed-signers`)", FIVE, without("agreed-signers")),
    Control("agreement: U3 in what is signed", FIVE, NO_SET),
    Control("agreement: sid and L in what is signed", FIVE, NO_SESSION),
    Control("agreement: L in what is signed, where journals are lost", AGAIN, NO_LIST),
    Control(
        "at least t survivors (`dropped-cohort`, `dropped-neighbours`), and `agreed-count`", THREE, without(*ALONE, "agreed-count")
    ),
    Control("distinct keys (`listed-distinct`), and who and whose keys in the labels of masks", FOUR, all_of(distinct, no_names)),
]
"""Without each of these there is an attack."""

BEHIND = (
    *("listed-order", "listed-own", "listed-cohort", "listed-distinct", "sealed-set", "sealed-own", "sealed-cohort"),
    *("dropped-set", "dropped-own", "dropped-cohort", "dropped-neighbours"),
    *("agreed-signature", "agreed-count", "agreed-signers"),
)
SECOND = [
    *(Control(f"`{check}`", setting, without(check), found=False) for check in BEHIND for setting in (THREE, FOUR)),
    *(Control("L in the keys of masks", setting, no_list("pair_key"), found=False) for setting in (THREE, FOUR)),
    Control("L in all of boxes", THREE, no_list("box_key", "box_aad", "share_hash"), found=False),
    Control("the list in L, while journals are kept", THREE, no_hash, found=False),
    Control("who and whose keys in the labels of masks", FOUR, no_names, found=False),
    Control("sid and L in agreements, while journals are kept", FOUR, NO_SESSION, found=False),
]
"""Without each of these alone there is none with so few parties: something else stands behind it."""


def table() -> Iterable[str]:
    """The rows of docs/audit.md for what is needed."""
    yield "| taken out | explored | states until the attack | s | what opens |"
    yield "|---|---|---|---|---|"
    for control in CONTROLS:
        world, result = control.explore()
        last = story(world, result.attack)[-1].removeprefix("so ") if result.attack is not None else "nothing"
        cells = [control.name, control.setting.name, str(result.states), f"{world.seconds + result.seconds:.1f}", last]
        yield f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def second() -> Iterable[str]:
    """The rows for what is not needed alone: how many states were looked at, none of them bad."""
    yield "| taken out alone | states with 3 parties | with 4 |"
    yield "|---|---|---|"
    for name in dict.fromkeys(control.name for control in SECOND):
        cells = {control.setting.parties: control.explore()[1] for control in SECOND if control.name == name}
        counts = ["—" if n not in cells else f"{cells[n].states}{' BROKEN' * (cells[n].attack is not None)}" for n in (3, 4)]
        yield f"| {name} | {' | '.join(counts)} |"


def main(words: Sequence[str]) -> None:
    """The tables, or one attack."""
    if not words:
        for rows in (table(), second()):
            print(*rows, sep="\n", end="\n\n")
    for control in [*CONTROLS, *SECOND]:
        if words and words[0] in control.name:
            world, result = control.explore()
            print(control.name, *([] if result.attack is None else story(world, result.attack)), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
