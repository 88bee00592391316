"""What is made of pip-audit's report: nothing audited never reads as nothing found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import known_vulnerabilities
import pytest

GOOD: dict[str, Any] = {"name": "cbor2", "version": "6.3.0", "vulns": []}
BAD: dict[str, Any] = {"name": "jinja2", "version": "3.0.0", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
BLIND: dict[str, Any] = {"name": "numpy", "skip_reason": "Dependency not found on PyPI and could not be audited: numpy (2.4.6)"}


@pytest.mark.parametrize(
    ("dependencies", "code", "says"),
    [
        ([GOOD, GOOD], 0, "2 dependencies, none"),
        ([GOOD, BAD], 1, "jinja2 3.0.0: PYSEC-1, PYSEC-2"),
        ([BLIND, BAD], 1, "jinja2 3.0.0"),
        ([GOOD, BLIND], 1, "could not be audited:\nnumpy"),
        ([BLIND, BLIND], 0, "skipped, nothing was audited"),
        ([], 1, "no dependency"),
    ],
)
def test_verdicts(dependencies: list[dict[str, Any]], code: int, says: str) -> None:
    text, found = known_vulnerabilities.verdict({"dependencies": dependencies, "fixes": []})
    assert found == code
    assert says in text


@pytest.mark.parametrize("script", ["echo broken >&2; exit 1", "echo '{}'", "echo '[]'"])
def test_a_tool_that_gives_no_report_fails(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert known_vulnerabilities.main(str(tool), "constraints.txt") == 1
    assert "no report" in capsys.readouterr().out
