"""``securefl vectors``: writes the test vectors of `protocols.vectors` as JSON files, and checks a folder of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols import vectors
from protocols.errors import Misuse
from protocols.sums import SCHEMES, names, scheme
from securefl import files
from securefl.errors import UserError

Tell = Callable[[str], None]
"""Told the name of what comes next."""


@dataclass
class Report:
    """What came of a check.

    Attributes:
        files: files that match, by protocol.
        operations: their operations, by protocol.
        mismatches: for each file that does not match, its path and what differs.
    """

    files: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    mismatches: list[tuple[Path, str]] = field(default_factory=list)


def write(folder: Path, protocols: Sequence[str] = (), *, tell: Tell = lambda _: None) -> list[Path]:
    """Write the vectors of these protocols, or of all of ours; completely or not at all.

    Args:
        folder: where to; made where it does not exist.
        protocols: names of protocols, or ``primitives``.
        tell: told the name of each protocol.

    Returns:
        The files.

    Raises:
        Misuse: for a protocol that does not exist.
        UserError: where the folder cannot be written.
    """
    wanted = list(dict.fromkeys(protocols)) or [vectors.PRIMITIVES, *SCHEMES]
    known = {name: None if name == vectors.PRIMITIVES else _scheme(name) for name in wanted}
    files.check_folder(folder)
    contents = dict[str, bytes]()
    for name, protocol in known.items():
        tell(name)
        made = vectors.primitive_trees() if protocol is None else vectors.trees(protocol)
        contents |= {f"{case}.json": to_json(tree) for case, tree in made}
    return files.write_all(folder, contents)


def _scheme(name: str) -> Any:
    if name not in names():
        raise Misuse(f"no protocol {name!r}; there are {', '.join([vectors.PRIMITIVES, *names()])}")
    return scheme(name)


def to_json(tree: Mapping[str, Any]) -> bytes:
    """A vector as JSON, UTF-8, one line for each entry and each operation."""
    entries = [f"{_line(key)}: {_line(value)}" for key, value in tree.items() if key != "operations"]
    operations = ",\n".join(_line(operation) for operation in tree["operations"])
    return ("{\n" + ",\n".join([*entries, f'"operations": [\n{operations}\n]']) + "\n}\n").encode()


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def check(folder: Path, *, tell: Tell = lambda _: None) -> Report:
    """Check every file ``*.json`` of a folder.

    Args:
        folder: of the vectors.
        tell: told the name of each file.

    Raises:
        UserError: for a folder without vectors, or a file that is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    trees = {path: _read(path) for path in sorted(folder.glob("*.json"))}
    if not trees:
        raise UserError(f"{folder} holds no vectors: no file ends in .json")
    report = Report()
    for path, tree in trees.items():
        tell(path.stem)
        try:
            count = vectors.check(path.stem, tree)
        except vectors.Mismatch as error:
            report.mismatches.append((path, str(error)))
        except Misuse as error:
            raise UserError(f"{path}: {error}") from None
        else:
            report.files[tree["protocol"]] += 1
            report.operations[tree["protocol"]] += count
    return report


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from None
