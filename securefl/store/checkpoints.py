"""Models as safetensors files, in a folder or wherever fsspec reaches (``s3://bucket/folder``).

A file is named by the SHA-256 of its bytes and is there whole or not at all: in a folder it is written beside its place and moved
there.  What is read back is hashed again.  The row in the store that names it is written after it.

What it does not protect: whoever may write the folder may take files away; a changed one is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from securefl.errors import UserError
from securefl.files import atomic_write

_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Models of one round, written down.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.
        path: its name in the folder.
        size: bytes.
    """

    digest: str
    path: str
    size: int


class Checkpoints:
    """A folder of checkpoints.

    Args:
        url: a path, or a URL that fsspec knows; made where it does not exist.

    Raises:
        UserError: it cannot be reached, made or written.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._root, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise self._bad(error) from None

    def save(self, models: Sequence[NDArray[np.float32]], state: NDArray[np.float32]) -> Checkpoint:
        """Write the models of a round, and the public state beside them; the same bytes are one file.

        Args:
            models: one vector for each model, float32.
            state: shape (values,), float32.

        Raises:
            UserError: the disk is full, or the folder is gone; then there is no half of a file.
        """
        tensors = {f"model-{i}": np.ascontiguousarray(model) for i, model in enumerate(models)}
        blob = save({**tensors, "state": np.ascontiguousarray(state)})
        digest = hashlib.sha256(blob).hexdigest()
        made = Checkpoint(digest, f"{digest}.safetensors", len(blob))
        try:
            if isinstance(self._files, LocalFileSystem):
                atomic_write(Path(self._at(made.path)), blob)
            else:
                self._files.pipe_file(self._at(made.path), blob)  # a bucket has an object whole or not at all
        except (OSError, ValueError) as error:
            raise self._bad(error) from None
        return made

    def load(self, made: Checkpoint) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        """The models and the state of a round.

        Raises:
            UserError: the file is missing, or is not the one that was written.
        """
        if not _NAME.fullmatch(made.path):
            raise self._bad(f"{made.path!r} is no name of a checkpoint")
        try:
            blob = self._files.cat_file(self._at(made.path))
        except (OSError, ValueError) as error:
            raise self._bad(error) from None
        if hashlib.sha256(blob).hexdigest() != made.digest:
            raise self._bad(f"{made.path} is not what was written: its digest differs")
        try:
            tensors: dict[str, Any] = load(blob)
        except SafetensorError as error:
            raise self._bad(error) from None
        state = tensors.pop("state")
        return [tensors[f"model-{i}"] for i in range(len(tensors))], state

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _bad(self, why: object) -> UserError:
        return UserError(f"the checkpoints {self.url} cannot be used: {' '.join(str(why).split()) or type(why).__name__}")
