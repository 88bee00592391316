"""What the protocol layer may touch: a whitelist of imports, one source of randomness, no I/O, no clock, no code made at run time.

The source is read, not run: this keeps honest code from straying, and stops nobody who hides what he does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "protocols"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

LIBRARIES = {"protocols", "numpy", "cryptography", "cbor2", "typing_extensions"}
PURE = set(
    """
    __future__ abc bisect collections contextlib contextvars dataclasses enum functools hashlib heapq hmac html inspect itertools
    math operator re struct textwrap types typing
    """.split()  # noqa: SIM905
)
"""Modules of the standard library that compute and do nothing else."""
MORE = {
    "__init__.py": {"importlib"},
    "plugins.py": {"importlib.metadata"},
    "rand.py": {"os"},
    "once.py": {"contextvars"},
    "primitives/homomorphic.py": {"os", "sys"},
}
"""What one file may import beside: names loaded on first use, what packages offer, the operating system's randomness, shared work,
memory files."""
ON_USE = {
    "he*.py": {"tenseal"},
    "primitives/he*.py": {"tenseal"},
    "primitives/homomorphic.py": {"tenseal"},
    "primitives/negacyclic.py": {"scipy.fft"},
}
"""What the modules of homomorphic sums may import inside a function, and that of products in a ring: both load slowly."""
ONLY = {
    ("rand.py", "os"): {"urandom"},
    ("__init__.py", "importlib"): {"import_module"},
    ("plugins.py", "importlib.metadata"): {"entry_points", "EntryPoint"},
}
"""All that these files may use of those modules."""

BUILT_IN = {"open", "input", "print", "breakpoint", "exec", "eval", "compile", "__import__"}
NUMPY = {"random", "load", "save", "savez", "loadtxt", "savetxt", "genfromtxt", "fromfile", "tofile", "memmap", "DataSource"}
"""Parts of numpy with randomness of their own, or that read and write files."""


def allowed(file: str, table: dict[str, set[str]]) -> set[str]:
    return set().union(*(names for pattern, names in table.items() if fnmatch(file, pattern)))


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name bound by it) for each import that a node makes."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield f"{'.' * node.level}{node.module or ''}.{alias.name}", alias.asname or alias.name


def violations(source: str, file: str) -> list[str]:
    """What a module of the package does that none may do."""
    tree, out = ast.parse(source), list[str]()
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(f)}
    homes = {name: module for node in ast.walk(tree) for module, name in imported(node)}
    for node in ast.walk(tree):
        for module, _ in imported(node):
            top = module.partition(".")[0]
            known = LIBRARIES | PURE | allowed(file, MORE) | (allowed(file, ON_USE) if id(node) in inside else set())
            parts = set(module.split(".")[1:])
            if (
                not {top, module} & known
                or (top == "numpy" and parts & NUMPY)
                or (top == "os" and isinstance(node, ast.ImportFrom))
            ):
                out.append(f"imports {module}")
        if isinstance(node, ast.Name) and node.id in BUILT_IN and node.id not in homes:
            out.append(f"uses {node.id}")
        if isinstance(node, ast.Attribute):
            out += _attribute(node, homes, file)
    return out


def _attribute(node: ast.Attribute, homes: dict[str, str], file: str) -> Iterator[str]:
    root: ast.AST = node.value
    while isinstance(root, ast.Attribute):
        root = root.value
    home = homes.get(root.id, "") if isinstance(root, ast.Name) else ""
    top = home.partition(".")[0]
    if (top == "numpy" and node.attr in NUMPY) or node.attr in {"tofile", "__globals__", "__builtins__", "__subclasses__"}:
        yield f"uses {node.attr}"
    if top == "cryptography" and node.attr.startswith("generate"):
        yield f"uses {home}.{node.attr}, which draws randomness of its own"
    if (file, home) in ONLY and node.attr not in ONLY[file, home]:
        yield f"uses {home}.{node.attr}"


@pytest.mark.parametrize("file", SOURCES)
def test_a_module_of_the_protocol_layer_computes_and_does_nothing_else(file: str) -> None:
    assert violations(SOURCES[file], file) == []


BAD = {
    "import socket": "secagg.py",
    "import socket as math": "secagg.py",
    "import os.path": "wire.py",
    "from os import urandom": "rand.py",
    "import os\nos.getenv('HOME')": "rand.py",
    "import secrets": "rand.py",
    "import time": "session.py",
    "from datetime import datetime": "session.py",
    "import random": "reference.py",
    "def f():\n    import random": "reference.py",
    "from random import randbytes": "rand.py",
    "import numpy.random": "ring.py",
    "from numpy import random": "ring.py",
    "from numpy.random import default_rng": "ring.py",
    "import numpy as np\nnp.random.default_rng()": "ring.py",
    "import numpy as np\nmake = np.random": "ring.py",
    "import numpy as np\nnp.fromfile('x')": "ring.py",
    "import numpy as np\nnp.zeros(3).tofile('x')": "ring.py",
    "def f(x):\n    x.values.tofile('x')": "ring.py",
    "import numpy as np\nnp.lib.npyio.DataSource()": "ring.py",
    "open('x')": "policy.py",
    "read = open": "policy.py",
    "eval('1')": "flow.py",
    "__import__('socket')": "flow.py",
    "import importlib": "sums.py",
    "from importlib import metadata": "sums.py",
    "import importlib ": "plugins.py",
    "from importlib import import_module": "plugins.py",
    "from importlib.metadata import distributions": "plugins.py",
    "from importlib import metadata\nmetadata.distributions()": "plugins.py",
    "import importlib.metadata\nimportlib.import_module('x')": "plugins.py",
    "import importlib\nimportlib.reload(importlib)": "__init__.py",
    "import threading": "session.py",
    "import asyncio": "session.py",
    "import ctypes": "primitives/agree.py",
    "import sys": "simulate.py",
    "import pickle": "wire.py",
    "import torch": "vector.py",
    "import securefl": "sums.py",
    "from . import rand": "wire.py",
    "import scipy.stats": "suite.py",
    "def f():\n    from scipy import stats": "primitives/negacyclic.py",
    "from scipy import fft ": "primitives/negacyclic.py",
    "from scipy import fft": "ring.py",
    "import tenseal": "he.py",
    "def f():\n    import tenseal": "secagg.py",
    "from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey as Pair\nPair.generate()": "primitives/agree.py",
    "from cryptography.hazmat.primitives.asymmetric import ed25519\ned25519.Ed25519PrivateKey.generate()": "primitives/sign.py",
    "from cryptography.hazmat.primitives.ciphers.aead import AESGCM as Box\nBox.generate_key(256)": "primitives/seal.py",
}


@pytest.mark.parametrize(("source", "file"), BAD.items())
def test_the_whitelist_bites(source: str, file: str) -> None:
    assert len(violations(source, file)) >= 1


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("import os\nseed = os.urandom(32)", "rand.py"),
        ("from importlib import metadata\nmetadata.entry_points(group='x')", "plugins.py"),
        ("import numpy as np\nnp.zeros(3)", "ring.py"),
        ("def f():\n    import tenseal.sealapi as seal", "he.py"),
        ("from protocols.primitives.agree import KeyPair\nKeyPair.generate(rand, 'c')", "secagg.py"),
        ("from cryptography.hazmat.primitives.asymmetric import ed25519\ned25519.Ed25519PrivateKey.from_private_bytes(b)", "x.py"),
        ("layout.open(field)", "wire.py"),
    ],
)
def test_what_is_needed_passes(source: str, file: str) -> None:
    assert violations(source, file) == []


def test_the_operating_system_is_asked_in_one_place() -> None:
    nodes = [(file, node) for file, text in SOURCES.items() for node in ast.walk(ast.parse(text))]
    assert [file for file, node in nodes if isinstance(node, ast.Attribute) and node.attr == "urandom"] == ["rand.py"]
