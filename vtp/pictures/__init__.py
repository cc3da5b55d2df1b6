"""Pictures from plain data: a module for what they show, one style for all."""

from vtp.pictures.curves import plot_curves
from vtp.pictures.methods import plot_methods
from vtp.pictures.predictions import plot_confusion, plot_differences
from vtp.pictures.pruning import plot_kept, plot_scores
from vtp.pictures.units import plot_errors, plot_ranks, plot_spectra

__all__ = [
    "plot_confusion",
    "plot_curves",
    "plot_differences",
    "plot_errors",
    "plot_kept",
    "plot_methods",
    "plot_ranks",
    "plot_scores",
    "plot_spectra",
]
