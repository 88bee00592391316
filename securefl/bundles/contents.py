"""What a bundle holds: a few small texts under plain names, in one canonical spelling.

    job.toml          the job; without the keys that are each machine's own business
    bundle.toml       optional: ``title``, and with code ``entry = "module:function"``
    schema.toml       optional: what the rows must be like, where the job says data.contract = "schema.toml"
    *.lock            optional: which packages, such as requirements.lock
    code/*.py         optional: model and trainer, with packages as folders

The contents are the deterministic CBOR of ``[format, [[name, text], …]]`` with the names in order; their SHA-256 is the bundle's
hash.  There is no archive inside: no links, no paths upwards, no modes, no compression.  Bytes that come from elsewhere are held to
every rule that a folder is held to.

What it does not protect: it says nothing of what the code does.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from protocols.errors import Refused, require
from protocols.wire import canonical, read_canonical
from securefl.data.contract import contract_of
from securefl.errors import UserError, printable
from securefl.job import Job, parse_toml
from securefl.knob_base import Knobs

FORMAT = "securefl bundle 1"
JOB, ABOUT, SCHEMA, CODE = "job.toml", "bundle.toml", "schema.toml", "code/"
MOST_FILES, MOST_BYTES, MOST_NAME, MOST_DEPTH = 64, 1 << 20, 120, 4
"""Most files of a bundle, bytes of all their texts, letters of a name, and folders that one may lie in."""
LARGEST = MOST_BYTES + MOST_FILES * (MOST_NAME + 16) + 256
"""Most bytes of the contents."""
MOST_TOML, MOST_LINE = 1 << 16, 2000
"""Most bytes of a TOML file and letters of a line of it: parsing takes time with the square of a line."""
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?"
NAME = re.compile(rf"job\.toml|bundle\.toml|schema\.toml|{_PART}\.lock|code/(?:[A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py")
"""The names that files may have, all of them below the bundle's own folder."""
ALLOWED = "job.toml, bundle.toml, schema.toml, *.lock and code/*.py, in plain letters, digits and _"
SKIPPED = "__pycache__"
"""The one thing in a folder that is left out: what Python makes of code by itself."""
OWN = (("data", "dir"), ("privacy", "ledger"), ("privacy", "ledger_data"), ("output", None))
"""Keys of a job that name files or accounts of one machine: nobody writes them for another."""


class About(Knobs):
    """``bundle.toml``.

    Attributes:
        title: one line for whoever lists bundles.
        entry: with code, what is called first: ``module:function``.
    """

    title: Annotated[str, Field(max_length=200)] = ""
    entry: (
        Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
        | None
    ) = None


@dataclass(frozen=True)
class Bundle:
    """The contents of a bundle, checked.

    Attributes:
        files: text by name, in the order of the names.

    Raises:
        Refused: as `read`.
    """

    files: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", dict(sorted(self.files.items())))
        _check(list(self.files.items()))
        require(JOB in self.files, "bundle-form", f"there is no {JOB}")

    @classmethod
    def of_folder(cls, folder: Path) -> Bundle:
        """Read a folder.

        Raises:
            UserError: for anything in it that a bundle cannot hold, by name; or as `checked`.
        """
        try:
            return cls(dict(_texts(folder))).checked()
        except Refused as error:
            raise UserError(f"{folder} makes no bundle: {error.check} ({error.detail})") from None

    @classmethod
    def read(cls, content: bytes) -> Bundle:
        """The bundle of these bytes.

        Raises:
            Refused: ``wire-…`` or ``bundle-form`` for what is none, ``bundle-name`` for a name that may not be or comes twice,
                ``bundle-size``, ``bundle-text`` for text with control characters.
        """
        tree = read_canonical(content, LARGEST, 3 + 3 * MOST_FILES)
        fits = type(tree) is list and len(tree) == 2 and tree[0] == FORMAT and type(tree[1]) is list
        require(fits and len(tree[1]) <= MOST_FILES, "bundle-form", "no bundle of this version")
        pairs = [item for item in tree[1] if type(item) is list and len(item) == 2 and all(type(part) is str for part in item)]
        require(len(pairs) == len(tree[1]), "bundle-form", "a damaged file")
        names = [name for name, _ in pairs]
        require(names == sorted(set(names)), "bundle-name", "names that come twice or out of order")
        return cls(dict(pairs))

    @cached_property
    def content(self) -> bytes:
        """The canonical bytes."""
        return canonical([FORMAT, [[name, text] for name, text in self.files.items()]])

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of `content`."""
        return hashlib.sha256(self.content).digest()

    @property
    def code(self) -> dict[str, str]:
        """The code by its name below ``code/``."""
        return {name.removeprefix(CODE): text for name, text in self.files.items() if name.startswith(CODE)}

    @cached_property
    def about(self) -> About:
        """What ``bundle.toml`` says.

        Raises:
            UserError: where it says something else.
        """
        try:
            return About.model_validate(_toml(self.files.get(ABOUT, ""), ABOUT))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(f"{ABOUT}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None

    @cached_property
    def job(self) -> Job:
        """The job.

        Raises:
            UserError: as `Job.parse`, for keys that are each machine's own business, and for another schema than the bundle's own.
        """
        tree = _toml(self.files[JOB], JOB)
        for section, key in OWN:
            knobs = tree.get(section)
            if knobs is not None and (key is None or (isinstance(knobs, dict) and key in knobs)):
                full = section if key is None else f"{section}.{key}"
                raise UserError(f"{JOB}: {full} is refused in a bundle: it is each machine's own business")
        data = tree.get("data")
        if isinstance(data, dict) and "contract" in data:
            if data["contract"] != SCHEMA or SCHEMA not in self.files:  # a table here would leave the file idle
                raise UserError(f"{JOB}: data.contract = {data['contract']!r} is refused in a bundle: its own {SCHEMA} is allowed")
            data["contract"] = contract_of(self.files[SCHEMA], SCHEMA)
        job = Job.parse(tree, where=JOB)
        if job.data.is_table and not re.fullmatch(_PART, job.data.name):
            raise UserError(f"{JOB}: data.name = {job.data.name!r} is refused in a bundle: a plain name such as own.csv is allowed")
        return job

    def checked(self) -> Bundle:
        """The bundle, once its parts fit together.

        Raises:
            UserError: for a job that does not parse, a schema that it does not name, code without an entry, or an entry without its
                code.
        """
        if SCHEMA in self.files and self.job.data.contract is None:
            raise UserError(f'there is a {SCHEMA}, and {JOB} does not say data.contract = "{SCHEMA}": nobody would look at it')
        self.job  # noqa: B018  (refused here, not when it runs)
        entry = self.about.entry
        if bool(self.code) != bool(entry):
            missing = f'code, and no entry = "module:function" in {ABOUT}' if self.code else f"an entry in {ABOUT}, and no code"
            raise UserError(f"the bundle has {missing}")
        if entry is not None:
            module = entry.partition(":")[0].replace(".", "/")
            if not {f"{module}.py", f"{module}/__init__.py"} & self.code.keys():
                raise UserError(f"{ABOUT}: entry = {entry!r}: there is no {CODE}{module}.py")
        return self


def _check(files: list[tuple[str, str]]) -> None:
    """The rules that each name and text is held to."""
    require(len(files) <= MOST_FILES, "bundle-size", f"{len(files)} files where at most {MOST_FILES} may be")
    for name, text in files:
        fits = len(name) <= MOST_NAME and name.count("/") <= MOST_DEPTH and NAME.fullmatch(name)
        require(fits, "bundle-name", f"{printable(name)[:MOST_NAME]!r} is no file of a bundle: {ALLOWED} are")
        odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
        if odd is not None:
            where = f"{name}, line {text.count(chr(10), 0, text.index(odd)) + 1}"
            why = "Unix line ends alone are allowed" if odd == "\r" else "no control character but line ends and tabs is allowed"
            raise Refused("bundle-text", f"{where} has {odd!r}: {why}")
        if name.endswith(".toml"):
            longest = max(map(len, text.split("\n")))
            require(len(text.encode()) <= MOST_TOML, "bundle-size", f"{name} has more than {MOST_TOML} bytes")
            require(longest <= MOST_LINE, "bundle-size", f"{name} has a line of {longest} letters: {MOST_LINE} are allowed")
    folded = [name.casefold() for name, _ in files]
    require(len(set(folded)) == len(folded), "bundle-name", "two names that differ in capitals alone")
    size = sum(len(text.encode()) for _, text in files)
    require(size <= MOST_BYTES, "bundle-size", f"{size} bytes where at most {MOST_BYTES} may be")


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every file of a folder; what lies outside of it, or is no file, is never opened."""
    left, found, size = [folder], 0, 0
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder} is no folder: a bundle is made of one")
    while left:
        for entry in sorted(os.scandir(left.pop()), key=lambda one: one.name):
            name, path = Path(entry.path).relative_to(folder).as_posix(), Path(entry.path)
            shown = printable(name)[:MOST_NAME]
            if entry.is_symlink():
                raise Refused("bundle-name", f"{shown} is a link: a bundle holds files alone")
            if entry.is_dir(follow_symlinks=False):
                if entry.name != SKIPPED:
                    require(name.count("/") < MOST_DEPTH, "bundle-name", f"{shown} lies too deep")
                    left.append(path)
                continue
            found += 1
            require(found <= MOST_FILES, "bundle-size", f"more than {MOST_FILES} files")
            require(NAME.fullmatch(name), "bundle-name", f"{shown!r} is no file of a bundle: {ALLOWED} are")
            content = _bytes(path, shown)
            size += len(content)
            require(size <= MOST_BYTES, "bundle-size", f"more than {MOST_BYTES} bytes")
            try:
                yield name, content.decode()
            except UnicodeDecodeError as error:
                line = content.count(b"\n", 0, error.start) + 1
                raise Refused("bundle-text", f"{shown}, line {line}: byte {content[error.start]:#04x} is not UTF-8") from None


def _bytes(path: Path, shown: str) -> bytes:
    """A regular file, of which no more than a bundle may have is read; a link that came meanwhile is not followed."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            require(stat.S_ISREG(os.fstat(file.fileno()).st_mode), "bundle-name", f"{shown} is no file")
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def _toml(text: str, name: str) -> dict[str, Any]:
    return parse_toml(text, name, "damaged file")
