"""The options of ``securefl run``, read off the job's declaration: every key of a job file has one, with no second list.

An option that is not given leaves the job file's value.  `command` is the inverse: the line that repeats a job.
"""

from __future__ import annotations

import csv
import inspect
import io
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from securefl.data.contract import read_contract
from securefl.errors import UserError
from securefl.job import Job, read_toml, usual
from securefl.knobs import SECTIONS, choices

FLAGS = {
    "data.name": "--data",
    "data.dir": "--data-dir",
    "data.ranges": "--range",
    "model.name": "--model",
    "model.fix": "--fix-model/--no-fix-model",
    "simulation.baselines": "--baselines/--no-baselines",
    "output.dir": "--out",
    "output.json": "--json/--no-json",
    "privacy.places": "--places/--no-places",
    "output.resume": "--resume/--no-resume",
}
"""Options whose names are not just the key's."""

NO_DP = "--no-dp"
"""Short for ``--mechanism none``."""

PANELS = {
    "data": "Data",
    "model": "Model",
    "privacy": "What can hurt privacy",
    "performance": "What cannot hurt privacy",
    "simulation": "Simulation only",
    "output": "Output",
}
LISTS = {"ranges": "COLUMN=LOW:HIGH", "levels": "COLUMN=A,B,C", "drop": "COLUMN"}
"""Options that may be given several times."""

LONGEST = 16
"""Letters of the longest list of values that stands beside an option; a longer one follows the description."""


def flag(section: str, key: str) -> str:
    """The option of a key: ``--local-steps`` of ``privacy.local_steps``; a switch gives both names, divided by a slash."""
    return FLAGS.get(f"{section}.{key}", "--" + key.replace("_", "-"))


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command one option for every key of a job; it receives those given as ``given={"section.key": value}``."""

    def wrapped(**values: Any) -> None:
        given = {key: values.pop(name) for name, key in names.items()}
        command(**values, given={key: value for key, value in given.items() if value is not None})

    names: dict[str, str] = {}
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    options = []
    for section, knobs in SECTIONS.items():
        for key in knobs.model_fields:
            names[f"{section}_{key}"] = f"{section}.{key}"
            options.append(_parameter(section, key))
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *options]]
    wrapped.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    return wrapped


def _parameter(section: str, key: str) -> inspect.Parameter:
    field = SECTIONS[section].model_fields[key]
    values = choices(section, key)  # asked once: for a protocol it reads what is installed
    brief = "|".join(values) if len("|".join(values)) <= LONGEST else "NAME"
    kind, metavar = (str, brief) if values and "/" not in flag(section, key) else _kind(section, key, field.annotation)
    text = f"{field.description}".replace("[", "\\[")
    if len("|".join(values)) > LONGEST:
        text += f": {', '.join(values)}"
    if kind is not bool and field.default not in (None, ""):
        default = field.default if not field.default_factory else None
        text += f" [dim](default {default})[/dim]" if default is not None else ""
    elif kind is bool:
        first, second = flag(section, key).split("/")
        text += f" [dim](default {first if field.default else second})[/dim]"
    option = typer.Option(flag(section, key), help=text, metavar=metavar, rich_help_panel=PANELS[section], show_default=False)
    return inspect.Parameter(
        f"{section}_{key}", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _kind(section: str, key: str, annotation: Any) -> tuple[Any, str | None]:
    """Type and placeholder of an option that has no list of values; `Job` alone decides what is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if "/" in flag(section, key):
        return bool, ""
    if key in LISTS:
        return list[str], LISTS[key]
    metavars = {"name": "NAME|FILE.csv", "dir": "DIR", "label": "COLUMN", "site": "COLUMN", "dropout": "P"}
    metavars |= {"ledger": "FILE", "ledger_data": "NAME", "contract": "FILE"}
    return (annotation if annotation in (int, float, str) else str), metavars.get(key)


def read_job(path: Path | None, given: Mapping[str, Any]) -> Job:
    """The job of a file (or the defaults) with the given options on top, checked together.

    Args:
        path: job file, or None.
        given: ``section.key`` → value of the options that were given.

    Raises:
        UserError: a key, a value or a combination is refused.
    """
    for what, value in {"JOB.toml": str(path or ""), **{flag(*full.split(".")): value for full, value in given.items()}}.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not _unicode(text):
                raise UserError(f"{what} {text!r} is refused: it is not UTF-8 text")
    tree = read_toml(path) if path else {}
    for full, value in given.items():
        section, key = full.split(".")
        knobs = tree.setdefault(section, {})
        if isinstance(knobs, dict):
            knobs[key] = _value(full, value, knobs.get(key))
    _check_table(tree.get("data"))
    return Job.parse(tree, where=str(path or ""), names={full: flag(*full.split(".")) for full in given})


def _check_table(data: object) -> None:
    """For a CSV without label or site column: refuse a file that is not there first, and say which columns there are."""
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(name, str) or not name.lower().endswith(".csv"):
        return
    missing = [f"data.{key} (--{key})" for key in ("label", "site") if data.get(key) is None]
    if missing:
        from securefl.data.columns import read, some  # noqa: PLC0415

        columns = some(repr(column.name) for column in read(Path(name)) if column.name)
        raise UserError(f"{' and '.join(missing)} must name a column of {name}; its columns: {columns}")


def _unicode(text: str) -> bool:
    """Whether a word of the command line was UTF-8: Python smuggles other bytes in as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(full: str, value: Any, before: Any) -> Any:
    """The value of a key out of its option; ``before`` is the job file's."""
    if full == "data.drop":
        return [*(before if isinstance(before, list) else []), *value]
    if full == "data.contract":
        return read_contract(Path(value))
    if full not in ("data.ranges", "data.levels"):
        return value
    given = ranges_of(value) if full == "data.ranges" else levels_of(value)
    return {**(before if isinstance(before, dict) else {}), **given}


def ranges_of(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """All of ``--range``, a column once; errors as for `range_of`."""
    return _once([range_of(text) for text in texts], "--range")


def levels_of(texts: Sequence[str], option: str = "--levels") -> dict[str, tuple[str, ...]]:
    """All of ``--levels``, or of another option: ``COLUMN=VALUE,VALUE``, a column once; a value with a comma in double quotes.

    Raises:
        UserError: for another form.
    """
    return _once([_levels(text, option) for text in texts], option)


def _once(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{option} is refused twice for the column {twice!r}: give it once for a column")
    return dict(pairs)


def _levels(text: str, option: str) -> tuple[str, tuple[str, ...]]:
    column, _, listed = text.partition("=")
    try:
        rows = list(csv.reader(io.StringIO(listed, newline=""), strict=True))
    except csv.Error:
        rows = []
    if not column or len(rows) != 1 or not all(rows[0]):
        raise UserError(f"{option} {text!r} is refused; allowed: COLUMN=VALUE,VALUE, such as sex=f,m")
    return column, tuple(rows[0])


def range_of(text: str) -> tuple[str, tuple[float, float]]:
    """Column, lower and upper bound of ``COLUMN=LOW:HIGH``.

    Raises:
        UserError: for another form.
    """
    number = r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?"
    match = re.fullmatch(rf"(.+)=({number}):({number})", text, re.DOTALL)
    try:
        column, low, high = match.groups() if match else ("", "", "")
        return column, (float(low), float(high))
    except ValueError:
        raise UserError(f"--range {text!r} is refused; allowed: COLUMN=LOW:HIGH with two numbers, such as age=0:120") from None


def command(job: Job) -> list[str]:
    """The shortest ``securefl run`` line that gives this job: no key at its default, and none that is idle."""
    words, default = ["securefl", "run"], Job()
    named = {"data": {"name": job.data.name}, "privacy": {"mechanism": job.privacy.mechanism}}
    of_the_data = Job.parse(named) if usual(job.data.name, job.privacy.mechanism) else default
    derived = ("ranges", "levels") if job.data.contract is not None else ()
    for section, knobs in job.plain().items():
        for key in knobs:
            value, full = getattr(getattr(job, section), key), f"{section}.{key}"
            base = default if full in ("data.name", "privacy.mechanism") else of_the_data
            if value == getattr(getattr(base, section), key) or (section == "data" and key in derived):
                continue
            name = flag(section, key)
            if full == "privacy.mechanism" and value == "none":
                words.append(NO_DP)
            elif "/" in name:
                words.append(name.split("/")[0 if value else 1])
            elif key == "ranges":
                words += [f"{name}={column}={low!r}:{high!r}" for column, (low, high) in value.items()]
            elif key == "levels":
                words += [f"{name}={column}={_listed(levels)}" for column, levels in value.items()]
            elif key == "contract":
                words.append(f"{name}=schema.toml")
            elif key == "drop":
                words += [f"{name}={column}" for column in value]
            else:
                words.append(f"{name}={value}")
    return words


def _listed(values: Sequence[str]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="").writerow(values)
    return out.getvalue()
