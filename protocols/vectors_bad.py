"""Bad messages as test vectors: each kind of message of any protocol, spoilt in each way, and the check that refuses it.

A bad message is fed to its receiver in the state in which the good one would reach it in the run where everybody stays.  What is
recorded is what the receiver's session does: refuse it by the id of a check, or take it, where nobody could tell at that point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from protocols.errors import Misuse, Refused
from protocols.session import SERVER, Address, Farewell, Session
from protocols.sums import Scheme
from protocols.vectors_run import Run, content, message, run
from protocols.vectors_setting import Setting, header, standard
from protocols.vectors_spoil import WAYS, Good, Spoilt
from protocols.vectors_tree import Mismatch, Tree, slug
from protocols.wire import Decoder


def bad_cases(scheme: Scheme) -> dict[str, str]:
    """The bad cases of a protocol: name of the file, and the way."""
    return {f"{slug(scheme.name)}_bad_{way}": way for way in WAYS}


def bad_tree(name: str, setting: Setting, way: str, runs: tuple[Run, Run] | None = None) -> Tree | None:
    """The file of one way of spoiling, over every kind of message; None where it fits none of them.

    Args:
        name: of the case.
        setting: of the run where everybody stays.
        way: a name in `WAYS`.
        runs: the two runs of `pair`, if they are there already.

    Raises:
        Misuse: for a way that does not exist, or a run with dropouts.
    """
    if way not in WAYS or setting.dropouts:
        raise Misuse(f"bad messages are made in a run without dropouts, in one of the ways {', '.join(WAYS)}")
    base, other = runs or pair(setting)
    operations = [_operation(good, spoilt) for good in goods(base, other) for spoilt in WAYS[way](good)]
    if not operations:
        return None
    about = (WAYS[way].__doc__ or "").strip()
    return {**header(name, about, setting), "base": f"{slug(setting.scheme.name)}_no_dropout", "bad": way, "operations": operations}


def pair(setting: Setting) -> tuple[Run, Run]:
    """The run that bad messages are made in, and the same one round later."""
    o = setting.occasion
    return run(setting), run(replace(setting, occasion=replace(o, round=o.round + 1)))


def goods(base: Run, other: Run) -> Iterator[Good]:
    """The first message of every kind."""
    for kind in base.setting.scheme.flow.messages():
        found = [(at, letter) for at, letter in enumerate(base.letters) if type(letter.message) is kind]
        if not found:
            raise Mismatch(f"no {kind.__name__} is sent where everybody stays")
        at, letter = found[0]
        yield Good(base, other, at, letter, letter.to[0])


def _operation(good: Good, spoilt: Spoilt) -> Tree:
    who, after = spoilt.sender or good.letter.sender, good.at + spoilt.again
    data = content(spoilt.data, good.base.setting)
    tree = message(who, [good.to], good.letter.message, {"after": after, "how": spoilt.how, **data})
    check = refusal(good, who, spoilt.data, after)
    return tree | ({"success": True} if check is None else {"success": False, "check": check})


def refusal(good: Good, who: Address, data: bytes, after: int) -> str | None:
    """What the receiver says to a message after the first ``after`` ones of the run: the id of a check, or None if it is taken."""
    session = receiver(good.base, good.to, after)
    before = len(session.faults)
    session.feed(who, data)
    if session.faults[before:]:
        return session.faults[before].check
    if session.ended is not None:
        return session.ended.check
    flow = session.flow
    kinds = {k.__name__: k for k in [*flow.messages(good.to.role), Farewell] if k is Farewell or flow.sender(k).role == who.role}
    decoder = Decoder(kinds, session.limits)
    decoder.feed(data)
    try:
        decoder.message()
    except Refused as error:
        return error.check
    return None


def receiver(base: Run, me: Address, after: int) -> Session:
    """A party's session when it has got what the first ``after`` messages of a run hold for it."""
    session = base.setting.session(me)
    session.begin()
    if me != SERVER:
        session.provide(base.setting.vector(me.index))
    for letter in base.letters[:after]:
        if me in letter.to:
            session.feed(letter.sender, b"".join(letter.chunks()))
    return session


def bad_trees(scheme: Scheme) -> Iterator[tuple[str, Tree]]:
    """Every bad case of a protocol, by name."""
    setting = standard(scheme)
    runs = pair(setting)
    for name, way in bad_cases(scheme).items():
        if (tree := bad_tree(name, setting, way, runs)) is not None:
            yield name, tree
