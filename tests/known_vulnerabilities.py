"""Known vulnerabilities in the versions that were tested together, by pip-audit in an environment of its own.

    python tests/known_vulnerabilities.py PIP_AUDIT constraints.txt

As ``pip-audit --strict``: a dependency that cannot be audited is a failure.  Only where none could, because the package index
carries no list of vulnerabilities, is nothing said about any: "skipped", exit code 0.  Without that distinction, such an index
gives "no known vulnerabilities" and success, with nothing audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """What to print, and the exit code."""

    text: str
    code: int


def verdict(report: dict[str, Any]) -> Verdict:
    """What follows from a report of ``pip-audit --format json``."""
    dependencies = report["dependencies"]
    bad = [f"{d['name']} {d['version']}: {', '.join(v['id'] for v in d['vulns'])}" for d in dependencies if d.get("vulns")]
    blind = [f"{d['name']}: {d['skip_reason']}" for d in dependencies if "skip_reason" in d]
    if bad:
        return Verdict("pip-audit: known vulnerabilities:\n" + "\n".join(bad), 1)
    if not dependencies:
        return Verdict("pip-audit: no dependency was found to audit", 1)
    if len(blind) == len(dependencies):
        return Verdict(f"pip-audit: skipped, nothing was audited: the package index has no list of vulnerabilities ({blind[0]})", 0)
    if blind:
        return Verdict("pip-audit: could not be audited:\n" + "\n".join(blind), 1)
    return Verdict(f"pip-audit: {len(dependencies)} dependencies, none with a known vulnerability", 0)


def main(tool: str, constraints: str) -> int:
    """Run the tool; 1 for whatever is wrong, the tool itself included."""
    command = [tool, "--requirement", constraints, "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    try:
        text, code = verdict(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        text, code = f"pip-audit: no report (exit code {done.returncode})\n{done.stderr.strip()}", 1
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
