"""What stages/training.py keeps of a training that was stopped, and who goes on from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.training import _key
from tests.training import RECIPE, TRAINING, VALIDATION, tiny
from vtp.data.dataset import Dataset, Resizing
from vtp.instructions import PORTABLE

DATASET = Dataset(TRAINING, VALIDATION, VALIDATION, ("dark", "bright"), Resizing(4))


def test_only_a_run_that_computes_the_same_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(seed: int = 0) -> str:
        return _key(tiny(), DATASET, replace(RECIPE, seed=seed), None)

    for name in PORTABLE:
        monkeypatch.delenv(name, raising=False)
    native = key()
    assert key(seed=1) != native
    monkeypatch.chdir(tmp_path)  # a folder without code, as with PYTHONPATH
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert key() == native
    torch.set_num_threads(threads)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", PORTABLE["ATEN_CPU_CAPABILITY"])
    assert key() != native
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    monkeypatch.setattr("stages.training.ROOT", tmp_path)
    assert key() != native  # the code is another
