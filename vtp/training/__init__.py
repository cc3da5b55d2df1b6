"""One training loop for every model, its L1 penalty on scores, and the state of unfinished runs."""
