"""evaluate: the one stage whose figures are of the test split."""

from collections import Counter
from typing import Any

from tqdm import tqdm

from stages.paths import METRICS, PARAMS, report_path
from stages.shared import load_data, load_model, run_stage, set_up
from stages.timings import write_timings
from vtp.cost import macs, parameters
from vtp.data.dataset import Split
from vtp.files import write_json
from vtp.measure import accuracy, accuracy_by_class, logits
from vtp.models import Model
from vtp.params import load_params


def main() -> None:
    """Read the models of every step; write the top-level metrics and the accuracy of each class."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    steps = {"dense": "baseline", "pruned": "prune", "factorised": f"decompose/{params.decomp}"}
    models = {step: load_model(stage, dataset, device) for step, stage in steps.items()}
    final, dense = load_model("finetune", dataset, device), models["dense"]
    metrics = {
        "test_accuracy": accuracy(final, dataset.test),
        **{
            f"test_accuracy_{step}": accuracy(model, dataset.test)
            for step, model in tqdm(models.items(), "evaluating", disable=None)
        },
        "test_images": len(dataset.test),
        "validation_accuracy": accuracy(final, dataset.validation),
        "validation_images": len(dataset.validation),
        "parameters": parameters(final.spec),
        "parameters_dense": parameters(dense.spec),
        "macs": macs(final.spec),
        "macs_dense": macs(dense.spec),
    }
    by_class = {
        step: accuracy_by_class(model, dataset.test, dataset.class_names)
        for step, model in (("dense", dense), ("finetuned", final))
    }
    confusion = {
        step: confused(model, dataset.validation, dataset.class_names)
        for step, model in (("dense", dense), ("finetuned", final))
    }
    report = {
        "accuracy_by_class": by_class,
        "confusion": confusion,
        "differing": differing(dense, final, dataset.test, dataset.class_names),
    }
    write_json(report_path("evaluate"), report)
    write_json(METRICS, metrics)
    print(
        f"evaluate: test accuracy {metrics['test_accuracy']:.4f} (dense {metrics['test_accuracy_dense']:.4f}) "
        f"at {metrics['parameters'] / metrics['parameters_dense']:.1%} of the parameters"
    )
    timed = {step: (steps[step], model) for step, model in models.items()} | {"finetuned": ("finetune", final)}
    write_timings(timed, params)


def confused(model: Model, split: Split, class_names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return class -> the class that its images in `split` are taken for -> how many, without zeros."""
    pairs = Counter(zip(split.labels.tolist(), logits(model, split.images).argmax(1).tolist(), strict=True))
    return {
        name: {other: pairs[i, j] for j, other in enumerate(class_names) if pairs[i, j]}
        for i, name in enumerate(class_names)
    }


def differing(dense: Model, final: Model, split: Split, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the places in `split` of images that the models disagree on, with their class and both answers."""
    taken = (logits(model, split.images).argmax(1).tolist() for model in (dense, final))
    answers = enumerate(zip(split.labels.tolist(), *taken, strict=True))
    return [
        {
            "image": index,
            "class": class_names[label],
            "dense": class_names[before],
            "finetuned": class_names[after],
        }
        for index, (label, before, after) in answers
        if before != after
    ]


if __name__ == "__main__":
    run_stage(main)
