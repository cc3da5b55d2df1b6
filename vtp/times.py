"""What the layers of a model cost in time, dense and as factors of any rank: figures of one machine.

They are measured once (vtp.inference.times) and kept in a file, so that whoever has the file gets the same ranks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtp.files import read_json, write_json

STEP = 16
"""Ranks between two steps of the time: as many floats go into a register of AVX512, and a tile of a GPU."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LayerTimes:
    """What one layer costs for a batch.

    Attributes:
        dense: milliseconds as it is.
        ranks: of the factors that were measured, rising multiples of STEP; none where that saves no products.
        factors: their milliseconds, made to rise with the rank.
    """

    dense: float
    ranks: tuple[int, ...]
    factors: tuple[float, ...]

    def of(self, ranks: Floats) -> Floats:
        """Return the milliseconds of factors of these ranks, of each that of the next multiple of STEP.

        Between those that were measured it is interpolated; above them it is that of the dense layer.
        """
        if not self.ranks:
            return np.full(len(ranks), self.dense)
        stepped = np.ceil(ranks / STEP) * STEP
        found: Floats = np.interp(stepped, self.ranks, self.factors, right=self.dense)
        return found


@dataclass(frozen=True)
class Times:
    """What a model costs for a batch, in milliseconds.

    Attributes:
        batch: images.
        total: of the model without factors.
        layers: what each factorisable layer costs.
        dense: of the model before dims were removed.
    """

    batch: int
    total: float
    layers: Mapping[str, LayerTimes]
    dense: float

    def predicted(self, ranks: Mapping[str, int | None]) -> float:
        """Return the milliseconds of the model whose layers have factors of these ranks, None: they are dense."""
        saved = [
            self.layers[name].dense - float(self.layers[name].of(np.array([float(rank)]))[0])
            for name, rank in ranks.items()
            if rank is not None
        ]
        return self.total - sum(saved)


def save_times(times: Times | None, path: Path) -> None:
    """Write them as JSON, null where there are none."""
    write_json(path, None if times is None else asdict(times))


def load_times(path: Path) -> Times | None:
    """Return what `save_times` wrote."""
    found = read_json(path)
    if found is None:
        return None
    layers = {
        name: LayerTimes(entry["dense"], tuple(entry["ranks"]), tuple(entry["factors"]))
        for name, entry in found["layers"].items()
    }
    return Times(found["batch"], found["total"], layers, found["dense"])
