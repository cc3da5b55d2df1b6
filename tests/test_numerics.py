import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtp.numerics import sqrt

VTP = Path(__file__).parents[1] / "vtp"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(data=st.data())
def test_root_within_two_units_in_the_last_place(dtype: torch.dtype, data: st.DataObject) -> None:
    """Against NumPy's, which is the correctly rounded one of IEEE 754; subnormal numbers and zero too."""
    floats = st.floats(0, float(torch.finfo(dtype).max), width=32 if dtype == torch.float32 else 64)
    x = torch.tensor(data.draw(st.lists(floats, min_size=1, max_size=40)), dtype=dtype)

    expected = np.sqrt(x.numpy())

    assert np.all(np.abs(sqrt(x).numpy() - expected) <= 2 * np.spacing(expected))


def test_ends_of_the_range() -> None:
    assert sqrt(torch.tensor([0.0, math.inf])).tolist() == [0.0, math.inf]


def test_no_other_root_of_tensors_in_the_library() -> None:
    """torch.sqrt, and so `x.pow(0.5)` and `x**0.5`, have other bits on another CPU."""
    root = re.compile(r"(?<!math)(?<!np)\.sqrt\(|\.sqrt_\(|\.pow\(-?0\.5\)")
    found = [
        f"{path.relative_to(VTP)}: {line}" for path in VTP.rglob("*.py") for line in root.findall(path.read_text())
    ]
    assert found == []
