"""decompose METHOD: put low-rank factors in place of the slim model's weights."""

import sys
from dataclasses import asdict
from typing import Any

from stages import PARAMS, model_path, report_path, repository_root, run_stage
from stages.training import load_data, load_model, set_up
from vtp.calibration import calibration_images
from vtp.checkpoint import save
from vtp.errors import UserError
from vtp.files import write_json
from vtp.lowrank import LayerReport, factorise, moments, with_gradients
from vtp.measure import accuracy, macs, parameters
from vtp.params import load_params


def main() -> None:
    """Read the slim model; write the factorised one and a report of each layer."""
    params = load_params(PARAMS)
    method = sys.argv[1] if len(sys.argv) == 2 else ""
    if method not in params.methods:
        raise UserError(
            f"stages.decompose: the method is {method!r}, but must be one of {', '.join(params.methods)}"
        )
    device = set_up(params)
    dataset = load_data(device)
    pruned = load_model("prune", dataset, device)
    images = calibration_images(dataset.train.images, params.decompose.calibration_images, params.seed)
    flows = moments(pruned, images)
    if params.decompose.metric == "loss":
        flows = with_gradients(flows, pruned, images, params.seed)
    factorised, layers = factorise(pruned.cpu(), method, params.decompose, flows)
    stage = f"decompose/{method}"
    save(factorised, model_path(stage))
    left_dense = [layer for layer in layers if layer.rank is None]
    report = {
        "method": method,
        "validation_accuracy": accuracy(factorised.to(device), dataset.validation),
        "parameters": parameters(factorised.spec),
        "macs": macs(factorised.spec),
        "kept": {
            "parameters": sum(layer.parameters for layer in layers) / sum(map(_dense_size, layers)),
            "macs": sum(layer.macs for layer in layers)
            / sum(_dense_size(layer) * flows[layer.layer].positions for layer in layers),
        },
        "layers": [_without_time(layer) for layer in layers],
    }
    write_json(report_path(stage), report)
    seconds = {layer.layer: layer.seconds for layer in layers}
    write_json(repository_root() / ".vtp" / "timings" / f"decompose-{method}.json", seconds)
    print(
        f"decompose {method}: {len(layers) - len(left_dense)} of {len(layers)} layers factorised, "
        f"{report['parameters']:,} parameters, validation accuracy {report['validation_accuracy']:.4f}, "
        f"decomposed in {sum(seconds.values()):.2f} s"
    )


def _without_time(layer: LayerReport) -> dict[str, Any]:
    """Return the report of a layer as plain data that is the same at every run."""
    return {key: value for key, value in asdict(layer).items() if key != "seconds"}


def _dense_size(layer: LayerReport) -> int:
    return layer.shape[0] * layer.shape[1]


if __name__ == "__main__":
    run_stage(main)
