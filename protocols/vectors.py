"""Test vectors: runs, refused messages and primitives, recorded so that another implementer can reproduce every byte.

`trees` makes them for any protocol; `check` makes a recorded one again, from what stands in it, and compares.

What it does not protect: every secret of a vector stands in its file.  Its identities and seeds are never to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocols.errors import Misuse
from protocols.sums import Scheme, scheme
from protocols.vectors_bad import bad_tree, bad_trees
from protocols.vectors_primitives import PRIMITIVES, primitive_tree, primitive_trees
from protocols.vectors_run import run_tree
from protocols.vectors_setting import setting_of, settings
from protocols.vectors_tree import FORMAT, Mismatch, Tree, compare, part

__all__ = ["FORMAT", "PRIMITIVES", "Mismatch", "check", "primitive_trees", "trees"]


def trees(protocol: Scheme) -> Iterator[tuple[str, Tree]]:
    """Every case of a protocol, by the name of its file: runs, then bad messages.

    Raises:
        Mismatch: where flow and reference differ.
    """
    for name, setting in settings(protocol):
        yield name, run_tree(name, setting)
    yield from bad_trees(protocol)


def check(name: str, tree: Tree, find: Callable[[str], Scheme] = scheme) -> int:
    """Make a case again and compare.

    Args:
        name: of its file, without the ending.
        tree: what stands in it.
        find: from its name, a protocol; by default one of `protocols.sums.SCHEMES`.

    Returns:
        The number of its operations.

    Raises:
        Mismatch: naming the entry or operation that differs.
        Misuse: for what is no vector of this format.
    """
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise Misuse(f"it is no vector of the format {FORMAT!r}")
    part(tree, "operations", list)
    if (case := part(tree, "case", str)) != name:
        raise Misuse(f"it holds the case {case!r}: a file is named as its case")
    made = _made(case, tree, find)
    compare(tree, made)
    return len(made["operations"])


def _made(case: str, tree: Tree, find: Callable[[str], Scheme]) -> Tree:
    protocol = part(tree, "protocol", str)
    if protocol == PRIMITIVES:
        return primitive_tree(case)
    setting = setting_of(tree, find(protocol))
    if "bad" not in tree:
        return run_tree(case, setting)
    if (made := bad_tree(case, setting, part(tree, "bad", str))) is None:
        raise Misuse(f"no message of {protocol} can be bad in the way {tree['bad']!r}")
    return made
