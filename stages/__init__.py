"""The stages of the pipeline, one thin module each, and what they share."""

from pathlib import Path

from vtp.instructions import choose_instructions
from vtp.memory import keep_freed_memory

choose_instructions(Path("params.yaml"))  # before any stage imports a library that computes
keep_freed_memory()
