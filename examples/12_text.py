"""Text: the next character of Shakespeare, one party a speaking role: many small parties, none of which shows a line.

Run it with ``python examples/12_text.py [FOLDER]``.  FOLDER, or SECUREFL_DATA, holds char-rnn's "tiny Shakespeare" as
``tinyshakespeare/input.txt.gz``.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securefl import ClientTrainer, Fold, Job, Runner, SumSpec

ROLES, MOST, CONTEXT = 40, 4000, 8  # roles that speak most; characters of each; characters from which the next one is guessed
LETTERS = "\n" + "".join(map(chr, range(32, 127)))  # public: the alphabet does not follow from what anybody said


def roles(folder: Path) -> dict[str, str]:
    """By role what it says."""
    path, spoken = folder / "tinyshakespeare" / "input.txt.gz", dict[str, str]()
    if not path.is_file():
        sys.exit(f"12_text.py: {path} is missing: give the folder that holds it")
    speeches = re.findall(r"^([^\n:]+):\n(.+?)(?:\n\n|\Z)", gzip.decompress(path.read_bytes()).decode(), re.MULTILINE | re.DOTALL)
    for name, text in speeches:
        spoken[name] = spoken.get(name, "") + text + "\n"
    most = sorted(spoken, key=lambda name: (-len(spoken[name]), name))[:ROLES]
    return {name: spoken[name][:MOST] for name in most}


def fold(text: str) -> Fold:
    """Contexts and the character after each; the last fifth of a role's text is held out."""
    codes = np.array([max(LETTERS.find(letter), 0) for letter in text])
    x = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(codes, CONTEXT)[:-1].copy())
    y, cut = torch.from_numpy(codes[CONTEXT:]), len(x) * 4 // 5
    return Fold(TensorDataset(x[:cut], y[:cut]), TensorDataset(x[cut:], y[cut:]))


def network() -> nn.Module:
    first, count = nn.Linear(12 * CONTEXT, 96), len(LETTERS)
    return nn.Sequential(nn.Embedding(count, 12), nn.Flatten(), first, nn.ReLU(), nn.Linear(96, count))


class NextCharacter(ClientTrainer):
    def sums(self):
        return (SumSpec("right and all", 2, 1000, integer=True), SumSpec("nats", 1, 10_000))

    def evaluate(self, model, data):
        x, y = data.tensors
        with torch.no_grad():
            output = model(x)
        nats = nn.functional.cross_entropy(output, y, reduction="sum").clamp(max=10_000)
        return {"right and all": np.array([int((output.argmax(1) == y).sum()), len(y)]), "nats": np.array([float(nats)])}

    def read(self, sums):
        right, characters = sums["right and all"]
        return {"accuracy": float(right / characters), "bits": float(sums["nats"][0] / characters / np.log(2))}


def main() -> None:
    folder = Path(sys.argv[1] if sys.argv[1:] else os.environ.get("SECUREFL_DATA", "."))
    data = {name: fold(text) for name, text in roles(folder).items()}
    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 8, "local_steps": 8, "sample_rate": 0.1, "w_max": 4000}})
    result = Runner(network, data, trainer=NextCharacter(learning_rate=0.8), job=job, name="shakespeare").run()
    first, last = result.rounds[0].metrics, result.metrics
    print(f"{len(data)} roles: bits a character {first['bits']:.2f} at first, {last['bits']:.2f} at last")
    print(f"next character right: {last['accuracy']:.3f}")


if __name__ == "__main__":
    main()
