"""publish: bring every finished experiment into the MLflow ledger, at any time."""

from pathlib import Path

from commands.experiments import collect
from stages.paths import repository_root
from stages.shared import run_stage
from vtp.tracking import Experiment, publish, tracking_uri


def publish_all(root: Path) -> list[Experiment]:
    """Publish what the ledger lacks, say how many and what was left out; return all experiments."""
    experiments, left_out = collect(root)
    added = publish(experiments, root)
    count = len({experiment.key for experiment in experiments})
    print(f"{added} of {count} experiments were new to the ledger at {tracking_uri(root)}")
    for name, reason in left_out.items():
        print(f"left out {name}: {reason}")
    return experiments


def main() -> None:
    """Publish the experiments of this repository."""
    publish_all(repository_root())


if __name__ == "__main__":
    run_stage(main)
