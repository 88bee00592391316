"""The rules on the syntax tree find what they are for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import static_rules

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "line",
    [
        'raise ValueError(f"bad seed {seed.reveal()}")',
        'raise ValueError("bad seed", seed.reveal().hex())',
        'text = f"{b.reveal()!r}"',
        'text = f"{self._raw.hex()}"',
        'text = "%s" % seed.reveal()',
        'text = "{}".format(seed.reveal())',
        "print(list(key.reveal()))",
        'log.warning("share %s", key.reveal())',
        "text = str(bytes(key.reveal()))",
        "text = repr((1, key.reveal()))",
        "text = json.dumps({'key': key.reveal().hex()})",
        'raw = key.reveal()\n    other = raw\n    raise ValueError(f"{other[:4]}")',
        "if (raw := key.reveal()):\n        print(raw)",
        'raw = b""\n    raw += key.reveal()\n    warnings.warn(raw)',
        'return lambda: f"{key.reveal()}"',
    ],
)
def test_a_secret_in_a_text_is_found(line: str) -> None:
    found = static_rules.check(f"def f(self, key, seed, b, log):\n    {line}\n", "protocols/rand.py")
    assert [finding.rule for finding in found] == ["secret-in-text"]


@pytest.mark.parametrize(
    "line",
    [
        'raise ValueError(f"a key has 32 bytes, not {len(key.reveal())}")',
        "return hkdf(key.reveal())",
        'raise ValueError(f"{key}")',
        "raw = key.reveal()\n    return seal(raw)",
        'public = derive(key.reveal())\n    return f"{public.hex()}"',
        "fits = key.reveal() == other\n    print(fits)",
        "return hashlib.sha256(key.reveal()).hexdigest()",
    ],
)
def test_what_gives_no_secret_away_passes(line: str) -> None:
    assert static_rules.check(f"def f(self, key, other):\n    {line}\n", "protocols/rand.py") == []


def test_a_name_is_secret_only_where_it_was_assigned() -> None:
    source = "def f(key):\n    raw = key.reveal()\n    return use(raw)\n\n\ndef g(raw):\n    print(raw)\n"
    assert static_rules.check(source, "protocols/rand.py") == []


def test_secrets_leave_their_type_only_in_listed_modules() -> None:
    source = "def f(key):\n    return hkdf(key.reveal())\n"
    (finding,) = static_rules.check(source, "securefl/round.py")
    assert str(finding).startswith("securefl/round.py:2: reveal-where: ")
    assert static_rules.check(source, "protocols/primitives/agree.py") == []


def test_every_listed_door_is_used() -> None:
    for door in static_rules.DOORS:
        place = ROOT / door
        files = place.rglob("*.py") if place.is_dir() else [place]
        assert any(".reveal()" in file.read_text() for file in files), door


def test_the_command_names_the_line_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "leak.py").write_text("def f(key):\n    print(key.reveal())\n")
    monkeypatch.chdir(tmp_path)
    assert static_rules.main(["mine"]) == 1
    assert "mine/leak.py:2: secret-in-text: reveal()" in capsys.readouterr().out


def test_our_own_tree_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert static_rules.main(["protocols", "securefl"]) == 0
