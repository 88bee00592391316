"""The job: everything that decides a run, in groups, so that knobs which can hurt privacy and knobs which cannot never mix.

A job file is TOML with the sections ``[data] [model] [privacy] [performance] [simulation] [output]`` and exactly these keys.  The
command line fills the same models, so both are checked once, here.  Whatever is refused is a one-line `UserError` with the key's
full name; so is a key that would say nothing (`IDLE`).  Relative paths in a job file are taken from the file's own folder.
"""

from __future__ import annotations

import difflib
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from protocols import plugins
from securefl.errors import UserError

BuiltIn = Literal["breast-cancer", "heart"]
BUILT_IN: tuple[str, ...] = get_args(BuiltIn)
Unit = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Range = Annotated[tuple[float, float], Field(strict=False)]


class Knobs(BaseModel):
    """Base of the groups: frozen, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class DataKnobs(Knobs):
    """Which rows, which sites, and how rows are held out."""

    name: str = Field(default="breast-cancer", description="breast-cancer, heart, or a path ending in .csv")
    dir: Path | None = Field(
        default=None, strict=False, description="folder that holds the heart data (else SECUREFL_DATA, else a download)"
    )
    label: str | None = Field(default=None, min_length=1, description="label column of a CSV, with two values")
    site: str | None = Field(default=None, min_length=1, description="site column of a CSV, one site a value")
    clients: int | None = Field(
        default=None, ge=2, le=10_000, description="number of sites, where the data do not fix them (default 5)"
    )
    folds: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="folds of the cross-validation inside each site; 1 = one split (default: 5 for heart, else 1)",
    )
    holdout: Unit = Field(default=0.3, description="share of each site's rows that is held out in one split")
    ranges: dict[str, Range] = Field(
        default_factory=dict,
        description="publicly known range of a column of a CSV; a missing number becomes its middle (without a range the row is "
        "left out)",
    )
    drop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), strict=False, description="column of a CSV to leave out, such as a free text or a patient number"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in BUILT_IN or name.lower().endswith(".csv"):
            return name
        raise ValueError(
            f"{_quote(name)} is no data set{_near(name, BUILT_IN)}; allowed: {', '.join(BUILT_IN)}, or a path ending in .csv"
        )

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, Range]) -> dict[str, Range]:
        for column, (low, high) in ranges.items():
            if not column:
                raise ValueError("a range needs the name of its column")
            if not low < high:
                raise ValueError(
                    f"the range of column {_quote(column)} must have its lower end below its upper end, not {low}:{high}"
                )
        return ranges

    @model_validator(mode="after")
    def _fitting(self) -> DataKnobs:
        if self.is_table:
            for key in ("label", "site"):
                if getattr(self, key) is None:
                    raise ValueError(f"data.{key} is missing: a CSV needs the name of its {key} column (--{key})")
            if self.clients is not None:
                raise ValueError("data.clients is refused: the site column of a CSV fixes the sites")
        else:
            for key in ("label", "site", "ranges", "drop"):
                if getattr(self, key):
                    raise ValueError(f"data.{key} is refused for {self.name}: it belongs to a CSV")
            if self.name == "heart" and self.clients is not None:
                raise ValueError("data.clients is refused for heart: the data fix the sites, four hospitals")
        if self.dir is not None and self.name != "heart":
            raise ValueError(f"data.dir is refused for {self.name}: it belongs to heart")
        return self

    @property
    def is_table(self) -> bool:
        """Whether the rows come from the user's own CSV."""
        return self.name not in BUILT_IN

    @property
    def splits(self) -> int:
        """Folds in effect: 1 is one split with `holdout`, more is cross-validation inside each site."""
        return self.folds if self.folds is not None else (5 if self.name == "heart" else 1)


class ModelKnobs(Knobs):
    """What is trained."""

    name: Literal["logistic", "mlp"] = Field(default="logistic", description="model")
    hidden: int = Field(default=16, ge=1, le=65_536, description="hidden units of the mlp")
    fix: bool = Field(default=False, description="replace layers that DP-SGD cannot handle, as the refusal's diff shows")


class PrivacyKnobs(Knobs):
    """Everything that can hurt privacy.

    ``epsilon`` and ``delta`` hold for one record over all rounds of the run.  Norms are L2, over one example's gradient
    (``clip``) or one party's whole update (``update_clip``).
    """

    protocol: str = Field(
        default=plugins.AUTO,
        description="how the sum is formed; auto takes the cheaper of secagg and kahe; plain-insecure shows every update to the "
        "server, bfv and ckks to one that a site helps",
        json_schema_extra={"enum": [plugins.AUTO, *plugins.BUILT_IN]},
    )
    mechanism: Literal["local-record", "distributed-party", "none"] = Field(
        default="local-record",
        description="differential privacy: of a record, by DP-SGD on every site; of a party, by noise inside the sum; or none",
    )
    noise: Literal["skellam", "discrete-gaussian"] = Field(default="skellam", description="law of the noise inside the sum")
    epsilon: float = Field(default=3.0, gt=0, le=1e6, description="ε over all rounds")
    delta: Unit = Field(default=1e-5, description="δ over all rounds")
    accountant: Literal["rdp", "prv"] = Field(default="rdp", description="how ε is accounted; prv is a little tighter, and slower")
    clip: Positive = Field(default=1.0, description="L2 bound of one example's gradient")
    sample_rate: float = Field(default=0.2, gt=0, le=1, description="probability with which a row enters a training step")
    rounds: int = Field(default=20, ge=1, le=100_000, description="rounds, aborted ones included")
    local_steps: int = Field(default=3, ge=1, le=100_000, description="training steps of a site in a round")
    update_clip: Positive = Field(default=8.0, description="L2 bound of one party's whole update")
    w_max: int = Field(
        default=256, ge=1, le=32_767, description="public bound of a site's weight (its rows); larger sites are cut to it"
    )
    rows: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="public number of rows a site, for noise and weight (default: each site's own, which they can tell)",
    )
    precision: int = Field(default=16, ge=8, le=24, description="bits of one coordinate of one party")
    threshold: int | None = Field(
        default=None, ge=2, le=10_000, description="parties needed to open a sum (default: from the cohort)"
    )
    min_cohort: int | None = Field(
        default=None, ge=2, le=10_000, description="smallest cohort that a party joins (default: the threshold)"
    )

    ledger: Path | None = Field(
        default=None, strict=False, description="file that keeps what each party has spent and may spend over jobs"
    )
    ledger_data: str | None = Field(
        default=None, min_length=1, description="what the ledger calls the data (default: their name, or the file's)"
    )

    @field_validator("protocol")
    @classmethod
    def _offered(cls, name: str, info: ValidationInfo) -> str:
        if name in (plugins.AUTO, *plugins.BUILT_IN) or name in plugins.names() or (info.context or {}).get("ran"):
            return name
        raise PydanticCustomError("protocol", "no protocol", {"expected": ", ".join(choices("privacy", "protocol"))})


class PerformanceKnobs(Knobs):
    """Nothing here can hurt privacy."""

    learning_rate: Positive = Field(default=0.5, description="step size on the sites")
    server_learning_rate: Positive = Field(default=1.0, description="step size of the server along the mean update")


class SimulationKnobs(Knobs):
    """What only a simulation has."""

    seed: int = Field(
        default=0, ge=0, lt=2**63, description="fixes the split and the initial model only: keys and noise stay random"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability that a party vanishes in a round, at a random stage")
    baselines: bool = Field(default=True, description="also train each site's own model and the pooled model, without noise")


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "json" in "OutputKnobs" shadows')  # a method that pydantic has given up

    class OutputKnobs(Knobs):
        """Where results go; nothing here changes one."""

        dir: Path | None = Field(
            default=None, strict=False, description="write report.html, metrics.json and model.safetensors into this folder"
        )
        json: bool = Field(default=False, description="print one JSON object and nothing else")  # type: ignore[assignment]


class Job(Knobs):
    """One run, complete and checked."""

    data: DataKnobs = Field(default_factory=DataKnobs)
    model: ModelKnobs = Field(default_factory=ModelKnobs)
    privacy: PrivacyKnobs = Field(default_factory=PrivacyKnobs)
    performance: PerformanceKnobs = Field(default_factory=PerformanceKnobs)
    simulation: SimulationKnobs = Field(default_factory=SimulationKnobs)
    output: OutputKnobs = Field(default_factory=OutputKnobs)

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


SECTIONS: dict[str, type[Knobs]] = {
    "data": DataKnobs,
    "model": ModelKnobs,
    "privacy": PrivacyKnobs,
    "performance": PerformanceKnobs,
    "simulation": SimulationKnobs,
    "output": OutputKnobs,
}


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


IDLE = (
    Idle(
        ("data.holdout",),
        ("data.folds", "data.name"),
        lambda job: job.data.splits > 1,
        lambda job: f"with {job.data.splits} folds: it is for one split (--folds 1)",
    ),
    Idle(
        ("model.hidden",),
        ("model.name",),
        lambda job: job.model.name != "mlp",
        lambda job: f"for {job.model.name}: it belongs to mlp",
    ),
    Idle(
        ("privacy.epsilon", "privacy.delta", "privacy.accountant", "privacy.clip", "privacy.rows"),
        ("privacy.mechanism",),
        lambda job: job.privacy.mechanism == "none",
        lambda _: 'without differential privacy (--no-dp, mechanism = "none"), to which it belongs',
    ),
    Idle(
        ("privacy.accountant", "privacy.clip", "privacy.rows", "privacy.w_max", "privacy.precision"),
        ("privacy.mechanism",),
        lambda job: job.privacy.mechanism == "distributed-party",
        lambda _: "with distributed-party, which clips whole updates, weighs all parties alike and computes its own grid",
    ),
    Idle(
        ("privacy.ledger_data",),
        ("privacy.ledger",),
        lambda job: job.privacy.ledger is None,
        lambda _: "without a ledger (--ledger), to which it belongs",
    ),
    Idle(
        ("privacy.noise",),
        ("privacy.mechanism",),
        lambda job: job.privacy.mechanism != "distributed-party",
        lambda _: "without noise inside the sum (--mechanism distributed-party), to which it belongs",
    ),
)


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
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: damaged job file: nested too deeply") from None
    except ValueError as error:
        reason = " ".join(str(error).split()).replace("at end of document", f"at line {text.count(chr(10)) + 1}, end of file")
        raise UserError(f"{path}: damaged job file: {reason}") from None
    for section, key in (("data", "name"), ("data", "dir"), ("output", "dir"), ("privacy", "ledger")):
        knobs = tree.get(section)
        value = knobs.get(key) if isinstance(knobs, dict) else None
        if isinstance(value, str) and (key in {"dir", "ledger"} or value.lower().endswith(".csv")):
            tree[section][key] = str(path.parent / value)
    return tree


def choices(section: str, key: str) -> tuple[str, ...]:
    """The values of a key that is one of a list, those of plug-ins included; of others nothing."""
    annotation = SECTIONS[section].model_fields[key].annotation
    if (section, key) == ("privacy", "protocol"):
        return (plugins.AUTO, *plugins.BUILT_IN, *plugins.names())
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def allowed(section: str, key: str) -> str:
    """The allowed values of a key in words, read off its declaration: ``a number > 0 and <= 1``, ``rdp or prv``."""
    schema = SECTIONS[section].model_json_schema()["properties"][key]
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return " or ".join(_words(kind) for kind in kinds)


def _words(kind: Mapping[str, Any]) -> str:
    if "enum" in kind:
        return " or ".join(kind["enum"])
    noun = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "object": "a table of column = [low, high]",
        "array": "a list of texts that are not empty",
    }.get(kind.get("type", ""), "a text")
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {_figure(kind[bound])}" for bound, sign in signs.items() if bound in kind]
    if kind.get("minLength"):
        return f"{noun} that is not empty"
    return f"{noun} {' and '.join(bounds)}" if bounds else noun


def _figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _explain(error: ValidationError, where: str, names: Mapping[str, str]) -> str:
    """One line for the first thing that is wrong, unknown keys first."""
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path[:2])
    if problem["type"] == "extra_forbidden":
        text = _unknown(path)
    elif problem["type"] in {"model_type", "model_attributes_type"}:
        text = f"{key} must be a section [{key}] with keys, not {_quote(problem['input'])}"
    elif problem["type"] == "value_error":
        reason = str(problem["ctx"]["error"])
        text = f"{names.get(key, key)}: {reason}" if len(path) > 1 else reason
    else:
        part = "".join(f".{step}" for step in path[2:] if path[1] == "ranges" and not step.isdigit())
        words = " or ".join(choices(path[0], path[1])) or allowed(path[0], path[1])
        text = f"{names.get(key, key)}{part} = {_quote(problem['input'])} is refused; allowed: {words}"
        text += _near(
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
    return f"unknown {kind} {full}{_near(path[-1], known, prefix)}; allowed {scope}: {', '.join(known)}"


def _near(word: object, known: list[str] | tuple[str, ...], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else []
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def _quote(value: object) -> str:
    try:
        text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number too long to print"
    return text if len(text) <= 60 else text[:57] + "…"
