"""Stage `fetch`: the data set named in params.yaml to out/dataset.safetensors."""

from dataclasses import replace

from stages.paths import DATASET, PARAMS, repository_root
from stages.shared import run_stage
from vtp.data.dataset import Resizing, save_dataset
from vtp.data.sources import fetch
from vtp.params import load_params


def main() -> None:
    """Fetch, split and save the images."""
    params = load_params(PARAMS)
    dataset = fetch(params.data, params.seed, repository_root())
    resizing = Resizing(params.data.image_size, params.data.resize, params.data.squash, params.data.interpolation)
    save_dataset(replace(dataset, resizing=resizing), DATASET)
    channels, height, width = dataset.train.images.shape[1:]
    print(
        f"{params.data.name}: {len(dataset.class_names)} classes; {len(dataset.train)} images to train, "
        f"{len(dataset.validation)} to validate, {len(dataset.test)} to test, {channels}×{height}×{width}"
    )


if __name__ == "__main__":
    run_stage(main)
