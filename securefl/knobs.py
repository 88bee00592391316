"""The groups of a job's knobs, so that those which can hurt privacy and those which cannot never mix.

What it does not protect: a value in its range may still be a bad choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from protocols import plugins
from securefl.algorithm_knobs import AlgorithmKnobs
from securefl.data_knobs import DataKnobs
from securefl.knob_base import Knobs, Positive, Unit, quote

TRACKED = {"csv": "FILE", "tensorboard": "DIR", "mlflow": "URI"}
"""Where metrics may go, and what names the place."""


class ModelKnobs(Knobs):
    """What is trained."""

    name: Literal["logistic", "mlp", "multitask"] = Field(default="logistic", description="model")
    hidden: int = Field(default=16, ge=1, le=65_536, description="hidden units of the mlp, or of the trunk of multitask")
    private: int = Field(default=0, ge=0, le=65_536, description="width of a private trunk beside the shared one of multitask")
    shared: str | None = Field(
        default=None,
        min_length=1,
        description="pattern of names of parameters, such as trunk.*: these enter the sum, the others never leave their site "
        "(default: all enter it)",
    )
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
    mechanism: Literal["local-record", "distributed-record", "distributed-party", "central", "none"] = Field(
        default="local-record",
        description="differential privacy: of a record, by DP-SGD on every site, by noise inside the sum of every step, or by a "
        "server that is trusted (central, for comparison); of a party, by noise inside the sum; or none",
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
    clip_quantile: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="let the bound of an update follow this quantile of the norms, round by round, beginning with update_clip",
    )
    w_max: int = Field(
        default=256, ge=1, le=32_767, description="public bound of a site's weight (its rows); larger sites are cut to it"
    )
    rows: int | None = Field(
        default=None,
        ge=1,
        le=10**9,
        description="public number of rows a site, for noise and weight (default: each site's own, which they can tell); steps "
        "over all sites are divided by it, and need it",
    )
    precision: int = Field(default=16, ge=8, le=24, description="bits of one coordinate of one party")
    places: bool = Field(
        default=False, description="open how many sites have an update and a loss of which size, so that each sees its own place"
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="stop where AUROC out of the secure sums (or the loss, without any) has not improved for so many rounds",
    )
    groups: int | None = Field(
        default=None,
        ge=3,
        le=99,
        description="open the sums of so many random groups of parties, and take the median of their means (default: one sum)",
    )
    threshold: int | None = Field(
        default=None, ge=2, le=10_000, description="parties needed to open a sum (default: from the cohort)"
    )
    min_cohort: int | None = Field(
        default=None, ge=2, le=10_000, description="smallest cohort that a party joins (default: the threshold)"
    )
    clients_per_round: int | None = Field(
        default=None, ge=2, le=10_000, description="sites that a round invites, drawn at random (default: all)"
    )
    ledger: Path | None = Field(
        default=None, strict=False, description="file that keeps what each party has spent and may spend over jobs"
    )
    ledger_data: str | None = Field(
        default=None, min_length=1, description="what the ledger calls the data (default: their name, or the file's)"
    )

    @property
    def threshold_of_all(self) -> int | None:
        """The threshold of a sum over all sites beside the rounds; None: the least that is safe."""
        return self.threshold if self.clients_per_round is None else None

    @property
    def summed(self) -> bool:
        """Whether a round is one step along the sum of all sites' clipped gradients."""
        return self.mechanism in ("distributed-record", "central")

    @property
    def per_record(self) -> bool:
        """Whether training takes one gradient a record."""
        return self.summed or self.mechanism == "local-record"

    @property
    def steps(self) -> int:
        """Training steps of a site in a round."""
        return 1 if self.summed else self.local_steps

    @field_validator("protocol")
    @classmethod
    def _offered(cls, name: str, info: ValidationInfo) -> str:
        if name in (plugins.AUTO, *plugins.BUILT_IN) or name in plugins.names() or (info.context or {}).get("ran"):
            return name
        raise PydanticCustomError("protocol", "no protocol", {"expected": ", ".join(choices("privacy", "protocol"))})


class PerformanceKnobs(AlgorithmKnobs):
    """Nothing here can hurt privacy."""

    learning_rate: Positive = Field(default=0.5, description="step size on the sites, or along the mean gradient over all of them")
    server_learning_rate: Positive = Field(default=1.0, description="step size of the server along the mean update")
    handshake_rounds: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="rounds whose keys one handshake prepares; who drops out is out until the next one (default: 16 where a round "
        "is one training step and nobody is made to vanish, else 1)",
    )


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
        checkpoint: int | None = Field(
            default=None, ge=1, le=100_000, description="write checkpoint.safetensors into the folder after every so many rounds"
        )
        resume: bool = Field(default=False, description="go on after the last checkpoint in the folder, if there is one")
        track: str | None = Field(
            default=None, description="write metrics round by round to csv:FILE, tensorboard:DIR or mlflow:URI"
        )

        @field_validator("track")
        @classmethod
        def _trackable(cls, track: str | None) -> str | None:
            if track is None:
                return None
            kind, _, where = track.partition(":")
            if kind not in TRACKED or not where:
                ways = ", ".join(f"{one}:{what}" for one, what in TRACKED.items())
                raise ValueError(f"{quote(track)} is no place for metrics; allowed: {ways}")
            local = where.startswith(("sqlite:", "file:")) or "//" not in where
            if (
                kind == "mlflow" and not local and ("@" in where or "password=" in where)
            ):  # jobs are shown, and kept in every result
                raise ValueError("an address has no password in it: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
            return track


SECTIONS: dict[str, type[Knobs]] = {
    "data": DataKnobs,
    "model": ModelKnobs,
    "privacy": PrivacyKnobs,
    "performance": PerformanceKnobs,
    "simulation": SimulationKnobs,
    "output": OutputKnobs,
}


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
        "object": "a table of column = [text, text]" if "items" in _inner(kind) else "a table of column = [low, high]",
        "array": "a list of texts that are not empty",
    }.get(kind.get("type", ""), "a text")
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {_figure(kind[bound])}" for bound, sign in signs.items() if bound in kind]
    if kind.get("minLength"):
        return f"{noun} that is not empty"
    return f"{noun} {' and '.join(bounds)}" if bounds else noun


def _inner(kind: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the values of a table of columns are; empty for what is no table."""
    inner = kind.get("additionalProperties")
    return inner if isinstance(inner, Mapping) else {}


def _figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
