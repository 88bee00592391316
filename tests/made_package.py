"""A package with protocols as an installer leaves it: a module and its ``.dist-info``, in a folder for the path."""

from __future__ import annotations

import tomllib
from pathlib import Path

TOY = Path(__file__).parents[1] / "examples" / "ring_protocol"
SOURCE = (TOY / "ring_protocol.py").read_text(encoding="utf-8")
PROJECT = tomllib.loads((TOY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
POINTS: dict[str, str] = PROJECT["entry-points"]["securefl.protocols"]


def install(
    folder: Path, points: dict[str, str] | None = None, *, name: str = "", module: str = "ring_protocol", source: str = SOURCE
) -> Path:
    """Put a package into ``folder``: by default the toy of the examples, under the name and entry points of its project file."""
    name = name or PROJECT["name"]
    info = folder / f"{name.replace('-', '_')}-{PROJECT['version']}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {PROJECT['version']}\n", encoding="utf-8")
    lines = [f"{key} = {value}" for key, value in (POINTS if points is None else points).items()]
    (info / "entry_points.txt").write_text("\n".join(["[securefl.protocols]", *lines, ""]), encoding="utf-8")
    return folder
