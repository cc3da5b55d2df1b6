"""evaluate: the one stage that looks at the test split."""

from stages import METRICS, PARAMS, report_path, run_stage
from stages.training import load_data, load_model, set_up
from vtp.files import write_json
from vtp.measure import accuracy, accuracy_by_class, macs, parameters
from vtp.params import load_params


def main() -> None:
    """Read the models of every step; write the top-level metrics and the accuracy of each class."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    steps = {
        "dense": "baseline",
        "pruned": "prune",
        "factorised": f"decompose/{params.decomp}",
        "finetuned": "finetune",
    }
    models = {step: load_model(stage, dataset, device) for step, stage in steps.items()}
    final, dense = models["finetuned"], models["dense"]
    metrics = {
        "accuracy": accuracy(final, dataset.test),
        **{f"accuracy_{step}": accuracy(models[step], dataset.test) for step in ("dense", "pruned", "factorised")},
        "parameters": parameters(final.spec),
        "parameters_dense": parameters(dense.spec),
        "macs": macs(final.spec),
        "macs_dense": macs(dense.spec),
    }
    by_class = {
        step: accuracy_by_class(models[step], dataset.test, dataset.class_names) for step in ("dense", "finetuned")
    }
    write_json(report_path("evaluate"), {"accuracy_by_class": by_class})
    write_json(METRICS, metrics)
    print(
        f"evaluate: test accuracy {metrics['accuracy']:.4f} (dense {metrics['accuracy_dense']:.4f}) "
        f"at {metrics['parameters'] / metrics['parameters_dense']:.1%} of the parameters"
    )


if __name__ == "__main__":
    run_stage(main)
