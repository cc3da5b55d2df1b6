"""Low-rank models: calibration on images, ranks under a budget, and layers replaced by their factors."""

from vtp.lowrank.factorise import factorise
from vtp.lowrank.flows import Moments, moments, with_gradients
from vtp.lowrank.layer_report import LayerReport
from vtp.lowrank.metric import METRICS

__all__ = ["METRICS", "LayerReport", "Moments", "factorise", "moments", "with_gradients"]
