"""SecAgg with three and four parties, explored whole; with one thing taken out, the attack; and real sessions held against both."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from controls import BAR, CONTROLS, SECOND, THREE, Control, without
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.agreement import Agreed, Dropped
from protocols.errors import Refused
from protocols.policy import MemoryJournal, OccasionGuard
from protocols.schema import Message
from protocols.secagg_types import Openings
from protocols.session import SERVER, Letter, Session
from protocols.suite import Occasion
from protocols.vector import Vector
from securefl.audit.symbolic import Attack, Setting, World, explore, proved, story
from securefl.audit.symbolic.__main__ import SETTINGS, main
from securefl.audit.symbolic.derive import combinations_of
from securefl.audit.symbolic.search import _fits, _Search
from securefl.audit.symbolic.setting import told
from securefl.audit.symbolic.ways import State, Way
from securefl.audit.symbolic.world import _sealed

WORLDS = {setting: World.of(setting) for setting in SETTINGS}
names = {"ids": lambda value: getattr(value, "name", None)}


def sums(setting: Setting) -> set[frozenset[int]]:
    """Every set of honest parties that may be added up."""
    honest = setting.honest
    sizes = range(setting.threshold - len(setting.colluding), len(honest) + 1)
    return {frozenset(some) for size in sizes for some in combinations(honest, size)}


# The proof


@pytest.mark.parametrize("setting", SETTINGS, **names)
def test_no_state_gives_more_than_one_sum_over_enough_parties(setting: Setting) -> None:
    """And every such sum can be reached, so that states are not left out by mistake."""
    result = explore(WORLDS[setting])
    assert result.attack is None
    assert result.sums == sums(setting)


def test_the_lies_reach_every_check_of_a_party() -> None:
    for world in WORLDS.values():
        explore(world)
    refused = set().union(*(world.refused for world in WORLDS.values()))
    assert refused >= {"listed-order", "listed-own", "listed-cohort", "listed-distinct", "listed-signature"}
    assert refused >= {"sealed-set", "sealed-own", "sealed-cohort", "box-opens"}
    assert refused >= {"dropped-set", "dropped-own", "dropped-cohort"}
    assert refused >= {"agreed-count", "agreed-signature", "agreed-signers"}
    assert "broke" not in refused


@pytest.mark.parametrize("checks", [(), ("listed-signature",), ("dropped-cohort", "dropped-neighbours", "agreed-count")])
def test_what_is_left_out_of_the_search_changes_nothing(monkeypatch: pytest.MonkeyPatch, checks: tuple[str, ...]) -> None:
    """All combinations of all ways, one by one, with every way that a party can stop at."""
    without(*checks)(monkeypatch)
    world = World.of(Setting.of(3, lies=THREE.lies - {"boxes"}))
    search, found, bad = _Search(world, many=False), set[frozenset[int]](), 0
    for ways in product(*(every_way(world, u) for u in world.setting.honest)):
        state = dict(zip(world.setting.honest, ways, strict=True))
        if not _fits(state):
            continue
        known = search.knowledge(state)
        learned = combinations_of(state, known)
        both = tuple(known.seeds & known.keys)
        bad += search._judged(state, known, both, learned) is not None
        found |= search.result.sums
    result = explore(world)
    assert (result.attack is not None) == (bad > 0) == bool(checks)
    if not checks:
        assert result.sums == found


def every_way(world: World, u: int) -> list[Way]:
    out = [Way(run) for run in world.runs[u]] + [Way(cover.run, cover) for cover in world.covers[u]]
    return out + [Way(consent.cover.run, consent.cover, (consent,)) for consent in world.consents[u]]


@given(st.data())
@settings(max_examples=100)
def test_who_goes_further_tells_no_less(data: st.DataObject) -> None:
    """Why orders need not be told apart."""
    world = WORLDS[SETTINGS[2]]
    search = _Search(world, many=False)
    full: State = {u: data.draw(st.sampled_from(search.ways[u]), label=f"way of {u}") for u in world.setting.honest}
    cut = dict(full)
    for u, way in full.items():
        stops = [way, Way(way.run, way.cover), Way(way.run)]
        cut[u] = data.draw(st.sampled_from(stops), label=f"how far {u} comes")
    more, less = search.knowledge(full), search.knowledge(cut)
    assert less.seeds <= more.seeds
    assert less.keys <= more.keys
    assert less.bits & ~more.bits == 0
    assert len(combinations_of(cut, less)) <= len(combinations_of(full, more))


def test_two_attempts_open_no_two_sums() -> None:
    """The journal lets nobody whose vector has left join again, and any two sums over enough parties have one in common."""
    for setting in SETTINGS:
        for first, second in product(sums(setting), repeat=2):
            assert all(not may_join_again(sent=u in first) for u in first & second)
            assert first & second


def may_join_again(*, sent: bool) -> bool:
    journal = MemoryJournal()
    first = OccasionGuard(journal, Occasion("run", 0, 0))
    first.join()
    if sent:
        first.spend()
    try:
        OccasionGuard(journal, Occasion("run", 0, 1)).join()
    except Refused:
        return False
    return True


def test_control_without_a_journal_two_sums_differ_by_one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    without("journal-spent")(monkeypatch)
    assert may_join_again(sent=True)
    assert any(len(first - second) == 1 and second < first for first, second in product(sums(THREE), repeat=2))


# Controls


@pytest.mark.parametrize("control", CONTROLS, **names)
def test_control_without_it_there_is_an_attack(control: Control) -> None:
    """Proved: what the adversary derives is computed from its bytes."""
    world, result = control.explore()
    assert result.attack is not None
    assert result.attack.both or result.attack.learned
    if result.attack.learned:
        found = proved(world, result.attack)
        assert found.recovered == found.true
    assert "opens" in story(world, result.attack)[-1] or "both secrets" in story(world, result.attack)[-1]


@pytest.mark.parametrize("control", SECOND, ids=lambda control: f"{control.name}, {control.setting.parties}")
def test_something_else_stands_behind_what_is_not_needed_alone(control: Control) -> None:
    _, result = control.explore()
    assert result.attack is None


def test_the_tables_of_the_document_name_every_control() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    for name in [one.name for one in (*CONTROLS, *SECOND)] + [setting.name for setting in SETTINGS]:
        assert f"| {name.replace('|', BAR)} |" in page


# Real sessions do what is explored


def fed_to(session: Session, message: Message, epoch: int = 0) -> list[Message]:
    """What a session answers."""
    frames = list(Letter(SERVER, (session.me,), message, epoch, session.limits).chunks())
    return [letter.message for frame in frames if session.ended is None for letter in session.feed(SERVER, frame)]


def begun(world: World, u: int) -> Session:
    session = world.cast.fed.session(u)
    session.begin()
    session.provide(Vector(world.cast.fed.vectors[u]))
    return session


@pytest.mark.parametrize("setting", SETTINGS[:3], **names)
def test_sessions_take_and_refuse_the_same_lists(setting: Setting) -> None:
    world, u = WORLDS[setting], 1
    taken = {run.told.listed: run for run in world.runs[u]}
    assert world.earlier is not None
    for one in told(world.cast, world.cast.lines(world.earlier.cast)):
        session = begun(world, u)
        answers = fed_to(session, one.listed)
        if one.listed in taken:
            boxes: Any = answers[0]
            assert b"".join(box for box, _ in taken[one.listed].boxes.values()) == boxes.boxes
        else:
            assert session.ended is not None
            assert session.ended.check in world.refused


@pytest.mark.parametrize("setting", SETTINGS[:3], **names)
def test_sessions_send_the_same_vectors_signatures_and_shares_and_no_second_ones(setting: Setting) -> None:
    """A message that comes again, under whatever number, gives nothing."""
    world = WORLDS[setting]
    search = _Search(world, many=False)
    for consent in world.consents[1]:
        cover = consent.cover
        session, messages = begun(world, 1), [cover.run.told.listed, _sealed(cover.u2, cover.boxes), Dropped(consent.dropped)]
        _, [masked], [agree] = (fed_to(session, message) for message in messages)
        assert (masked.y.digest, masked.signature) == (cover.masked.y.digest, cover.masked.signature)  # type: ignore[attr-defined]
        assert agree.signature == consent.signature  # type: ignore[attr-defined]
        shown = search._open(consent, {})
        assert shown is not None
        [opened] = fed_to(session, shown[0])
        assert isinstance(opened, Openings)
        assert sum({world.shares.get(opened.shares[at : at + 33], 0) for at in range(0, len(opened.shares), 33)}) == shown[1]
        for message in (*messages, shown[0]):
            for epoch in (0, 1):
                assert [type(answer).__name__ for answer in fed_to(session, message, epoch)] in ([], ["Farewell"])
        assert not any(type(state).__name__ in {"Covered", "Consenting", "Shared"} for state in session.remembers)


@pytest.mark.parametrize("lie", range(8))
def test_sessions_refuse_the_same_sets(lie: int) -> None:
    """Every dropped set over one U2, of one party."""
    world = WORLDS[SETTINGS[0]]
    cover = next(cover for cover in world.covers[1] if len(cover.u2) == 3)
    dropped = tuple(u for u in (1, 2, 3) if lie >> u - 1 & 1)
    session = begun(world, 1)
    fed_to(session, cover.run.told.listed)
    fed_to(session, _sealed(cover.u2, cover.boxes))
    answers = fed_to(session, Dropped(dropped))
    signed = [consent for consent in world.consents[1] if consent.cover is cover and consent.dropped == dropped]
    assert [type(answer).__name__ for answer in answers] == (["Agree"] if signed else ["Farewell"])


def test_an_attack_that_is_found_succeeds_against_real_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    without("agreed-signature")(monkeypatch)
    control = next(control for control in CONTROLS if "agreed-signature" in control.name)
    world = World.of(control.setting)
    attack = explore(world, seek="many", victims=1).attack
    assert attack is not None
    assert replayed(world, attack) == attack.knowledge.bits
    monkeypatch.undo()
    assert replayed(world, attack) != attack.knowledge.bits


def replayed(world: World, attack: Attack) -> int:
    """The shares that real sessions open when they are told what the attack tells."""
    bits = 0
    for u, way in attack.state.items():
        session, cover = begun(world, u), way.cover
        messages: list[Message] = [way.run.told.listed]
        if cover is not None:
            messages += [
                _sealed(cover.u2, cover.boxes),
                Dropped(way.consents[0].dropped),
                attack.knowledge.opened.get(u, Agreed(())),
            ]
        for message in messages:
            for answer in fed_to(session, message):
                if isinstance(answer, Openings):
                    bits |= sum({world.shares.get(answer.shares[at : at + 33], 0) for at in range(0, len(answer.shares), 33)})
    return bits


# The command


def test_the_command_prints_a_row_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(SETTINGS)
    assert all(row.endswith("no bad state") for row in rows)


def test_the_command_takes_a_number_of_parties_and_one_list_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parties", "5", "--honest-lists", "--one-victim"]) == 0
    assert "n = 5, t = 4, |C| = 1" in capsys.readouterr().out


def test_the_command_tells_the_attack(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    without("listed-signature")(monkeypatch)
    assert main(["--parties", "3"]) == 1
    assert "keys of the server's" in capsys.readouterr().out


def test_the_command_refuses_numbers_that_no_sum_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--parties", "3", "--corrupt", "5"])
    assert ended.value.code == 2
    assert "corrupt" in capsys.readouterr().err
