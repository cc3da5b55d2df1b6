"""check: read params.yaml and complain in one sentence before any stage begins."""

from stages.paths import PARAMS
from stages.shared import run_stage
from vtp.params import load_params


def main() -> None:
    """Raise UserError if params.yaml is not valid."""
    load_params(PARAMS)


if __name__ == "__main__":
    run_stage(main)
