"""Outputs that are there completely or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from securefl.errors import UserError


def atomic_write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write to a temporary name in the same folder, flush to the disk, then rename over ``path``.

    Whoever reads ``path`` sees the old file or the new one, never a part.  On any failure the temporary file is removed.  A
    ``private`` file is its owner's alone (mode 0600).

    Raises:
        OSError: the folder is missing or full, or may not be written.
    """
    _rename({path: _staged(path, content, private=private)})


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk: a file that was renamed there is found after a power cut, too.

    Raises:
        OSError: it is missing, or the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staged(path: Path, content: bytes, *, private: bool = False) -> Path:
    """The content on the disk under a temporary name beside ``path``."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o600 if private else 0o666 & ~_umask())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _rename(parts: Mapping[Path, Path]) -> None:
    """Give staged files their names.  Ctrl-C comes too late here and is ignored; on a failure what has no name yet is removed."""
    left = dict(parts)
    while left:
        path, part = next(iter(left.items()))
        try:
            if part.exists():
                part.replace(path)
            del left[path]
        except KeyboardInterrupt:
            continue
        except BaseException:
            for part in left.values():
                part.unlink(missing_ok=True)
            raise


def refuse_writable(named: str, mode: int) -> None:
    """Refuse a file that anybody but its owner may write, its group included: what it says is the owner's word.

    Args:
        named: the file, as an error names it.
        mode: its mode.

    Raises:
        UserError: with what to do.
    """
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{named} is refused: others may write it (chmod go-w)")


def keep_to_the_owner(named: str, path: Path, *, create: bool) -> None:
    """Make an empty file of mode 0600 where there is none; refuse what is no file, or open to others.

    Args:
        named: the file, as an error names it.
        path: where it is.
        create: whether it may be made.

    Raises:
        UserError: with what is wrong.
    """
    try:
        os.close(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"{named} cannot be used: {error.strerror or error}") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{named} cannot be used: it is no file")
    if mode & 0o077:
        raise UserError(f"{named} cannot be used: others may read or write it (mode {mode & 0o777:04o}); chmod 600 it")


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
        raise UserError(f"output into {folder}: {existing} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(f"output into {folder}: cannot write in {existing}: {error.strerror or error}") from None
    for name in names:
        if (folder / name).is_dir():
            raise UserError(f"output into {folder}: {folder / name} is a folder, and a file of that name is to be written")


def write_all(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Create the folder if needed and write every file as `atomic_write` does, all of them before the first gets its name.

    Returns:
        Their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = dict[Path, Path]()
    try:
        for name, content in contents.items():
            parts[folder / name] = _staged(folder / name, content)
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise
    _rename(parts)
    return list(parts)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
