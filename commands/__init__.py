"""What people start that is no stage of the pipeline."""

import stages  # noqa: F401  (it chooses the CPU's instructions before the libraries load)
