"""decompose METHOD: put low-rank factors in place of the slim model's weights."""

import sys
from dataclasses import asdict, replace

from stages.latency import compare_latency
from stages.paths import MOMENTS, PARAMS, model_path, report_path, repository_root, times_path
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.budget import dense_cost
from vtp.calibration.moments import load_moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import save
from vtp.errors import UserError
from vtp.files import write_json
from vtp.lowrank import corrected, factorise
from vtp.measure import accuracy, divergence, logits
from vtp.params import load_params
from vtp.times import load_times


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
    slim, flows = load_model("prune", dataset, device), load_moments(MOMENTS)
    times = load_times(times_path("calibrate"))
    plan, key = params.decompose, "decompose."
    if params.compress.keep is not None:
        if times and plan.budget == "latency":
            whole, left = times.dense, times.total
        else:
            dense = load_model("baseline", dataset, device)
            whole, left = (dense_cost(model, flows, plan.budget) for model in (dense, slim))
        plan = replace(plan, keep=min(1.0, params.compress.keep * whole / left))
        key = "compress.keep: of what prune left, "
    try:
        factorised, units = factorise(slim.cpu(), method, plan, flows, times)
    except UserError as error:
        raise UserError(f"params.yaml: {key}{error}") from error
    slim, factorised = slim.to(device), factorised.to(device)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    if plan.correction == "least_squares":
        reference = load_model("sparsify", dataset, device)
        factorised = corrected(factorised, slim, reference, images, method, plan, flows)
    stage = f"decompose/{method}"
    save(factorised, model_path(stage), dataset.class_names, dataset.resizing)
    entries = [asdict(unit) for unit in units]
    seconds = {entry["unit"]: entry.pop("seconds") for entry in entries}  # which differ from run to run
    report = {
        "method": method,
        "validation_accuracy": accuracy(factorised, dataset.validation),
        "divergence": divergence(*(logits(model, images) for model in (slim, factorised)))[0],
        "units": entries,
    }
    if times and plan.budget == "latency":
        predicted = times.predicted({unit.unit: unit.rank for unit in units})
        milliseconds = {"batch": times.batch, "before": times.total, "predicted": predicted}
        compare_latency(method, factorised, milliseconds)
        report["milliseconds"] = milliseconds
    write_json(report_path(stage), report)
    write_json(repository_root() / ".vtp" / "timings" / f"decompose-{method}.json", seconds)
    print(
        f"decompose {method}: {sum(unit.rank is not None for unit in units)} of {len(units)} units factorised, "
        f"validation accuracy {report['validation_accuracy']:.4f}, decomposed in {sum(seconds.values()):.2f} s"
    )


if __name__ == "__main__":
    run_stage(main)
