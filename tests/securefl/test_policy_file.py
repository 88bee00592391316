"""A party's policy on its own disk: every refusal names its line, and it only ever makes a session stricter."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sites import job

from protocols.errors import Refused
from protocols.policy import Policy
from protocols.suite import default_corrupt
from securefl import UserError
from securefl.policy_file import PolicyFile, Rules
from securefl.privacy.budget import Charge, PartyLedger
from securefl.privacy.events import DpSgdEvent
from securefl.privacy.store import Budget, Store

JOB, OTHER = "ab" * 32, "cd" * 32
FULL = f"""\
# what we take part in
min_cohort = 4
min_cohort_share = 0.25
min_threshold = 0.6
min_corrupt = 1
min_security = 80
protocols = ["secagg", "kahe"]
mechanisms = ["distributed-record", "local-record"]
max_epsilon = 3
max_delta = 1e-4
max_rounds = 40
max_values = 1_000_000
jobs = ["{JOB}"]
models = ["{JOB}"]
isolation = "bubblewrap"

[lifetime]
unit = "record"
epsilon = 8.0
delta = 1e-5

[resources]
cpus = 1
memory_mib = 1024
"""
FITS = {"mechanism": "local-record", "epsilon": 3.0, "delta": 1e-5, "rounds": 40}


def test_a_job_within_every_line_passes() -> None:
    PolicyFile(FULL).check_job(job(**FITS), digest=JOB, protocol="kahe", values=10**6)
    PolicyFile("").check_job(job(), digest=OTHER, protocol="plain-insecure", values=10**9)
    named = {line.split(" =")[0].strip("[]") for line in FULL.splitlines() if line[:1] not in ("#", "")}
    assert named - {"unit", "epsilon", "delta", "cpus", "memory_mib"} == set(Rules.model_fields)


@pytest.mark.parametrize(
    ("line", "changed", "digest", "protocol", "values"),
    [
        ("13 (jobs = ", {}, OTHER, "kahe", 9),
        ("7 (protocols = ['secagg', 'kahe']) refuses the job: the job runs bfv", {}, JOB, "bfv", 9),
        ("8 (mechanisms = ", {"mechanism": "distributed-party"}, JOB, "kahe", 9),
        ("11 (max_rounds = 40) refuses the job: the job has 41 rounds", {"rounds": 41}, JOB, "kahe", 9),
        ("12 (max_values = 1000000) refuses the job: a sum of the job has 1000001 values", {}, JOB, "kahe", 1_000_001),
        ("9 (max_epsilon = 3.0) refuses the job: the job's ε is 3.5", {"epsilon": 3.5}, JOB, "kahe", 9),
        ("10 (max_delta = 0.0001) refuses the job: the job's δ is 0.001", {"delta": 1e-3}, JOB, "kahe", 9),
    ],
)
def test_a_refusal_names_the_line_its_value_and_the_jobs(
    line: str, changed: dict[str, object], digest: str, protocol: str, values: int
) -> None:
    given_job = job(**{**FITS, **changed})
    with pytest.raises(UserError) as caught:
        PolicyFile(FULL, "policy.toml").check_job(given_job, digest=digest, protocol=protocol, values=values)
    assert str(caught.value).startswith(f"policy.toml:{line}")
    left_out = [text for number, text in enumerate(FULL.splitlines(), 1) if number != int(line.split(maxsplit=1)[0])]
    PolicyFile("\n".join(left_out)).check_job(given_job, digest=digest, protocol=protocol, values=values)  # the control


def test_a_largest_epsilon_refuses_training_without_any() -> None:
    with pytest.raises(UserError, match=r"policy:1 \(max_epsilon = 3.0\) refuses the job: the job has no differential privacy"):
        PolicyFile("max_epsilon = 3").check_job(job(), digest=JOB, protocol="kahe", values=9)


def test_a_largest_epsilon_refuses_a_server_that_has_the_sums_without_noise() -> None:
    trusting = job(mechanism="central", epsilon=3.0, rows=20)
    line = r"policy:1 \(max_epsilon = 3.0\) refuses the job: its server has the sums without noise"
    for more in ("", '\nmechanisms = ["central"]'):
        with pytest.raises(UserError, match=line):
            PolicyFile("max_epsilon = 3" + more).check_job(trusting, digest=JOB, protocol="kahe", values=9)
    PolicyFile('mechanisms = ["central"]').check_job(trusting, digest=JOB, protocol="kahe", values=9)  # who trusts it says so


POLICIES = st.builds(
    Policy,
    min_cohort=st.integers(2, 9),
    min_threshold=st.floats(0.1, 1),
    min_corrupt=st.none() | st.integers(0, 9),
    min_security=st.integers(1, 128),
    models=st.none() | st.sets(st.sampled_from([b"\xab" * 32, b"\xcd" * 32])).map(frozenset),
    max_epsilon=st.none() | st.floats(0.1, 9),
    max_delta=st.none() | st.floats(1e-9, 0.1),
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "min_cohort": st.integers(2, 9),
        "min_threshold": st.floats(0.1, 1),
        "min_corrupt": st.integers(0, 9),
        "min_security": st.integers(1, 128),
        "models": st.lists(st.sampled_from([JOB, OTHER]), min_size=1, unique=True),
        "max_epsilon": st.floats(0.1, 9),
        "max_delta": st.floats(1e-9, 0.1),
    },
)


@given(POLICIES, FILES, st.integers(3, 30))
def test_a_file_makes_sessions_stricter_and_never_laxer(policy: Policy, tree: dict[str, object], parties: int) -> None:
    text = "\n".join(f"{key} = {value!r}" for key, value in tree.items())
    found = PolicyFile(text).over(policy, parties)
    corrupt = [default_corrupt(parties) if one.min_corrupt is None else one.min_corrupt for one in (policy, found)]
    assert corrupt[1] >= max(corrupt[0], int(str(tree.get("min_corrupt", 0))))
    for key in ("min_cohort", "min_threshold", "min_security"):
        assert getattr(found, key) == max(getattr(policy, key), tree.get(key, 0))
    for key in ("max_epsilon", "max_delta"):
        bounds: list[float] = [bound for bound in (getattr(policy, key), tree.get(key)) if isinstance(bound, float)]
        assert getattr(found, key) == min(bounds, default=None)
    for model in (b"\xab" * 32, b"\xcd" * 32, b"\xef" * 32):
        wanted = policy.models is None or model in policy.models
        wanted = wanted and ("models" not in tree or model.hex() in tree["models"])  # type: ignore[operator]
        assert wanted == (found.models is None or model in found.models)
    same = {f.name for f in fields(Policy)} - {*tree, "min_corrupt"}
    assert all(getattr(found, name) == getattr(policy, name) for name in same)


def test_a_sessions_refusal_is_told_with_its_line() -> None:
    policy = PolicyFile(FULL, "policy.toml")
    assert policy.explain(Refused("policy-cohort", "3 invited")) == "policy.toml:2 (min_cohort = 4): policy-cohort: 3 invited"
    assert policy.explain(Refused("ledger-budget", "none left")).startswith(
        "policy.toml:19 (lifetime.epsilon = 8.0): ledger-budget"
    )
    assert policy.explain(Refused("journal-spent", "again")) == "journal-spent: again"
    assert PolicyFile("").explain(Refused("policy-cohort", "1 invited")) == "policy-cohort: 1 invited"


def test_the_lifetime_goes_into_the_ledger_and_only_gets_smaller() -> None:
    place, policy = ("north", "heart"), PolicyFile(FULL)
    with Store() as store:
        policy.set_lifetime(store, place)
        assert store.budget(place, "record") == Budget(8.0, 1e-5)
        for there, then in ((Budget(5.0, 1e-4), Budget(5.0, 1e-5)), (Budget(9.0, 1e-6), Budget(8.0, 1e-6))):
            store.set_budget(place, "record", there)
            policy.set_lifetime(store, place)
            assert store.budget(place, "record") == then
        PolicyFile("").set_lifetime(store, ("south", "heart"))
        assert store.budget(("south", "heart"), "record") is None


def test_the_lifetime_starts_nothing_for_another_name_of_the_data() -> None:
    """A job can name the data anew; the party's own budget, set by hand, is the way for other people."""
    policy, charge = PolicyFile(FULL), Charge("sum of updates", DpSgdEvent(2.0, 0.1, 3), "record")
    with Store() as store:
        for name, place in (("north", ("north", "heart")), ("south", ("south", "heart-b"))):
            policy.set_lifetime(store, place)
            assert PartyLedger(store, name, place[1]).refusal([charge]) == ""
        policy.set_lifetime(store, ("north", "heart-b"))
        assert store.budget(("north", "heart-b"), "record") is None
        why = PartyLedger(store, "north", "heart-b").refusal([charge])
        assert "north has a budget for heart and none for the data set heart-b" in why
        store.set_budget(("north", "heart-b"), "record", Budget(9.0, 1e-5))
        policy.set_lifetime(store, ("north", "heart-b"))
        assert store.budget(("north", "heart-b"), "record") == Budget(8.0, 1e-5)


def test_the_lifetime_starts_a_second_unit_of_the_same_data() -> None:
    with Store() as store:
        store.set_budget(("north", "heart"), "party", Budget(1.0, 1e-5))
        PolicyFile(FULL).set_lifetime(store, ("north", "heart"))
        assert store.budget(("north", "heart"), "record") == Budget(8.0, 1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_cohort = 1", r"^policy:1: min_cohort: .* 2$"),
        ("\nmin_cohrt = 4", r"^policy:2 \(min_cohrt\): unknown key min_cohrt \(did you mean min_cohort\?\)$"),
        ("[lifetime]\nepsilon = 1", r"^policy: lifetime.delta: field required$|^policy:\d: lifetime.delta: field required$"),
        ("[lifetime]\nunit = 'day'\nepsilon = 1\ndelta = 0.1", r"^policy:2: lifetime.unit: "),
        ("protocols = ['secag']", r"^policy:1 \(protocols = \['secag'\]\): 'secag' is none of .* \(did you mean secagg\?\)$"),
        ("protocols = ['auto']", r"'auto' is none of "),
        ("mechanisms = ['dp']", r"'dp' is none of "),
        ("protocols = []", "^policy:1: protocols: "),
        ("jobs = ['abc']", "^policy:1: jobs: "),
        ("max_epsilon = inf", "^policy:1: max_epsilon: "),
        ("max_epsilon = '3'", "^policy:1: max_epsilon: "),
        ("min_cohort", "^policy is no TOML: "),
        ("[resources]\nmemory_mib = 4", r"^policy:2: resources.memory_mib: .* 512$"),
        ("[resources]\ncpu = 4", r"unknown key resources.cpu \(did you mean resources.cpus\?\)$"),
        ("a = " + "[" * 9999, "^policy is no TOML: "),
    ],
)
def test_a_policy_that_says_nothing_sensible_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        PolicyFile(text)
    assert "\n" not in str(caught.value)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(FULL, encoding="utf-8")
    path.chmod(0o644)
    assert PolicyFile.load(path).rules.min_cohort == 4
    for mode in (0o646, 0o664):
        path.chmod(mode)
        with pytest.raises(UserError, match=r"is refused: others may write it \(chmod go-w\)$"):
            PolicyFile.load(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        PolicyFile.load(tmp_path / "none.toml")


BOUNDED = """
import os
from securefl.errors import UserError
from securefl.policy_file import PolicyFile
rules = PolicyFile({text!r})
try:
    with rules.bounded():
        import torch
        print(len(os.sched_getaffinity(0)), torch.get_num_threads())
        {work}
        print("done")
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("work", ["import numpy; numpy.ones(10**9)", "torch.ones(10**9)", "list(range(10**9))"])
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux bounds a process so")
def test_a_run_uses_no_more_of_the_machine_than_the_file_says(work: str) -> None:
    """With the same file without its line, and less, the same work is done."""
    text = "[resources]\ncpus = 1\nmemory_mib = 1024"
    first, last = bounded_process(text, work)
    assert first == "1 1"
    assert last == "policy:3 (resources.memory_mib = 1024): the run asks for more memory"
    assert bounded_process("[resources]\ncpus = 1", work.replace("10**9", "10**6"))[1] == "done"


def bounded_process(text: str, work: str) -> list[str]:
    code = BOUNDED.format(text=text, work=work)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    return told.strip().splitlines()


def test_code_of_a_jobs_own_runs_behind_walls_unless_the_party_says_otherwise() -> None:
    assert PolicyFile("").isolation().kind == "bubblewrap"
    assert PolicyFile('isolation = "none"').isolation().kind == "none"
    bound = PolicyFile("[resources]\ncpus = 3\n").isolation(Path("/keys"))
    assert (bound.threads, bound.private) == (3, (Path("/keys"),))
    with pytest.raises(UserError, match="policy.toml:1: isolation"):
        PolicyFile('isolation = "docker"', "policy.toml")
