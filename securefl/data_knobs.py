"""The keys of ``[data]``: which rows, which sites, and how rows are held out.

What it does not protect: a value in its range may still be a bad choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from securefl.data.contract import Contract, of_tree
from securefl.errors import UserError
from securefl.knob_base import Knobs, Unit, near, quote

BuiltIn = Literal["breast-cancer", "heart", "eicu", "tox21", "chembl"]
BUILT_IN: tuple[str, ...] = get_args(BuiltIn)
IN_FILES = ("heart", "eicu")
"""Data sets whose files fix the sites."""
ASSAYS = ("tox21", "chembl")
"""Data sets whose sites are partners with different assays."""
Range = Annotated[tuple[float, float], Field(strict=False)]
Levels = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]


class DataKnobs(Knobs):
    """Which rows, which sites, and how rows are held out."""

    name: str = Field(default="breast-cancer", description="breast-cancer, heart, eicu, tox21, chembl, or a path ending in .csv")
    dir: Path | None = Field(
        default=None,
        strict=False,
        description="folder that holds the data of heart (else SECUREFL_DATA, else a download), eicu, tox21 or chembl (else "
        "SECUREFL_DATA)",
    )
    label: str | None = Field(default=None, min_length=1, description="label column of a CSV, with two values")
    site: str | None = Field(default=None, min_length=1, description="site column of a CSV, one site a value")
    sites: Literal["region", "hospital"] | None = Field(
        default=None, description="what a site of eicu is (default: region, with one for hospitals whose region is not known)"
    )
    clients: int | None = Field(
        default=None,
        ge=2,
        le=10_000,
        description="number of sites, where the data do not fix them (default 5; tox21: 4, chembl: 8)",
    )
    folds: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="folds of the cross-validation inside each site; 1 = one split (default: 5 for heart and eicu, else 1)",
    )
    target: Literal["class", "value"] | None = Field(
        default=None, description="what is predicted of chembl: active or not, or the measured value (default: class)"
    )
    group: Literal["compound", "scaffold"] | None = Field(
        default=None, description="what tox21 and chembl hold out together (default: compound)"
    )
    holdout: Unit = Field(default=0.3, description="share of each site's rows that is held out in one split")
    ranges: dict[str, Range] = Field(
        default_factory=dict,
        description="publicly known range of a column of a CSV; a missing number becomes its middle (without a range the row is "
        "left out)",
    )
    levels: dict[str, Levels] = Field(
        default_factory=dict,
        description="publicly known values of a column of text of a CSV, needed with differential privacy; the value other takes "
        "all that are not named",
    )
    drop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), strict=False, description="column of a CSV to leave out, such as a free text or a patient number"
    )
    contract: Contract | None = Field(
        default=None,
        description="file (schema.toml) that says what a site's table must hold; ranges and levels come from it",
    )
    scaling: Literal["auto", "noised"] = Field(
        default="auto",
        description="auto: by public ranges, without differential privacy by exact means and variances; noised: by noised means "
        "and variances, which take part of ε",
    )

    @model_validator(mode="before")
    @classmethod
    def _contracted(cls, tree: Any) -> Any:
        """Ranges and levels out of the contract; what stands beside it must be the same."""
        given = tree.get("contract") if isinstance(tree, dict) else None
        if given is None:
            return tree
        try:
            contract = given if isinstance(given, Contract) else of_tree(given, "data.contract")
        except (UserError, TypeError, ValueError) as error:
            raise ValueError(str(error)) from None
        for key, derived in (("ranges", contract.ranges), ("levels", contract.levels)):
            beside = tree.get(key)
            if beside and not _alike(beside, derived):
                raise ValueError(f"data.{key} is refused beside data.contract, which says something else: leave it out")
            tree = {**tree, key: derived}
        return {**tree, "contract": contract}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in BUILT_IN or name.lower().endswith(".csv"):
            return name
        raise ValueError(
            f"{quote(name)} is no data set{near(name, BUILT_IN)}; allowed: {', '.join(BUILT_IN)}, or a path ending in .csv"
        )

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, Range]) -> dict[str, Range]:
        for column, (low, high) in ranges.items():
            if not column:
                raise ValueError("a range needs the name of its column")
            if not low < high:
                raise ValueError(
                    f"the range of column {quote(column)} must have its lower end below its upper end, not {low}:{high}"
                )
        return ranges

    @field_validator("levels")
    @classmethod
    def _named(cls, levels: dict[str, Levels]) -> dict[str, Levels]:
        for column, values in levels.items():
            if not column or "=" in column:
                raise ValueError(f"levels need the name of a column without =, not {quote(column)}")
            if len(set(values)) < max(2, len(values)) or any(value != " ".join(value.split()) for value in values):
                raise ValueError(
                    f"the levels of column {quote(column)} must be two texts or more, each once, without needless space"
                )
        return levels

    @model_validator(mode="after")
    def _fitting(self) -> DataKnobs:
        if self.is_table:
            for key in ("label", "site"):
                if getattr(self, key) is None:
                    raise ValueError(f"data.{key} is missing: a CSV needs the name of its {key} column (--{key})")
            if self.clients is not None:
                raise ValueError("data.clients is refused: the site column of a CSV fixes the sites")
        else:
            for key in ("contract", "label", "site", "ranges", "levels", "drop"):
                if getattr(self, key):
                    raise ValueError(f"data.{key} is refused for {self.name}: it belongs to a CSV")
            if self.name in IN_FILES and self.clients is not None:
                named = "four hospitals" if self.name == "heart" else "regions or hospitals (--sites)"
                raise ValueError(f"data.clients is refused for {self.name}: the data fix the sites, {named}")
        if self.dir is not None and self.name not in (*IN_FILES, *ASSAYS):
            raise ValueError(f"data.dir is refused for {self.name}: it belongs to {', '.join((*IN_FILES, *ASSAYS))}")
        if self.sites is not None and self.name != "eicu":
            raise ValueError(f"data.sites is refused for {self.name}: it belongs to eicu")
        return self

    @model_validator(mode="after")
    def _of_molecules(self) -> DataKnobs:
        for key in ("target", "group"):
            if getattr(self, key) is not None and not self.assays:
                raise ValueError(f"data.{key} is refused for {self.name}: it belongs to tox21 and chembl")
        return self

    @property
    def assays(self) -> bool:
        """Whether the sites are partners with different assays."""
        return self.name in ASSAYS

    @property
    def is_table(self) -> bool:
        """Whether the rows come from the user's own CSV."""
        return self.name not in BUILT_IN

    @property
    def splits(self) -> int:
        """Folds in effect: 1 is one split with `holdout`, more is cross-validation inside each site."""
        return self.folds if self.folds is not None else (5 if self.name in IN_FILES else 1)


def _alike(given: object, derived: Mapping[str, Sequence[object]]) -> bool:
    """Whether a table of columns holds the same in the same order."""
    if not isinstance(given, Mapping) or list(given) != list(derived):
        return False
    return all(isinstance(v, list | tuple) and tuple(v) == tuple(w) for v, w in zip(given.values(), derived.values(), strict=True))
