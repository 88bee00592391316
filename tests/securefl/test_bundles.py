"""Bundles: what they may hold, that any changed byte is refused, who signed, and what a party decided on its own disk."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import wire
from protocols.errors import Refused
from protocols.primitives import sign
from protocols.primitives.sign import SigningKey
from protocols.rand import Seed
from protocols.wire import canonical
from securefl.bundles import contents, signed
from securefl.bundles.contents import FORMAT, Bundle
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError
from securefl.transport.desk_words import ANSWERED, ASKED, LARGEST_BUNDLE, MOST_ASKED, hear
from securefl.transport.pki import Authority, fingerprint
from securefl.transport.roster import Entry, SignedRoster

JOB = "[privacy]\nrounds = 3\n"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
AUTHORITY, OTHER = Authority.make("trial", NOW), Authority.make("trial", NOW)
ADA, BOB = (SigningKey.from_seed(Seed(bytes([at]) * 32)) for at in (1, 2))


def roster(serial: int = 1, **changed: bool) -> SignedRoster:
    """A party, an author and a server; by name, who is revoked."""
    entries = [
        Entry("north", "party", BOB.public, (bytes(32),), changed.get("north", False)),
        Entry("ada", "author", ADA.public, (bytes([1]) * 32,), changed.get("ada", False)),
        Entry("fed", "server", b"", (bytes([2]) * 32,)),
    ]
    return SignedRoster.make(AUTHORITY, "trial", serial, entries)


def bundle(**files: str) -> Bundle:
    return Bundle({"job.toml": JOB, **{name.replace("__", "/").replace("_py", ".py"): text for name, text in files.items()}})


def check_of(content: bytes) -> str:
    with pytest.raises(Refused) as caught:
        Bundle.read(content)
    return caught.value.check


# Contents

words = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
names = st.builds(lambda parts: "code/" + "/".join(parts) + ".py", st.lists(words, min_size=1, max_size=3))
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t"), max_size=40)


@given(st.dictionaries(names | st.sampled_from(["bundle.toml", "schema.toml", "requirements.lock"]), texts, max_size=6))
def test_a_bundle_is_read_back_as_it_was(files: dict[str, str]) -> None:
    made = Bundle({"job.toml": JOB, **files})
    read = Bundle.read(made.content)
    assert read == made
    assert read.hash == hashlib.sha256(made.content).digest() == made.hash
    assert dict(made.code) == {name[5:]: text for name, text in files.items() if name.startswith("code/")}


@given(st.data())
def test_any_changed_byte_is_refused_or_is_another_bundle_that_nobody_signed(data: st.DataObject) -> None:
    made = SignedBundle.make(bundle(code__model_py="x = 1\n"), "ada", ADA, AUTHORITY.certificate)
    document = bytearray(made.document)
    at = data.draw(st.integers(0, len(document) - 1))
    document[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused) as caught:
        SignedBundle.read(bytes(document), AUTHORITY.certificate).check(roster())
    assert caught.value.check.startswith(("bundle-", "wire-"))


@given(st.data())
def test_any_changed_byte_of_a_decision_is_refused(data: st.DataObject) -> None:
    made = Decision(fingerprint(AUTHORITY.certificate), "north", bytes(32), "refused", "no", 3, NOW.isoformat()).signed(BOB)
    document = bytearray(made.document)
    document[data.draw(st.integers(0, len(document) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Refused) as caught:
        Decision.read(bytes(document), AUTHORITY.certificate).check(BOB.public)
    assert caught.value.check.startswith(("decision-", "wire-"))


@given(st.binary(max_size=200), st.booleans())
def test_garbage_is_refused_and_breaks_nothing(data: bytes, framed: bool) -> None:
    framing = b"\x00" + len(data).to_bytes(4, "little") if framed else b""
    for reader in (
        lambda junk: SignedBundle.read(junk, AUTHORITY.certificate),
        lambda junk: Decision.read(junk, AUTHORITY.certificate),
        Bundle.read,
        lambda junk: hear(framing + junk, {**ASKED, **ANSWERED}, MOST_ASKED),
    ):
        with pytest.raises(Refused):
            reader(data)


@pytest.mark.parametrize(
    "name",
    [
        "../job.toml", "code/../x.py", "a/../b.lock", "/etc/x.lock", "code//x.py", "code/./x.py", "code/x.py\0", "code/x.py\n",
        "code/.x.py", ".lock", "x.sh", "code/x.pyc", "code/x", "Job.toml", "code/a.b.py", "code/ü.py", "code/-x.py", "CODE/x.py",
        "sub/job.toml", "code\\x.py", "C:/x.lock", "code/" + "a/" * 9 + "x.py", "code/" + "a" * 200 + ".py", "",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_or_are_no_file_of_a_bundle_are_refused(name: str) -> None:
    content = canonical([FORMAT, sorted([["job.toml", JOB], [name, ""]])])
    assert check_of(content) == "bundle-name"


def test_what_is_no_bundle_is_refused() -> None:
    twice = [["code/a.py", "x"], ["code/a.py", "y"], ["job.toml", JOB]]
    assert check_of(canonical([FORMAT, twice])) == "bundle-name"
    assert check_of(canonical([FORMAT, [["job.toml", JOB], ["code/a.py", ""]]])) == "bundle-name"  # out of order
    assert check_of(canonical([FORMAT, [["code/A.py", ""], ["code/a.py", ""], ["job.toml", JOB]]])) == "bundle-name"
    assert check_of(canonical([FORMAT, []])) == "bundle-form"  # no job.toml
    assert check_of(canonical(["securefl bundle 2", [["job.toml", JOB]]])) == "bundle-form"
    assert check_of(canonical([FORMAT, [["job.toml", JOB.encode()]]])) == "bundle-form"
    assert check_of(canonical([FORMAT, {"job.toml": JOB}])) == "bundle-form"
    assert check_of(b"not at all") == "wire-canonical"
    assert check_of(canonical([FORMAT, [["job.toml", JOB]]]) + b"\0") == "wire-canonical"
    invalid = canonical([FORMAT, [["job.toml", "ab"]]]).replace(b"ab", b"a\xff")
    assert check_of(invalid) == "wire-canonical"


@pytest.mark.parametrize("text", ["a\0b", "a\rb", "a\x1b[2Jb", "a\x7f", "a\x85b", "a\x0cb"])
def test_texts_with_control_characters_are_refused(text: str) -> None:
    content = canonical([FORMAT, [["code/a.py", text], ["job.toml", JOB]]])
    assert check_of(content) == "bundle-text"


def test_what_is_too_large_is_refused_and_the_largest_passes() -> None:
    largest = "x" * (contents.MOST_BYTES - len(JOB))
    assert check_of(canonical([FORMAT, [["a.lock", largest + "x"], ["job.toml", JOB]]])) == "bundle-size"
    made = SignedBundle.make(Bundle({"job.toml": JOB, "a.lock": largest}), "ada", ADA, AUTHORITY.certificate)
    assert len(made.document) < LARGEST_BUNDLE
    assert SignedBundle.read(made.document, AUTHORITY.certificate) == made
    many = {f"code/{'m' * 100}{at:02}.py": "" for at in range(contents.MOST_FILES)}
    with pytest.raises(Refused, match="bundle-size"):
        Bundle({"job.toml": JOB, **many})
    many.popitem()
    assert len(Bundle({"job.toml": JOB, **many}).content) < contents.LARGEST
    assert check_of(b"\0" * (contents.LARGEST + 1)) == "wire-bound"


def test_what_would_take_long_or_much_to_read_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of TOML takes time with the square of its keys; an item of one byte takes 56 in memory."""
    monkeypatch.setattr(contents, "parse_toml", None)
    line = ".".join(["a"] * 1000) + "=1"
    for text in ("#" + line[1:] + "a\n", "# x\n" * (1 << 14) + "#\n"):
        with pytest.raises(Refused, match="bundle-size"):
            Bundle({"job.toml": text})
    assert Bundle({"job.toml": "#" + line[2:] + "\n", "a.lock": line * 9})
    monkeypatch.setattr(wire, "_loads", None)
    for junk in (b"\x82" + b"\x80" * 2**16, b"\x9a\x00\x01\x00\x00" + b"\x80" * 2**16):
        assert check_of(junk) == "wire-canonical"
        with pytest.raises(Refused, match="wire-canonical"):
            SignedBundle.read(junk, AUTHORITY.certificate)


# Folders


def test_a_folder_becomes_a_bundle_without_what_python_leaves_behind(tmp_path: Path) -> None:
    (tmp_path / "code/deep/__pycache__").mkdir(parents=True)
    (tmp_path / "code/deep/__pycache__/x.pyc").write_bytes(b"\xff\0")
    for name, text in (("job.toml", JOB), ("code/deep/x.py", "x = 'ε'\n"), ("bundle.toml", 'entry = "deep.x:f"\n'), ("r.lock", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = Bundle.of_folder(tmp_path)
    assert list(made.files) == ["bundle.toml", "code/deep/x.py", "job.toml", "r.lock"]
    assert made.about.entry == "deep.x:f"
    assert Bundle.of_folder(tmp_path).hash == made.hash


def test_the_schema_of_a_bundle_is_the_jobs() -> None:
    job = '[data]\nname = "x.csv"\nlabel = "a"\nsite = "b"\ncontract = "schema.toml"\n'
    found = Bundle({"job.toml": job, "schema.toml": '[columns.age]\nunit = "years"\nrange = [0, 120]\n'}).checked()
    assert found.job.data.ranges == {"age": (0, 120)}
    assert found.job.data.contract is not None
    assert found.job.data.contract.columns["age"].unit == "years"


def fill(folder: Path, what: str) -> None:
    """A folder with one thing wrong."""
    (folder / "job.toml").write_text(JOB)
    code = folder / "code"
    code.mkdir()
    outside = folder.parent / "secret.py"
    outside.write_text("outside")
    match what:
        case "no job":
            (folder / "job.toml").unlink()
        case "link to a file":
            (code / "x.py").symlink_to(outside)
        case "link to a folder":
            (code / "sub").symlink_to(folder.parent)
        case "fifo":
            os.mkfifo(code / "x.py")
        case "hidden":
            (folder / ".env").write_text("password")
        case "other file":
            (folder / "rows.csv").write_text("1,2")
        case "not UTF-8":
            (code / "x.py").write_bytes(b"ok\n\xff\n")
        case "carriage returns":
            (code / "x.py").write_bytes(b"ok\r\n")
        case "too large":
            (folder / "a.lock").write_text("x" * (contents.MOST_BYTES + 1))
        case "too many":
            for at in range(contents.MOST_FILES):
                (code / f"m{at}.py").touch()
        case "too deep":
            (code / "a/b/c/d/e").mkdir(parents=True)
        case "no entry":
            (code / "x.py").write_text("")
        case "no code":
            (folder / "bundle.toml").write_text('entry = "x:f"')
        case "entry elsewhere":
            (code / "x.py").write_text("")
            (folder / "bundle.toml").write_text('entry = "y:f"')
        case "unknown key":
            (folder / "bundle.toml").write_text('entri = "y:f"')
        case "a path of the author's":
            (folder / "job.toml").write_text('[privacy]\nledger_data = "fresh"\n')
        case "an output":
            (folder / "job.toml").write_text('[output]\ndir = "/tmp"\n')
        case "schema elsewhere":
            (folder / "job.toml").write_text('[data]\nname = "x.csv"\nlabel = "a"\nsite = "b"\ncontract = "../schema.toml"\n')
        case "no schema":
            (folder / "job.toml").write_text('[data]\nname = "x.csv"\nlabel = "a"\nsite = "b"\ncontract = "schema.toml"\n')
        case "idle schema":
            (folder / "schema.toml").write_text("[columns.age]\nrange = [0, 120]\n")
        case "schema beside":
            (folder / "job.toml").write_text(
                '[data]\nname = "x.csv"\nlabel = "a"\nsite = "b"\n[data.contract.columns.age]\nrange = [0, 1]\nunit = "1"\n'
            )
            (folder / "schema.toml").write_text('[columns.age]\nrange = [18, 110]\nunit = "years"\n')
        case "rows elsewhere":
            (folder / "job.toml").write_text('[data]\nname = "../x.csv"\nlabel = "a"\nsite = "b"\n')
        case "bad job":
            (folder / "job.toml").write_text("[privacy]\nrounds = 0\n")
        case "no TOML":
            (folder / "job.toml").write_text("[privacy\n")


WRONG = {
    "no job": "there is no job.toml",
    "link to a file": "bundle-name (code/x.py is a link",
    "link to a folder": "bundle-name (code/sub is a link",
    "fifo": "bundle-name (code/x.py is no file)",
    "hidden": "bundle-name ('.env' is no file of a bundle",
    "other file": "bundle-name ('rows.csv' is no file of a bundle",
    "not UTF-8": "bundle-text (code/x.py, line 2: byte 0xff is not UTF-8)",
    "carriage returns": "bundle-text (code/x.py, line 1 has '\\r': Unix line ends",
    "too large": "bundle-size",
    "too many": "bundle-size",
    "too deep": "bundle-name (code/a/b/c/d lies too deep)",
    "no entry": 'the bundle has code, and no entry = "module:function"',
    "no code": "the bundle has an entry in bundle.toml, and no code",
    "entry elsewhere": "entry = 'y:f': there is no code/y.py",
    "unknown key": "bundle.toml: entri",
    "a path of the author's": "privacy.ledger_data is refused in a bundle",
    "an output": "output is refused in a bundle",
    "schema elsewhere": "data.contract = '../schema.toml' is refused in a bundle",
    "no schema": "data.contract = 'schema.toml' is refused in a bundle",
    "schema beside": "is refused in a bundle: its own schema.toml is allowed",
    "idle schema": "nobody would look at it",
    "rows elsewhere": "data.name = '../x.csv' is refused in a bundle",
    "bad job": "privacy.rounds = 0 is refused",
    "no TOML": "job.toml: damaged file",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_folder_that_makes_no_bundle_is_refused_by_what_is_wrong(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    fill(folder, what)
    with pytest.raises(UserError) as caught:
        Bundle.of_folder(folder)
    assert WRONG[what] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path / "nowhere", tmp_path / "link"):
        with pytest.raises(UserError, match="is no folder"):
            Bundle.of_folder(path)


def test_a_link_that_takes_a_files_place_meanwhile_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("outside")
    (tmp_path / "x.py").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="cannot be read"):
        contents._bytes(tmp_path / "x.py", "x.py")


# Signatures


def test_a_bundle_counts_by_its_author_alone() -> None:
    made = SignedBundle.make(bundle(), "ada", ADA, AUTHORITY.certificate)
    assert made.check(roster()).name == "ada"
    assert SignedBundle.make(bundle(), "north", BOB, AUTHORITY.certificate).check(roster()).part == "party"
    for wrong, check in (
        (replace(made, bundle=bundle(code__x_py="")), "bundle-signature"),  # other contents
        (replace(made, author="north"), "bundle-signature"),  # another's name
        (SignedBundle.make(bundle(), "ada", BOB, AUTHORITY.certificate), "bundle-signature"),
        (replace(SignedBundle.make(bundle(), "ada", ADA, OTHER.certificate), consortium=made.consortium), "bundle-signature"),
        (replace(made, author="fed"), "bundle-author"),
        (replace(made, author="eve"), "bundle-author"),
    ):
        with pytest.raises(Refused) as caught:
            wrong.check(roster())
        assert caught.value.check == check
    with pytest.raises(Refused, match=r"bundle-author.*revoked"):
        made.check(roster(ada=True))
    other = SignedBundle.make(bundle(), "north", BOB, AUTHORITY.certificate)
    assert other.hash == made.hash  # what was decided about the contents stands
    assert other.check(roster(ada=True)).name == "north"


@pytest.mark.parametrize("part", range(3))
def test_a_signature_covers_consortium_author_and_hash(part: int) -> None:
    said = [bytes(32), "ada", bytes(32)]
    other = [*said[:part], [b"x" * 32, "bob", b"x" * 32][part], *said[part + 1 :]]
    assert signed.statement(*said) != signed.statement(*other)  # type: ignore[arg-type]


def test_control_without_the_signature_an_altered_bundle_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SignedBundle.make(bundle(), "ada", ADA, AUTHORITY.certificate)
    altered = replace(made, bundle=Bundle({"job.toml": "[privacy]\nepsilon = 99.0\n"}))
    document = altered.document
    with pytest.raises(Refused, match="bundle-signature"):
        SignedBundle.read(document, AUTHORITY.certificate).check(roster())
    monkeypatch.setattr(signed, "verify", lambda *_: True)
    assert SignedBundle.read(document, AUTHORITY.certificate).check(roster()).name == "ada"


def test_what_an_author_signs_is_nothing_else() -> None:
    """A bundle's signature is none of a decision, nor the other way round, whatever is put in."""
    made = SignedBundle.make(bundle(), "north", BOB, AUTHORITY.certificate)
    decision = Decision(made.consortium, "north", made.hash, "approved", "", 1, NOW.isoformat())
    assert not sign.verify(BOB.public, made.signature, decision.content)
    own = decision.signed(BOB)
    own.check(BOB.public)
    assert Decision.read(own.document, AUTHORITY.certificate) == own
    with pytest.raises(Refused, match="decision-signature"):
        replace(own, verdict="refused").check(BOB.public)
    with pytest.raises(Refused, match="decision-signature"):
        own.check(ADA.public)
    for wrong in (
        replace(own, number=0), replace(own, at="yesterday"), replace(own, because="x" * 501), replace(own, bundle=b""),
        replace(own, party="../x"), replace(own, consortium=bytes(32)), replace(own, at="2026-01-02T00:00:00"),
    ):  # fmt: skip
        with pytest.raises(Refused, match="decision-form"):
            Decision.read(wrong.document, AUTHORITY.certificate)
