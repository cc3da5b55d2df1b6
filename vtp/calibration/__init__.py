"""Calibration: images without labels, and what flows through layers on them."""
