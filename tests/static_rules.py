"""Rules that no linter has, on the syntax tree: secrets stay out of texts, and leave their types only where it is expected.

    python tests/static_rules.py protocols securefl

- ``secret-in-text``: what `Secret.reveal` gives, a private attribute that holds a secret, or a name that was assigned from either
  in the same function, inside an f-string, a ``%`` or ``format`` of a text, ``str``, ``repr``, ``print``, a log line, a warning, an
  exception or JSON.  Lengths and types of secrets may be said.
- ``reveal-where``: ``reveal()`` is called in a module that is not in `DOORS`.

Exit code 1 with a line ``file:line: rule: why`` for each finding.  What a function gives to another that then prints it is not
seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOORS = (
    "protocols/rand.py",
    "protocols/primitives/",
    "protocols/secagg.py",
    "protocols/secagg_labels.py",
    "protocols/batch.py",
    "protocols/he.py",
    "protocols/reference.py",  # the oracles: the arithmetic of a whole sum, every secret in view
    "protocols/he_reference.py",
    "protocols/vectors_operations.py",  # vectors of primitives print what their secrets give
    "protocols/vectors_setting.py",
    "securefl/transport/keyfiles.py",  # to the file of a long-term identity
    "securefl/audit/",  # searches for secrets, and shows the one it recovered beside the true one
)
"""Where a secret may leave its type."""

HOLDERS = frozenset({"_raw", "_secret", "_private", "_seed", "_coefficients"})
"""Private attributes that hold secrets."""

SAYERS = frozenset({"str", "repr", "format", "print", "ascii"})
METHODS = frozenset(
    {"format", "debug", "info", "warning", "error", "critical", "exception", "log", "warn", "echo", "dumps", "print"}
)
HARMLESS = frozenset({"len", "type", "isinstance", "id"})


class Finding(NamedTuple):
    """One place that breaks a rule."""

    file: str
    line: int
    rule: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.rule}: {self.why}"


def check(source: str, file: str) -> list[Finding]:
    """What is wrong in one module; ``file`` is its path from the root of the project, with slashes."""
    tree, found = ast.parse(source, file), list[Finding]()
    if not file.startswith(DOORS):
        found += [
            Finding(file, call.lineno, "reveal-where", "a secret leaves its type in a module that is not listed")
            for call in _reveals(tree)
        ]
    for scope in [
        tree,
        *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)),
    ]:
        names = _tainted(scope)
        for node in _within(scope):
            found += [Finding(file, part.lineno, "secret-in-text", why) for part in _said(node) if (why := _secret(part, names))]
    return sorted(set(found))


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of one scope, without those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _within(child)


def _reveals(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reveal":
            yield node


def _tainted(scope: ast.AST) -> set[str]:
    """Names that hold something secret in a scope, whatever the order of its lines."""
    names = set[str]()
    while True:
        before = len(names)
        for node in _within(scope):
            value, targets = getattr(node, "value", None), list[ast.expr]()
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
                targets = [node.target]
            if targets and value is not None and _secret(value, names):
                names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        if len(names) == before:
            return names


def _said(node: ast.AST) -> list[ast.expr]:
    """The expressions that a node turns into text for somebody to read."""
    match node:
        case ast.FormattedValue(value=value):
            return [value]
        case ast.BinOp(left=ast.Constant(value=str()), op=ast.Mod(), right=right):
            return [right]
        case ast.Raise(exc=ast.Call(args=args, keywords=keywords)):
            return [*args, *(keyword.value for keyword in keywords)]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in SAYERS:
            return [*args, *(keyword.value for keyword in keywords)]
        case ast.Call(func=ast.Attribute(attr=name), args=args, keywords=keywords) if name in METHODS:
            return [*args, *(keyword.value for keyword in keywords)]
    return []


def _secret(expression: ast.AST, names: set[str]) -> str:  # noqa: PLR0911  (one case each)
    """What is secret in an expression, or an empty text.  Calls of anything but methods of a secret give something else."""
    match expression:
        case ast.Call(func=ast.Attribute(attr="reveal")):
            return "reveal()"
        case ast.Call(func=ast.Name(id=name)) if name in HARMLESS:
            return ""
        case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in ("hex", "decode", "copy", "tolist", "tobytes"):
            return _secret(value, names)
        case ast.Call(func=ast.Name(id=name), args=args) if name in ("bytes", "list", "tuple", "memoryview", *SAYERS):
            return next((why for part in args if (why := _secret(part, names))), "")
        case ast.Call():
            return ""
        case ast.Attribute(attr=name) if name in HOLDERS:
            return name
        case ast.Name(id=name):
            return name if name in names else ""
        case ast.Compare():
            return ""
    return next((why for part in ast.iter_child_nodes(expression) if (why := _secret(part, names))), "")


def main(folders: list[str]) -> int:
    """Check all modules below some folders of the current one."""
    found = [
        finding
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for finding in check(path.read_text(), path.as_posix())
    ]
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
