"""``python -m securefl.audit.symbolic``: explore SecAgg with three and four parties, or with a number of one's own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from protocols.errors import Misuse
from securefl.audit.symbolic import Setting, World, explore, story
from securefl.audit.symbolic.setting import BOXES, LIES

SETTINGS = (Setting.of(3), Setting.of(3, 1, 3), Setting.of(4), Setting.of(4, 0), Setting.of(4, 2))
"""Every |C| that three and four parties can stand, with the least threshold for it."""


def main(words: Iterable[str] | None = None) -> int:
    """Print a row for each setting; 1 where a state was found that must not be."""
    parser = argparse.ArgumentParser(prog="python -m securefl.audit.symbolic", description=__doc__)
    parser.add_argument("--parties", type=int, help="n; without it, all settings of 3 and 4 parties")
    parser.add_argument("--corrupt", type=int, help="|C|, how many help the server")
    parser.add_argument(
        "--honest-lists", action="store_true", help="everybody is told the one list, so that more parties can be explored"
    )
    parser.add_argument("--one-victim", action="store_true", help="one honest party stands for all")
    said = parser.parse_args(None if words is None else list(words))
    try:
        lies = [BOXES] if said.honest_lists else LIES
        settings = SETTINGS if said.parties is None else (Setting.of(said.parties, said.corrupt, lies=lies),)
        return max(_show(setting, 1 if said.one_victim else None) for setting in settings)
    except Misuse as error:
        parser.error(str(error))


def _show(setting: Setting, victims: int | None) -> int:
    world = World.of(setting)
    result = explore(world, victims=victims)
    verdict = "no bad state" if result.attack is None else "BROKEN"
    sys.stdout.write(
        f"{setting.name}: {result.messages} messages, {result.ways} ways, {result.states} states, "
        f"{len(result.sums)} sums that may open, {world.seconds + result.seconds:.1f} s: {verdict}\n"
    )
    for line in [] if result.attack is None else story(world, result.attack):
        sys.stdout.write(f"  {line}\n")
    return int(result.attack is not None)


if __name__ == "__main__":
    sys.exit(main())
