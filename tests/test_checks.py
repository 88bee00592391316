"""docs/checks.md names every check in the code and nothing else, and for each a test that exists and speaks of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = [ast.parse(path.read_text()) for package in ("protocols", "securefl") for path in sorted((ROOT / package).rglob("*.py"))]
ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| `([\w./]+)::(\w+)` \|$", re.MULTILINE)
CONTROL = re.compile(r"`(test_adv_\w+\.py)::(test_control_\w+)` \|$", re.MULTILINE)
DOCUMENT = (ROOT / "docs" / "checks.md").read_text()
TABLE = ROW.findall(DOCUMENT)


def takers() -> dict[str, int]:
    """Functions and errors with a parameter named ``check``: its position in a call."""
    out = {}
    for tree in TREES:
        for node in ast.walk(tree):
            bodies = [(node.name, node)] if isinstance(node, ast.FunctionDef) else []
            if isinstance(node, ast.ClassDef):
                bodies = [(node.name, f) for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
            for name, function in bodies:
                names = [argument.arg for argument in function.args.args if argument.arg not in {"self", "cls"}]
                if "check" in names:
                    out[name] = names.index("check")
    return out


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def checks() -> Iterator[str]:
    places = takers()
    assert {"require", "Refused", "Abort"} <= places.keys()
    for tree in TREES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and called(node) in places and len(node.args) > places[called(node)]:
                value = node.args[places[called(node)]]
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def source(path: Path, name: str) -> str:
    """Source of a test, its parameters and the tables that they name included."""
    text = path.read_text()
    lines, parts = text.splitlines(), dict[str, str]()
    for node in ast.parse(text).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        body = "\n".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.FunctionDef):
            parts[node.name] = body
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            parts[ast.unparse(target)] = body
    assert name in parts, f"{path.name} has no {name}"
    found = parts[name]
    return found + "".join(body for table, body in parts.items() if table.isupper() and re.search(rf"\b{table}\b", found))


def test_the_table_names_every_check_and_nothing_else() -> None:
    named = [check for check, *_ in TABLE]
    assert len(named) == len(set(named))
    assert set(named) == set(checks())
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE)


def test_ids_have_one_form() -> None:
    assert [check for check in checks() if not re.fullmatch(r"[a-z]+(-[a-z]+)*", check)] == []


@pytest.mark.parametrize(("check", "file", "test"), [(check, file, test) for check, _, _, file, test in TABLE])
def test_the_named_test_exists_and_speaks_of_the_check(check: str, file: str, test: str) -> None:
    body = source(ROOT / "tests" / ("" if "/" in file else "protocols") / file, test)
    assert re.search(rf"(?<![\w-]){check}(?![\w-])", body), f"{test} does not mention {check}"


def test_every_negative_control_is_in_the_table() -> None:
    files = (ROOT / "tests" / "protocols").glob("test_adv_*.py")
    controls = {(path.name, name) for path in files for name in re.findall(r"def (test_control_\w+)", path.read_text())}
    assert len(controls) >= 7
    assert set(CONTROL.findall(DOCUMENT)) == controls
