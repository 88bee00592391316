"""The picture of docs/audit.md: a record, and what gradient inversion makes of what somebody may have of its update.

    python benchmarks/reconstruction.py docs/audit-reconstruction.svg

The record is a handwritten digit of scikit-learn's public set; mask, sum and noise are those of training (`local-record`, ε = 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.audit.measured.pictures import row_of_pictures
from securefl.audit.measured.reconstruction import views
from securefl.audit.measured.run import setting_of


def main(out: Annotated[Path, typer.Argument(help="The picture, SVG.")]) -> None:
    """Draw."""
    out.write_text(row_of_pictures(views(setting_of("local-record", None, quick=True))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
