"""The job: everything that decides a run, in groups, so that knobs which can hurt privacy and knobs which cannot never mix.

A job file is TOML with the sections ``[data] [model] [privacy] [performance] [simulation] [output]`` and exactly these keys.  The
command line fills the same models, so both are checked once, here.  Whatever is refused is a one-line `UserError` with the key's
full name; so is a key that would say nothing (`IDLE`).  Relative paths in a job file are taken from the file's own folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from securefl.algorithm_knobs import ADAPTIVE
from securefl.data.contract import read_contract
from securefl.data_knobs import DataKnobs
from securefl.errors import UserError
from securefl.knob_base import Knobs, near, quote
from securefl.knobs import (
    SECTIONS,
    ModelKnobs,
    OutputKnobs,
    PerformanceKnobs,
    PrivacyKnobs,
    SimulationKnobs,
    allowed,
    choices,
)

USUAL: dict[str, dict[str, dict[str, Any]]] = {
    "tox21": {
        "data": {"holdout": 0.2},
        "model": {"name": "multitask", "hidden": 128, "shared": "trunk.*"},
        "privacy": {"rounds": 48, "local_steps": 20, "sample_rate": 0.04, "w_max": 8192},
        "performance": {"learning_rate": 0.3},
    },
    "chembl": {
        "data": {"holdout": 0.2},
        "model": {"name": "multitask", "hidden": 128, "private": 128, "shared": "trunk.*"},
        "privacy": {"rounds": 32, "local_steps": 20, "sample_rate": 0.05, "w_max": 8192},
        "performance": {"learning_rate": 0.3},
    },
}
"""Defaults of data sets that need others; everything that says how much is protected is as everywhere."""
WITHOUT_DP: dict[str, dict[str, dict[str, Any]]] = {"eicu": {"privacy": {"rounds": 12, "sample_rate": 1.0, "w_max": 1024}}}
"""The same where ``privacy.mechanism`` is none: rows are drawn for the sake of ε, and without it all of them train better."""


def usual(name: object, mechanism: object) -> dict[str, dict[str, Any]]:
    """Section → key → value of what a data set needs in place of the common defaults; empty for most."""
    if not isinstance(name, str):
        return {}
    return {**USUAL.get(name, {}), **(WITHOUT_DP.get(name, {}) if mechanism == "none" else {})}


class Job(Knobs):
    """One run, complete and checked."""

    data: DataKnobs = Field(default_factory=DataKnobs)
    model: ModelKnobs = Field(default_factory=ModelKnobs)
    privacy: PrivacyKnobs = Field(default_factory=PrivacyKnobs)
    performance: PerformanceKnobs = Field(default_factory=PerformanceKnobs)
    simulation: SimulationKnobs = Field(default_factory=SimulationKnobs)
    output: OutputKnobs = Field(default_factory=OutputKnobs)

    @model_validator(mode="before")
    @classmethod
    def _of_the_data(cls, tree: Any) -> Any:
        """Keys that are left out take the data set's own defaults, where it has some (`usual`)."""

        def asked(section: str, key: str) -> object:
            knobs = tree.get(section) if isinstance(tree, Mapping) else None
            return knobs.get(key) if isinstance(knobs, Mapping) else getattr(knobs, key, None)

        filled = dict(tree) if isinstance(tree, Mapping) else tree
        for section, keys in usual(asked("data", "name"), asked("privacy", "mechanism")).items():
            given = filled.get(section, {})
            if isinstance(given, Mapping):
                filled[section] = {**keys, **given}
        return filled

    @model_validator(mode="after")
    def _model_of_the_data(self) -> Job:
        if (self.model.name == "multitask") != self.data.assays:
            allowed = "multitask alone" if self.data.assays else "logistic or mlp: multitask belongs to tox21 and chembl"
            raise ValueError(f"model.name = {self.model.name} is refused for {self.data.name}, which takes {allowed}")
        return self

    @classmethod
    def parse(cls, tree: Mapping[str, Any], *, where: str = "", names: Mapping[str, str] | None = None, ran: bool = False) -> Job:
        """Check plain data.

        Args:
            tree: section → key → value; missing keys take their defaults.
            where: what an error line starts with, such as the file's name.
            names: how an error names a key that did not come from there but overrides it, such as
                ``{"privacy.epsilon": "--epsilon"}``.  A key of ``tree`` that such a key makes idle is left out.
            ran: whether it is read back after it ran: a protocol of another package need not be installed here then.

        Raises:
            UserError: a key is unknown, its value is refused, or another key makes it idle; the line names the key and what is
                allowed.
        """
        names = names or {}
        try:
            job = cls.model_validate(dict(tree), context={"ran": ran})
        except ValidationError as error:
            raise UserError(_explain(error, where, names)) from None
        kept = {section: dict(tree.get(section) or {}) for section in SECTIONS}
        for rule in IDLE:
            for full in rule.keys if rule.holds(job) else ():
                section, key = full.split(".")
                overruled = full not in names and any(decider in names for decider in rule.because)
                if key in kept[section] and not overruled:
                    start = f"{where}: " if where and full not in names else ""
                    raise UserError(f"{start}{names.get(full, full)} is refused {rule.reason(job)}")
                kept[section].pop(key, None)
        return cls.model_validate(kept, context={"ran": ran})

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read and check a job file; errors as for `parse` and `read_toml`."""
        return cls.parse(read_toml(path), where=str(path))

    def plain(self) -> dict[str, Any]:
        """The job as JSON-ready data, every key present that is not idle; `parse` reads it back."""
        tree = self.model_dump(mode="json")
        for full in (key for rule in IDLE if rule.holds(self) for key in rule.keys):
            section, key = full.split(".")
            del tree[section][key]
        return tree


@dataclass(frozen=True)
class Idle:
    """Keys that would be ignored, and are refused instead.

    Attributes:
        keys: full names.
        because: full names of the keys that make them idle.
        holds: whether they are, in a job.
        reason: the rest of the line after "… is refused".
    """

    keys: tuple[str, ...]
    because: tuple[str, ...]
    holds: Callable[[Job], bool]
    reason: Callable[[Job], str]


NO_NOISE = "without noise inside the sum (--mechanism distributed-party or distributed-record), to which it belongs"
NO_UPDATES = "without noise on whole updates (--mechanism distributed-party), to which it belongs"
NO_METRIC = "with noise inside the sum, beside which no metric leaves"
NO_DP = 'without differential privacy (--no-dp, mechanism = "none"), to which it belongs'
WHOLE = "with distributed-party, which clips whole updates, weighs all parties alike and computes its own grid"
STEP = "with {}: a round is one step over all sites, without weights, on a grid of its own"

IDLE_WITH: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "none": (
        (NO_DP, ("privacy.epsilon", "privacy.delta", "privacy.accountant", "privacy.clip", "privacy.rows")),
        ("without differential privacy, where means and variances are exact", ("data.scaling",)),
        (NO_NOISE, ("privacy.noise",)),
        (NO_UPDATES, ("privacy.clip_quantile",)),
    ),
    "local-record": (
        (NO_NOISE, ("privacy.noise",)),
        (NO_UPDATES, ("privacy.clip_quantile",)),
    ),
    "distributed-party": (
        (WHOLE, ("privacy.accountant", "privacy.clip", "privacy.rows", "privacy.w_max", "privacy.precision")),
        (NO_METRIC, ("privacy.patience", "privacy.places")),
        (
            "with distributed-party: its ε protects all records of a party at once, the noise of such statistics one of them",
            ("data.scaling",),
        ),
    ),
    "distributed-record": (
        (STEP.format("distributed-record"), ("privacy.local_steps", "privacy.update_clip", "privacy.w_max", "privacy.precision")),
        (NO_METRIC, ("privacy.patience", "privacy.places")),
        ("with distributed-record, whose noise the rdp accountant alone knows", ("privacy.accountant",)),
        (NO_UPDATES, ("privacy.clip_quantile",)),
    ),
    "central": (
        ("with central, which opens no metric", ("privacy.patience", "privacy.places")),
        (STEP.format("central"), ("privacy.local_steps", "privacy.update_clip", "privacy.w_max", "privacy.precision")),
        (NO_NOISE, ("privacy.noise",)),
        (NO_UPDATES, ("privacy.clip_quantile",)),
    ),
}
"""Mechanism → why keys are idle with it, and which: every key that is not named means something there."""


def _with(mechanism: str, why: str, keys: tuple[str, ...]) -> Idle:
    return Idle(keys, ("privacy.mechanism",), lambda job: job.privacy.mechanism == mechanism, lambda _: why)


ALGORITHM_KEYS = (
    ("proximal", ("fedprox",)),
    ("step_rows", ("fednova",)),
    ("fairness", ("qfedavg",)),
    ("decay_mean", ADAPTIVE),
    ("decay_squares", ("fedadam", "fedyogi")),
    ("adaptivity", ADAPTIVE),
)
"""Keys of ``performance`` that belong to some algorithms."""


def _of_algorithm(key: str, owners: tuple[str, ...]) -> Idle:
    return Idle(
        (f"performance.{key}",),
        ("performance.algorithm",),
        lambda job: job.performance.algorithm not in owners,
        lambda job: f"with algorithm = {job.performance.algorithm}: it belongs to {', '.join(owners)}",
    )


IDLE = (
    *(_with(mechanism, *rule) for mechanism, rules in IDLE_WITH.items() for rule in rules),
    Idle(
        ("data.holdout",),
        ("data.folds", "data.name"),
        lambda job: job.data.splits > 1,
        lambda job: f"with {job.data.splits} folds: it is for one split (--folds 1)",
    ),
    Idle(
        ("model.hidden",),
        ("model.name",),
        lambda job: job.model.name == "logistic",
        lambda job: f"for {job.model.name}: it belongs to mlp and multitask",
    ),
    Idle(
        ("model.private",),
        ("model.name",),
        lambda job: job.model.name != "multitask",
        lambda job: f"for {job.model.name}: it belongs to multitask",
    ),
    Idle(
        ("privacy.accountant",),
        ("data.scaling",),
        lambda job: job.data.scaling == "noised" and job.privacy.mechanism in ("local-record", "central"),
        lambda _: "with data.scaling = noised (--scaling), whose noise the rdp accountant alone knows",
    ),
    *(_of_algorithm(*rule) for rule in ALGORITHM_KEYS),
    Idle(
        ("performance.keep",),
        ("performance.compression",),
        lambda job: job.performance.compression != "mask",
        lambda job: f"with compression = {job.performance.compression}: it belongs to mask",
    ),
    Idle(
        ("performance.rank",),
        ("performance.compression",),
        lambda job: job.performance.compression != "low-rank",
        lambda job: f"with compression = {job.performance.compression}: it belongs to low-rank",
    ),
    Idle(
        ("privacy.ledger_data",),
        ("privacy.ledger",),
        lambda job: job.privacy.ledger is None,
        lambda _: "without a ledger (--ledger), to which it belongs",
    ),
)


def flat(job: Mapping[str, Any]) -> dict[str, Any]:
    """``section.key`` → value of a plain job."""
    return {f"{section}.{key}": value for section, keys in job.items() for key, value in keys.items()}


def read_toml(path: Path) -> dict[str, Any]:
    """The tree of a job file, with relative paths resolved against the file's folder; nothing else is checked.

    Raises:
        UserError: the file cannot be read or is no TOML; the line names file and line.
    """
    if path.suffix.lower() == ".csv":
        raise UserError(f"{path} is a table, not a job file: give it as --data {path} with --label and --site")
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{path}: cannot read the job file: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: damaged job file: byte {error.object[error.start]:#04x} is not UTF-8 (at line {line})") from None
    tree = parse_toml(text, path)
    for section, key in (("data", "name"), ("data", "dir"), ("output", "dir"), ("privacy", "ledger")):
        knobs = tree.get(section)
        value = knobs.get(key) if isinstance(knobs, dict) else None
        if isinstance(value, str) and (key in {"dir", "ledger"} or value.lower().endswith(".csv")):
            tree[section][key] = str(path.parent / value)
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("contract"), str):
        data["contract"] = read_contract(path.parent / data["contract"])
    return tree


def parse_toml(text: str, where: object, what: str = "damaged job file") -> dict[str, Any]:
    """The tree of TOML.

    Raises:
        UserError: it is none; the line begins with ``where: what``, and names the line.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{where}: {what}: nested too deeply") from None
    except ValueError as error:
        reason = " ".join(str(error).split()).replace("at end of document", f"at line {text.count(chr(10)) + 1}, end of file")
        raise UserError(f"{where}: {what}: {reason}") from None


def _explain(error: ValidationError, where: str, names: Mapping[str, str]) -> str:
    """One line for the first thing that is wrong, unknown keys first."""
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path[:2])
    if problem["type"] == "extra_forbidden":
        text = _unknown(path)
    elif problem["type"] in {"model_type", "model_attributes_type"}:
        text = f"{key} must be a section [{key}] with keys, not {quote(problem['input'])}"
    elif problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        text = f"{names.get(key, key)}: {reason}" if len(path) > 1 else reason
    else:
        part = "".join(f".{step}" for step in path[2:] if path[1] in ("ranges", "levels") and not step.isdigit())
        words = " or ".join(choices(path[0], path[1])) or allowed(path[0], path[1])
        text = f"{names.get(key, key)}{part} = {quote(problem['input'])} is refused; allowed: {words}"
        text += near(
            problem["input"], problem.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
        )
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"{where}: " if where and key not in names else "") + " ".join(text.split()) + more


def _unknown(path: list[str]) -> str:
    known = list(SECTIONS) if len(path) == 1 else list(SECTIONS[path[0]].model_fields)
    homes = [section for section, knobs in SECTIONS.items() if path[-1] in knobs.model_fields]
    full = ".".join(path)
    if homes:
        return f"unknown key {full}: {path[-1]} belongs in section [{'] or ['.join(homes)}]"
    kind, scope = ("section", "sections") if len(path) == 1 else ("key", f"keys of [{path[0]}]")
    prefix = "" if len(path) == 1 else f"{path[0]}."
    return f"unknown {kind} {full}{near(path[-1], known, prefix)}; allowed {scope}: {', '.join(known)}"
