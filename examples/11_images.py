"""Images: a small convolutional network on handwritten digits, over six sites of which each mostly has other digits.

Run it with ``python examples/11_images.py``.  Alone, a site cannot know what it hardly ever saw.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from securefl import ClientTrainer, Fold, Job, Runner, SumSpec
from securefl.models import initialise

SITES, HELD = 6, 300
OWN = 0.8  # share of a digit's images that lie at one site; the others are spread over all


def sites() -> tuple[dict[str, Fold], TensorDataset]:
    """Training images by site, with label skew; held-out images of all digits, of which every site has a part."""
    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    x, y = torch.tensor(pixels[order] / 16).float().reshape(-1, 1, 8, 8), torch.tensor(digits[order])  # 0 to 16 is public
    place = np.where(rng.random(len(y)) < OWN, y.numpy() % SITES, rng.integers(SITES, size=len(y)))
    folds, held = {}, np.arange(len(y)) < HELD
    for number in range(SITES):
        train, test = np.flatnonzero(~held & (place == number)), np.flatnonzero(held)[number::SITES]
        folds[f"site-{number}"] = Fold(TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test]))
    return folds, TensorDataset(x[:HELD], y[:HELD])


def network() -> nn.Module:
    layers = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    model = nn.Sequential(*layers)
    initialise(model, 0)
    return model


class Digits(ClientTrainer):
    """Accuracy out of a sum of right and of all images."""

    def sums(self):
        return (SumSpec("right and all", 2, 1000, integer=True),)

    def evaluate(self, model, data):
        x, y = data.tensors
        with torch.no_grad():
            return {"right and all": np.array([int((model(x).argmax(1) == y).sum()), len(y)])}

    def read(self, sums):
        right, images = sums["right and all"]
        return {"accuracy": float(right / images)}


def alone(fold: Fold, test: TensorDataset, steps: int) -> float:
    """Accuracy of a site's own model on all digits, after as many steps."""
    model, trainer, (x, y) = network(), Digits(learning_rate=0.2), fold.train.tensors
    optimizer = trainer.optimizer(model)
    for step in range(steps):
        optimizer.zero_grad()
        trainer.loss(model(x[step % 4 :: 4]), y[step % 4 :: 4]).backward()
        optimizer.step()
    return trainer.read(trainer.evaluate(model, test))["accuracy"]


def main() -> None:
    data, test = sites()
    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 25, "local_steps": 5, "sample_rate": 0.25, "w_max": 400}})
    result = Runner(network, data, trainer=Digits(learning_rate=0.2), job=job, name="digits").run()
    own = np.mean([alone(fold, test, 125) for fold in data.values()])
    print(f"accuracy on all digits: {result.metrics['accuracy']:.3f} together, {own:.3f} for a site alone, mean of {SITES}")


if __name__ == "__main__":
    main()
