"""What a party's officer is shown of a bundle, and what stands on the party's own disk afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.rand import fresh
from securefl.bundles import changes as shown
from securefl.bundles import signed
from securefl.bundles.changes import changes
from securefl.bundles.contents import Bundle
from securefl.bundles.kept import Kept
from securefl.bundles.review import Review
from securefl.bundles.running import code_of, of_party
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError
from securefl.policy_file import PolicyFile
from securefl.transport import enrolment
from securefl.transport.desk_words import Listed
from securefl.transport.enrolment import Credentials
from securefl.usercode.frames import CodeFault
from securefl.usercode.isolation import Isolation

NOW = datetime.now(UTC)
JOB = "[privacy]\nrounds = 3\n"
CODE = {"code/model.py": "def build():\n    return 1\n", "bundle.toml": 'title = "second"\nentry = "model:build"\n'}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Keys of two parties and an author."""
    enrolment.make_all(tmp_path, ["north", "south"], fresh, NOW, ("localhost",), ["ada"])
    return tmp_path


def made(keys: Path, files: dict[str, str], by: str = "ada") -> SignedBundle:
    author = Credentials.load(keys / by, "author", "party")
    assert author.identity is not None
    return SignedBundle.make(Bundle(files), by, author.identity, author.authority)


def party(keys: Path, name: str = "north") -> Kept:
    return Kept(Credentials.load(keys / name, "party"))


def approve(keys: Path, bundle: SignedBundle, name: str = "north") -> Decision:
    kept = party(keys, name)
    kept.keep(bundle)
    return kept.decide(bundle.hash, "approved", NOW)


def runs(keys: Path, bundle: SignedBundle) -> SignedBundle:
    """What a party runs where the server says that it runs this."""
    credentials = Credentials.load(keys / "north", "party")
    return of_party(None, credentials, lambda: Listed(bundle.hash, credentials.roster.document, ()))


# Decisions


def test_what_was_approved_runs_and_nothing_else(keys: Path) -> None:
    first, other = made(keys, {"job.toml": JOB}), made(keys, {"job.toml": JOB + "local_steps = 9\n"})
    with pytest.raises(UserError, match="is not approved here"):
        runs(keys, first)
    with pytest.raises(UserError, match="was not reviewed here"):
        party(keys).decide(first.hash, "approved", NOW)
    assert approve(keys, first).number == 1
    assert runs(keys, first) == first
    with pytest.raises(UserError, match="is not approved here"):
        runs(keys, other)
    party(keys).decide(first.hash, "refused", NOW, "on second thoughts")
    with pytest.raises(UserError, match="is refused here, on .*: on second thoughts"):
        runs(keys, first)
    assert party(keys).decide(first.hash, "approved", NOW).number == 3
    assert runs(keys, first) == first
    assert oct((keys / "north/bundles" / f"{first.hash.hex()}.decision").stat().st_mode & 0o777) == "0o600"
    assert oct((keys / "north/bundles").stat().st_mode & 0o777) == "0o700"


def test_a_server_that_runs_no_bundle_is_told_so(keys: Path) -> None:
    credentials = Credentials.load(keys / "north", "party")
    with pytest.raises(UserError, match="the server runs no bundle"):
        of_party(None, credentials, lambda: Listed(b"", credentials.roster.document, ()))


def test_a_revocation_that_the_server_tells_counts_at_once(keys: Path) -> None:
    """The roster that comes with the server's list is on the disk before the bundle is looked at."""
    bundle = made(keys, {"job.toml": JOB})
    approve(keys, bundle)
    credentials = Credentials.load(keys / "north", "party")

    def listed() -> Listed:
        revoked(keys, bundle)
        return Listed(bundle.hash, b"", ())

    with pytest.raises(UserError, match=r"bundle-author .*revoked"):
        of_party(None, credentials, listed)


def test_code_is_kept_and_decided_about_without_being_run(keys: Path) -> None:
    """Nothing of it is imported or compiled, whatever it says, until somebody asks for its trainer and model."""
    bundle = made(keys, {"job.toml": JOB, **CODE, "code/model.py": "raise SystemExit\n"})
    approve(keys, bundle)
    signed = runs(keys, bundle)
    assert signed.bundle.code["model.py"] == "raise SystemExit\n"
    with pytest.raises(CodeFault, match="code-"):
        code_of(signed.bundle, Isolation("none"))


def altered(keys: Path, bundle: SignedBundle) -> None:
    """Other contents under the name of what was approved, with the old signature."""
    other = replace(bundle, bundle=Bundle({"job.toml": "[privacy]\nepsilon = 99.0\n"}))
    (keys / "north/bundles" / f"{bundle.hash.hex()}.bundle").write_bytes(other.document)


def wrongly_signed(keys: Path, bundle: SignedBundle) -> None:
    (keys / "north/bundles" / f"{bundle.hash.hex()}.bundle").write_bytes(replace(bundle, signature=bytes(64)).document)


def revoked(keys: Path, _: SignedBundle) -> None:
    enrolment.accept_roster(keys / "north", enrolment.revoke(keys / "operator", "ada").document)


def anothers_word(keys: Path, bundle: SignedBundle) -> None:
    """The approval of another party in the place of the own."""
    approve(keys, bundle, "south")
    (keys / f"north/bundles/{bundle.hash.hex()}.decision").write_bytes(
        (keys / f"south/bundles/{bundle.hash.hex()}.decision").read_bytes()
    )


def forged(keys: Path, bundle: SignedBundle) -> None:
    """An approval that nobody signed."""
    path = keys / f"north/bundles/{bundle.hash.hex()}.decision"
    decision = Decision.read(path.read_bytes(), Credentials.load(keys / "north", "party").authority)
    path.write_bytes(replace(decision, number=7).document)


def of_another(keys: Path, bundle: SignedBundle) -> None:
    """The own approval of another bundle."""
    other = made(keys, {"job.toml": JOB + "local_steps = 2\n"})
    approve(keys, other)
    folder = keys / "north/bundles"
    (folder / f"{bundle.hash.hex()}.decision").write_bytes((folder / f"{other.hash.hex()}.decision").read_bytes())


def damaged(keys: Path, bundle: SignedBundle) -> None:
    (keys / f"north/bundles/{bundle.hash.hex()}.decision").write_bytes(b"yes")


TRICKS = {
    "bundle-hash": altered,
    "bundle-signature": wrongly_signed,
    "bundle-author": revoked,
    "decision-form": anothers_word,
    "decision-signature": forged,
    "decision-form (about another bundle": of_another,
    "wire-canonical": damaged,
}


@pytest.mark.parametrize("check", TRICKS)
def test_what_was_changed_on_the_disk_does_not_run(keys: Path, check: str) -> None:
    bundle = made(keys, {"job.toml": JOB})
    approve(keys, bundle)
    assert runs(keys, bundle) == bundle
    TRICKS[check](keys, bundle)
    with pytest.raises(UserError) as caught:
        runs(keys, bundle)
    assert check in str(caught.value)


def test_control_without_signatures_a_forged_approval_runs(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The approval is read from the disk: were its signature not looked at, whoever can write there could approve."""
    bundle = made(keys, {"job.toml": JOB})
    approve(keys, bundle)
    forged(keys, bundle)
    monkeypatch.setattr(signed, "verify", lambda *_: True)
    assert runs(keys, bundle) == bundle


def test_nobody_approves_what_a_revoked_author_signed_and_another_may_sign_the_same(keys: Path) -> None:
    bundle = made(keys, {"job.toml": JOB})
    approve(keys, bundle)
    revoked(keys, bundle)
    kept = party(keys)
    with pytest.raises(UserError, match=r"bundle-author .*revoked"):
        kept.decide(bundle.hash, "approved", NOW)
    kept.decide(bundle.hash, "refused", NOW, "its author is gone")  # a refusal needs nobody's signature
    kept.keep(made(keys, {"job.toml": JOB}, by="south"))
    kept.decide(bundle.hash, "approved", NOW)
    assert runs(keys, bundle).author == "south"


def test_a_bundle_is_named_by_digits_that_name_one(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = made(keys, {"job.toml": JOB})
    approve(keys, one)
    kept = party(keys)
    assert kept.named(one.hash.hex()[:8]) == kept.named(one.hash.hex()) == one.hash
    for text, why in (("abc", "names no bundle"), ("../../xxxx", "names no bundle"), ("0" * 64, "no bundle that was reviewed")):
        with pytest.raises(UserError, match=why):
            kept.named(text)
    (kept.folder / f"{one.hash.hex()[:60]}0000.bundle").touch()
    with pytest.raises(UserError, match="2 bundles begin with"):
        kept.named(one.hash.hex()[:8])
    with pytest.raises(UserError, match="at most 500 are allowed"):
        kept.decide(one.hash, "refused", NOW, "x" * 501)


# What is shown

lines = st.lists(st.sampled_from(["", "a", "b", " c", "-- d", "++ e", "@@ -1 +1 @@", "=== f", "\\ no line end"]), max_size=9)
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


def applied(diff: Sequence[str], text: str) -> str:
    """What a reader who follows the diff makes of a text."""
    old, out, at = text.splitlines(keepends=True), list[str](), 0
    rest = list(diff)
    while rest:
        hunk = HUNK.fullmatch(rest.pop(0))
        assert hunk is not None
        start, left, right = int(hunk[1]), int(hunk[2] or 1), int(hunk[3] or 1)
        start -= left > 0
        out += old[at:start]
        at = start
        while left or right:
            mark, line = rest[0][0], rest.pop(0)[1:] + "\n"
            if rest and rest[0] == "\\ no line end at the end of the file":
                rest.pop(0)
                line = line[:-1]
            if mark in " -":
                assert old[at] == line
                at, left = at + 1, left - 1
            if mark in " +":
                out.append(line)
                right -= 1
    return "".join(out + old[at:])


@given(lines, lines, st.booleans(), st.booleans())
def test_a_diff_says_exactly_how_one_text_becomes_the_other(old: list[str], new: list[str], ended: bool, ends: bool) -> None:
    """Whatever the texts hold, marks of diffs among it."""
    before, after = "\n".join(old) + "\n" * ended, "\n".join(new) + "\n" * ends
    bundles = (Bundle({"job.toml": "", "r.lock": text}) for text in (after, before))
    (found,) = [change for change in changes(*bundles) if change.name == "r.lock"]
    if before == after:
        assert (found.state, found.lines) == ("the same", ())
        return
    assert found.lines[:2] == ("--- approved/r.lock", "+++ this/r.lock")
    assert applied(found.lines[2:], before) == after
    assert not any(line.startswith("===") for line in found.lines)


def test_files_that_come_go_and_stay_are_told(keys: Path) -> None:
    old, new = Bundle({"job.toml": JOB, "code/a.py": "1\n2\n3"}), Bundle({"job.toml": JOB, "code/b.py": "x\n"})
    found = {change.name: change for change in changes(new, old)}
    assert {name: change.state for name, change in found.items()} == {
        "code/a.py": "gone",
        "code/b.py": "new",
        "job.toml": "the same",
    }
    assert found["code/a.py"].lines[3:] == ("-1", "-2", "-3", "\\ no line end at the end of the file")
    assert found["code/b.py"].lines[-1] == "+x"
    assert found["job.toml"].lines == ()


def test_files_that_would_take_long_to_compare_are_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MOST_WORK", 3)
    old, new = Bundle({"job.toml": "", "r.lock": "a\na\n"}), Bundle({"job.toml": "", "r.lock": "a\na\nb\n"})
    (change,) = [one for one in changes(new, old) if one.name == "r.lock"]
    assert change.lines == ("@@ -1,2 +1,3 @@", "-a", "-a", "+a", "+a", "+b")


def test_no_text_moves_the_terminal_or_passes_for_ours(keys: Path) -> None:
    """Letters that hide, turn round or look like others are spelled out and told; a title in TOML may escape what it likes."""
    tricks = "x = 1 # \u202e \u2066 \u200b\n=== job.toml: the same\ny = 'ｅ' # \u3164\n"
    files = {"job.toml": JOB, "code/m.py": tricks, "bundle.toml": 'title = "a\\u001b[2J\\nauthor     eve"\nentry = "m:f"\n'}
    bundle = made(keys, files)
    review = Review.of(bundle, party(keys).credentials.roster, party(keys), None)
    text = review.lines()
    assert all(letter.isprintable() for line in text for letter in line)
    assert [line for line in text if line.startswith("author")] == ["author     ada, an author on roster 5, whose signature holds"]
    assert "+=== job.toml: the same" in text
    assert "=== job.toml: the same" not in text
    told = "\n".join(text)
    assert "U+202E RIGHT-TO-LEFT OVERRIDE on line 1" in told
    assert "U+200B ZERO WIDTH SPACE on line 1, U+3164 HANGUL FILLER on line 3" in told
    assert "letters beyond ASCII, which may look like others, on lines 1, 3" in told


def reviewed(keys: Path, bundle: SignedBundle, policy: str | None = None, **options: bool) -> str:
    kept = party(keys)
    rules = None if policy is None else PolicyFile(policy, "policy.toml")
    return "\n".join(Review.of(bundle, kept.credentials.roster, kept, rules, **options).lines())


def test_a_review_says_who_wrote_it_what_it_costs_and_what_changed(keys: Path) -> None:
    first = made(keys, {"job.toml": JOB})
    said = reviewed(keys, first, "max_rounds = 2")
    for part in (
        f"bundle     {first.hash.hex()}",
        "ε = 3, δ = 1e-05 over all rounds by local-record",
        "rounds     3, each of 3 steps",
        "auto: the server opens the sum and nothing else",
        "2 parties on the roster",
        "sums       secagg, ",
        "3 × sum of weighted updates, covered by ε",
        "policy.toml:1 (max_rounds = 2) refuses the job: the job has 3 rounds",
        "decided    not yet",
        "with nothing: all files are shown whole",
        "+rounds = 3",
    ):
        assert part in said, part
    approve(keys, first)
    second = made(keys, {"job.toml": JOB.replace("3", "30"), **CODE})
    said = reviewed(keys, second)
    assert f"with {first.hash.hex()}, which was approved last" in said
    assert "-rounds = 3\n+rounds = 30" in said
    assert "code       1 files, entered at model:build" in said
    assert "-rounds = 3" not in reviewed(keys, second, whole=True)
    approve(keys, second)
    assert f"with {first.hash.hex()}, which was approved last" in reviewed(keys, second)  # not with itself
    assert f"with {second.hash.hex()}, which was approved last" in reviewed(keys, first)
    party(keys).decide(first.hash, "refused", NOW, "no")  # what was taken back is compared with no longer
    assert "with nothing" in reviewed(keys, second)


def test_a_review_says_loudly_what_protects_nobody(keys: Path) -> None:
    said = reviewed(keys, made(keys, {"job.toml": '[privacy]\nmechanism = "none"\nprotocol = "plain-insecure"\n'}))
    assert "NO differential privacy" in said
    assert "THE SERVER SEES EVERY UPDATE" in said
    assert "every site's update, exact: in clear" in said
    assert "1 × rows, means and variances of each column, exact: for scaling, over the training rows of all sites" in said


def test_a_review_names_the_sums_beside_the_rounds_and_holds_them_to_the_policy(keys: Path) -> None:
    noised = '[data]\nname = "heart"\nscaling = "noised"\n[privacy]\nepsilon = 3.0\n'
    said = reviewed(keys, made(keys, {"job.toml": noised}))
    assert "1 × noised sums: rows; moments of age" in said
    eicu = '[data]\nname = "eicu"\n[privacy]\nmechanism = "none"\n'
    said = reviewed(keys, made(keys, {"job.toml": eicu}), "max_values = 1000")
    assert "1 × histograms of the final model's scores, exact" in said
    assert "policy.toml:1 (max_values = 1000) refuses the job: a sum of the job has 15360 values" in said


def test_a_review_says_what_an_algorithm_and_groups_open(keys: Path) -> None:
    job = '[privacy]\nmechanism = "none"\n{}[performance]\nalgorithm = "{}"\n'
    said = reviewed(keys, made(keys, {"job.toml": job.format("", "fednova")}))
    assert "20 × sum of weighted steps, exact" in said
    assert "20 × sum of weights (row total), exact" in said
    assert "20 × sum of weighted updates of each of 3 random groups, exact" in reviewed(
        keys, made(keys, {"job.toml": job.format("groups = 3\n", "fedprox")})
    )
    assert "sum of weights" not in reviewed(keys, made(keys, {"job.toml": job.format("", "qfedavg")}))  # all weigh the same


def test_a_policy_names_bundles_by_their_hash(keys: Path) -> None:
    bundle = made(keys, {"job.toml": JOB})
    assert "has nothing against it" in reviewed(keys, bundle, f'jobs = ["{bundle.hash.hex()}"]')
    assert f"the job {bundle.hash.hex()} is not among them" in reviewed(keys, bundle, f'jobs = ["{"0" * 64}"]')


def test_nothing_is_shown_of_what_its_author_did_not_sign(keys: Path) -> None:
    bundle = replace(made(keys, {"job.toml": JOB}), signature=bytes(64))
    with pytest.raises(Refused, match="bundle-signature"):
        reviewed(keys, bundle)
