"""``python -m securefl``: the same as the command ``securefl``."""

from __future__ import annotations

import sys

from securefl.cli import main

if __name__ == "__main__":
    sys.exit(main())
