"""The source `digits`: 1,797 handwritten digits of 8×8 pixels that ship with scikit-learn."""

from pathlib import Path

import torch

from vtp.data.dataset import Dataset, Split
from vtp.data.params import ImageParams
from vtp.data.sources.common import resized, split_off
from vtp.errors import UserError

TEST_FRACTION = 0.2
TEST_SEED = 0


def fetch_digits(params: ImageParams, seed: int, root: Path) -> Dataset:
    """Return the digits, one channel; the test split is the same for every seed.

    Raises UserError if `data.path` or `data.sha256` is set: this source reads no file.
    """
    for key in ("path", "sha256"):
        if (value := getattr(params, key)) is not None:
            raise UserError(f"params.yaml: data.{key} is {value!r}, but must be null for data.name digits")
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    content = load_digits()
    levels = torch.from_numpy(content.images)[:, None]
    images = resized((levels * 255 / 16).round().to(torch.uint8), params)
    digits = Split(images, torch.from_numpy(content.target).long())
    rest, test = split_off(digits, TEST_FRACTION, TEST_SEED)
    train, validation = split_off(rest, params.validation_fraction, seed)
    return Dataset(train, validation, test, tuple(str(name) for name in content.target_names))
