"""Outputs that are there completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from securefl.errors import UserError


def atomic_write(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, flush to the disk, then rename over ``path``.

    Whoever reads ``path`` sees the old file or the new one, never a part.  On any failure the temporary file is removed.

    Raises:
        OSError: the folder is missing or full, or may not be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_folder(folder: Path, names: tuple[str, ...] = ()) -> None:
    """Refuse a folder that could not be written later; leaves nothing behind and does not create it.

    Args:
        folder: where outputs shall go; it may not exist yet.
        names: files that will be written there.

    Raises:
        UserError: a part of the path is no folder, may not be written, or one of ``names`` is taken by a folder.
    """
    existing = folder
    while not (existing.exists() or existing.is_symlink()):
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"--out {folder}: {existing} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"--out {folder}: cannot write in {existing}: {error.strerror or error}") from None
    for name in names:
        if (folder / name).is_dir():
            raise UserError(f"--out {folder}: {folder / name} is a folder, and a file of that name is to be written")


def write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Create the folder if needed and write every file with `atomic_write`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        atomic_write(folder / name, content)
        paths.append(folder / name)
    return paths


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
