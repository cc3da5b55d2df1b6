"""evaluate: the one stage whose figures are of the test split."""

from collections import Counter
from typing import Any

from torch import Tensor
from tqdm import tqdm

from stages.paths import METRICS, PARAMS, report_path
from stages.shared import load_data, load_model, run_stage, set_up
from stages.timings import write_timings
from vtp.cost import macs, parameters
from vtp.data.dataset import Split
from vtp.files import write_json
from vtp.measure import accuracy_by_class, answers, fraction_right
from vtp.params import load_params


def main() -> None:
    """Read the models of every step; write the top-level metrics and the accuracy of each class."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    factorised = f"decompose/{params.decomp}"
    steps = {"dense": "baseline", "pruned": "prune", "factorised": factorised, "finetuned": "finetune"}
    models = {step: load_model(stage, dataset, device) for step, stage in steps.items()}
    dense, final = models["dense"], models["finetuned"]
    measured = tqdm(models.items(), "evaluating", disable=None)
    on_test = {step: answers(model, dataset.test) for step, model in measured}
    on_validation = {step: answers(models[step], dataset.validation) for step in ("dense", "finetuned")}
    metrics = {
        "test_accuracy": fraction_right(on_test["finetuned"], dataset.test),
        **{
            f"test_accuracy_{step}": fraction_right(on_test[step], dataset.test)
            for step in ("dense", "pruned", "factorised")
        },
        "test_images": len(dataset.test),
        "validation_accuracy": fraction_right(on_validation["finetuned"], dataset.validation),
        "validation_images": len(dataset.validation),
        "parameters": parameters(final.spec),
        "parameters_dense": parameters(dense.spec),
        "macs": macs(final.spec),
        "macs_dense": macs(dense.spec),
    }
    names = dataset.class_names
    report = {
        "accuracy_by_class": {
            step: accuracy_by_class(on_test[step], dataset.test, names) for step in ("dense", "finetuned")
        },
        "confusion": {step: confused(found, dataset.validation, names) for step, found in on_validation.items()},
        "differing": differing(on_test["dense"], on_test["finetuned"], dataset.test, names),
    }
    write_json(report_path("evaluate"), report)
    write_json(METRICS, metrics)
    print(
        f"evaluate: test accuracy {metrics['test_accuracy']:.4f} (dense {metrics['test_accuracy_dense']:.4f}) "
        f"at {metrics['parameters'] / metrics['parameters_dense']:.1%} of the parameters"
    )
    timed = {step: (steps[step], model) for step, model in models.items()}
    write_timings(timed, params)


def confused(found: Tensor, split: Split, class_names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return class -> the class that answers (N,) take its images in `split` for -> how many, without zeros."""
    pairs = Counter(zip(split.labels.tolist(), found.tolist(), strict=True))
    return {
        name: {other: pairs[i, j] for j, other in enumerate(class_names) if pairs[i, j]}
        for i, name in enumerate(class_names)
    }


def differing(dense: Tensor, final: Tensor, split: Split, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the places in `split` of images on which answers (N,) differ, with their class and both answers."""
    triples = enumerate(zip(split.labels.tolist(), dense.tolist(), final.tolist(), strict=True))
    return [
        {
            "image": index,
            "class": class_names[label],
            "dense": class_names[before],
            "finetuned": class_names[after],
        }
        for index, (label, before, after) in triples
        if before != after
    ]


if __name__ == "__main__":
    run_stage(main)
