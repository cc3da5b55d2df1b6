"""Low-rank models: units, ranks under a budget, and layers replaced by their factors."""

from vtp.lowrank.correction import corrected
from vtp.lowrank.factorise import factorise
from vtp.lowrank.report import UnitReport

__all__ = ["UnitReport", "corrected", "factorise"]
