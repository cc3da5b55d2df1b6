"""decompose METHOD: put low-rank factors in place of the slim model's weights."""

import sys
from dataclasses import asdict

from stages.paths import MOMENTS, PARAMS, model_path, report_path, repository_root
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.calibration.moments import load_moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import save
from vtp.errors import UserError
from vtp.files import write_json
from vtp.lowrank import corrected, factorise
from vtp.measure import accuracy
from vtp.params import load_params


def main() -> None:
    """Read the slim model and the moments; write the factorised model and a report of each unit."""
    params = load_params(PARAMS)
    method = sys.argv[1] if len(sys.argv) == 2 else ""
    if method not in params.methods:
        raise UserError(
            f"stages.decompose: the method is {method!r}, but must be one of {', '.join(params.methods)}"
        )
    device = set_up(params)
    dataset = load_data(device)
    slim = load_model("prune", dataset, device).cpu()
    factorised, units = factorise(slim, method, params.decompose, load_moments(MOMENTS))
    if params.decompose.correction == "least_squares":
        images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
        factorised = corrected(factorised.to(device), slim.to(device), images)
    stage = f"decompose/{method}"
    save(factorised, model_path(stage), dataset.class_names)
    entries = [asdict(unit) for unit in units]
    seconds = {entry["unit"]: entry.pop("seconds") for entry in entries}  # which differ from run to run
    report = {
        "method": method,
        "validation_accuracy": accuracy(factorised.to(device), dataset.validation),
        "units": entries,
    }
    write_json(report_path(stage), report)
    write_json(repository_root() / ".vtp" / "timings" / f"decompose-{method}.json", seconds)
    print(
        f"decompose {method}: {sum(unit.rank is not None for unit in units)} of {len(units)} units factorised, "
        f"validation accuracy {report['validation_accuracy']:.4f}, decomposed in {sum(seconds.values()):.2f} s"
    )


if __name__ == "__main__":
    run_stage(main)
