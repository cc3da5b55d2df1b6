"""Low-rank models: calibration on images, ranks under a budget, and layers replaced by their factors."""

from vtp.lowrank.calibration import Moments, calibration_images, moments
from vtp.lowrank.factorise import factorise
from vtp.lowrank.layer_report import LayerReport

__all__ = ["LayerReport", "Moments", "calibration_images", "factorise", "moments"]
