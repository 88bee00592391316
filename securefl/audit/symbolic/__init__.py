"""SecAgg with few parties, explored whole: every lie of the server, every state, and what can be derived there.

    from securefl.audit.symbolic import Setting, World, explore

    result = explore(World.of(Setting.of(4)))
    assert result.attack is None

The server and up to |C| parties lie as they like: different lists, keys, boxes, sets of dealers and dropped sets to different
parties, in any order, with messages of an earlier round at hand.  The parties are the real steps of `protocols.secagg`, with real
bytes; who can derive what is found by symbols (`securefl.audit.symbolic.search`).  It holds in every state that

    no honest party's two secrets, b and s_sk, are both derived, and
    nothing is learned of the vectors but one sum over at least t − |C| honest parties.

What it does not show: anything of more parties than were explored, of the sparse graph, of messages that break a step in another
way than those that are listed, or of the cryptography, which is taken to be perfect.
"""

from __future__ import annotations

from securefl.audit.symbolic.search import Attack, Result, explore
from securefl.audit.symbolic.setting import Setting
from securefl.audit.symbolic.trace import proved, story
from securefl.audit.symbolic.world import World

__all__ = ["Attack", "Result", "Setting", "World", "explore", "proved", "story"]
