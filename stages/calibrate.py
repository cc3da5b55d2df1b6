"""calibrate: what flows through the slim model's layers, and what they cost in time, once for all methods."""

from stages.paths import MOMENTS, PARAMS, times_path
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.calibration.moments import moments, save_moments
from vtp.calibration.watching import calibration_images
from vtp.inference.times import measured
from vtp.params import load_params
from vtp.times import load_times, save_times


def main() -> None:
    """Read the slim model; write the moments of what its layers read and of the gradients of what they give.

    If a batch is named, write what the layers cost in time, too, unless prune has measured it.
    """
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    slim, batch = load_model("prune", dataset, device), params.calibrate.batch
    flows = moments(slim, images, params.seed)
    save_moments(flows, MOMENTS)
    times = load_times(times_path("prune"))
    if batch and times is None:
        times = measured(slim, batch, load_model("baseline", dataset, device))
    save_times(times, times_path("calibrate"))
    print(f"calibrate: {len(flows)} layers on {len(images)} images, {MOMENTS.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    run_stage(main)
