"""Low-rank models: units, ranks under a budget, and layers replaced by their factors."""

from vtp.lowrank.correction import corrected
from vtp.lowrank.factorise import factorise
from vtp.lowrank.report import UnitReport
from vtp.lowrank.units import dense_cost

__all__ = ["UnitReport", "corrected", "dense_cost", "factorise"]
