"""Measurements that people start: each module says what it measures, and how."""

import stages  # noqa: F401  (it chooses the CPU's instructions before the libraries load)
