"""calibrate: what flows through the slim model's layers on training images, once for all methods."""

from stages.paths import MOMENTS, PARAMS
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.calibration.moments import moments, save_moments
from vtp.calibration.watching import calibration_images
from vtp.params import load_params


def main() -> None:
    """Read the slim model; write the moments of what its layers read and of the gradients of what they give."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    flows = moments(load_model("prune", dataset, device), images, params.seed)
    save_moments(flows, MOMENTS)
    print(f"calibrate: {len(flows)} layers on {len(images)} images, {MOMENTS.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    run_stage(main)
