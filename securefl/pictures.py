"""Files of pictures: which names they may have, and the same bytes for the same picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.errors import UserError
from securefl.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".svg", ".png", ".pdf")


def picture_file(path: Path) -> Path:
    """``path``, if a picture can be written there.

    Raises:
        UserError: for another ending, or a folder that is missing.
    """
    if path.suffix.lower() not in PICTURES:
        raise UserError(f"--plot {path}: a picture ends in {', '.join(PICTURES)}")
    if not path.resolve().parent.is_dir() or path.is_dir():
        raise UserError(f"--plot {path}: its folder is missing, or it is one")
    return path


def drawn(figure: Figure, ending: str) -> bytes:
    """A figure as the content of a file ``.svg``, ``.png`` or ``.pdf``, without the time; ``ending`` has no dot."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import

    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "securefl"}):
        figure.savefig(out, format=ending, metadata={"CreationDate" if ending == "pdf" else "Date": None})
    return out.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole, or not at all."""
    atomic_write(path, drawn(figure, path.suffix[1:].lower()))
