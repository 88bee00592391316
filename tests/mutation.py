"""Mutation testing of `protocols/`, module by module: each mutant that mutmut makes of one file, against the tests that concern it.

    python tests/mutation.py protocols.agreement ...     (``make mutation MODULES=...`` sets up the rest)

Which tests concern a module is in pyproject.toml, ``[tool.securefl.mutation]``.  mutmut (in an environment of its own) makes the
mutants; they run here, as its trampolines change the signatures and annotations that messages and flows are read from, and it
leaves out decorated functions, which are the steps of a protocol.  So each mutant is the whole module with one change, given to a
forked process in place of the file; no file is changed.  Left out: what differs in the text of an error or in an annotation alone.
Whatever the tests import that does not import that module, itself or through others, is loaded once, before the forks; files of
tests are read one by one, until one has killed the mutant.

Each survivor is printed as a line of the difference, with a number by which ``--only N`` repeats it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import gc
import importlib
import importlib.abc
import importlib.util
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TEXTS = {"require": 2, "Misuse": 0, "UserError": 0, "Refused": 1, "Abort": 1, "TypeError": 0, "ValueError": 0}
"""Which argument of a call is the text of an error."""
COLLECT = """
import sys, pytest
class Report:
    def pytest_sessionfinish(self):
        print("modules", *sys.modules)
pytest.main(["--collect-only", "-q", "--assert=plain", "-p", "no:xdist", "-p", "no:securefl", *sys.argv[1:]], plugins=[Report()])
"""
"""Prints what is loaded once the tests are collected."""
SECONDS, MEMORY = 90, 6 << 30
"""Of computing, so that a busy machine kills nothing; ten times that on the clock."""


class _Bare(ast.NodeTransformer):
    """Without texts of errors and without annotations."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        at = TEXTS.get(node.func.id, 99) if isinstance(node.func, ast.Name) else 99
        if len(node.args) > at:
            node.args[at] = ast.Constant("")
        return self.generic_visit(node)


def bare(source: str) -> str:
    """What is compared."""
    return ast.dump(_Bare().visit(ast.parse(source)))


def make(path: Path) -> Iterator[str]:
    """The mutants of one file, by mutmut, decorated functions too; runs in mutmut's environment."""
    import libcst as cst
    from mutmut.mutation import file_mutation

    skip = file_mutation.MutationVisitor._skip_node_and_children

    def mutate_decorated(self: Any, node: Any) -> bool:
        if isinstance(node, cst.Assign) and isinstance(node.value, cst.Call) and getattr(node.value.func, "value", "") == "TypeVar":
            return True
        return False if isinstance(node, cst.FunctionDef) and node.decorators else skip(self, node)

    file_mutation.MutationVisitor._skip_node_and_children = mutate_decorated
    source = path.read_text()
    module, mutations, *_ = file_mutation.create_mutations(str(path), source)
    seen = {bare(source)}
    for one in mutations:
        code = module.deep_replace(one.original_node, one.mutated_node).code
        try:
            key = bare(code)
        except SyntaxError:
            continue
        if isinstance(one.original_node, cst.BaseString) and "XX" not in one.mutated_node.value:
            continue  # a label in other letters is a label changed, as the first mutant of a string has it
        if isinstance(one.original_node, cst.Call) and len(getattr(one.mutated_node, "args", ())) < len(one.original_node.args):
            continue  # mostly a TypeError; None in its place is made as well
        if key not in seen:
            seen.add(key)
            yield code


def imports(path: Path) -> set[str]:
    """What a file imports by name, within functions too; of ``from a import b`` both a and a.b."""
    out = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            out |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return out


def touched(name: str) -> set[str]:
    """The module, and those of ours that import it, themselves or through others."""
    files = [path for top in ("protocols", "securefl") for path in (ROOT / top).rglob("*.py")]
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports(path) for path in files}
    out, more = set[str](), {name}
    while more:
        out |= more
        more = {module for module, needs in graph.items() if needs & out} - out
    return out


def preload(name: str, tests: list[str]) -> None:
    """Import what the tests import and no mutant of the module can change."""
    said = subprocess.run([sys.executable, "-c", COLLECT, *tests], capture_output=True, check=False, text=True).stdout
    loaded = next(line for line in said.splitlines() if line.startswith("modules ")).split()[1:]
    out = touched(name) | {"__main__", "conftest", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    for module in loaded:
        parents = {module[:at] for at, letter in enumerate(module) if letter == "."}
        if not out & {module, *parents}:
            with contextlib.suppress(ImportError):  # a name that is put into sys.modules by another one
                importlib.import_module(module)
    if early := touched(name) & set(sys.modules):
        raise SystemExit(f"{name}: loaded before its mutants: {', '.join(sorted(early))}")
    gc.freeze()  # forked processes need not look through all this


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a text instead of its file."""

    def __init__(self, name: str, source: str, path: Path) -> None:
        self.name, self.source, self.path = name, source, path

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)  # noqa: S102


def run(name: str, source: str, path: Path, tests: list[str], seconds: int = SECONDS) -> int:
    """Start pytest on one mutant in a forked process; its id."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        sys.meta_path.insert(0, _Instead(name, source, path))
        import hypothesis
        import pytest

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure is not made smaller
        hypothesis.settings.register_profile(
            "mutation", database=None, derandomize=True, deadline=None, phases=phases, max_examples=25
        )
        os.environ["HYPOTHESIS_PROFILE"] = "mutation"
        for _, some in itertools.groupby(tests, lambda test: test.partition("::")[0]):
            code = int(pytest.main(["-x", "-q", "-p", "no:xdist", "-p", "no:securefl", "--assert=plain", "--tb=no", *some]))
            if code:
                break
    finally:
        os._exit(code)


def judge(name: str, mutants: dict[int, str], tests: list[str], workers: int, seconds: int = SECONDS) -> list[int]:
    """The numbers of the mutants that the tests do not kill."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    queue, running, alive = list(mutants.items()), dict[int, tuple[int, float]](), list[int]()
    while queue or running:
        while queue and len(running) < workers:
            number, source = queue.pop(0)
            running[run(name, source, path, tests, seconds)] = (number, time.monotonic() + 10 * seconds)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            number, _ = running.pop(pid)
            if status == 0:
                alive.append(number)
            print(f"  {name} {number}", "survives" if status == 0 else "killed", file=sys.stderr, flush=True)
            continue
        for late in [pid for pid, (_, until) in running.items() if time.monotonic() > until]:
            os.killpg(late, signal.SIGKILL)
        time.sleep(0.01)
    return sorted(alive)


def report(name: str, tests: list[str], asked: argparse.Namespace) -> None:
    """Judge the mutants of one module, and print what survives."""
    path = ROOT / f"{name.replace('.', '/')}.py"
    source, command = path.read_text(), [asked.mutmut, __file__, "--make", path]
    made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    mutants = {i: code for i, code in enumerate(made) if not asked.only or i in asked.only}
    preload(name, tests)
    if judge(name, {-1: source}, tests, 1) != [-1]:
        raise SystemExit(f"{name}: the tests fail without a mutant")
    alive = judge(name, mutants, tests, asked.workers, asked.seconds)
    print(f"{name}: {len(mutants)} mutants, {len(mutants) - len(alive)} killed, {len(alive)} survive")
    for number in alive:
        changed = difflib.unified_diff(source.splitlines(), made[number].splitlines(), lineterm="", n=0)
        print(f"#{number}", *(line for line in changed if not line.startswith(("---", "+++"))), sep="\n  ")
    sys.stdout.flush()


def main() -> None:
    """Judge the modules named; ``--make`` prints the mutants of one file as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--make", type=Path)
    parser.add_argument("--mutmut", default=".venv-mutation/bin/python", help="the Python that has mutmut")
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of computing, for one mutant")
    asked = parser.parse_args()
    if asked.make:
        json.dump(list(make(asked.make)), sys.stdout)
        return
    concerns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["securefl"]["mutation"]
    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half a second each
    for name in asked.modules or list(concerns):
        child = os.fork()  # each module in a process of its own: what is loaded for one would be too much for the next
        if not child:
            report(name, concerns[name], asked)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
