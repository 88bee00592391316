"""Errors of the learning layer that a user caused and can mend: one line, exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input.  The text is one line that names the culprit and the allowed range."""
