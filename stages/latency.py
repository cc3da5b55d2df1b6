"""Whether a model made for a time takes that time: a file that nothing depends on, since machines differ."""

from stages.paths import repository_root
from vtp.files import write_json
from vtp.inference import times
from vtp.models import Model


def compare_latency(method: str, model: Model, milliseconds: dict[str, float]) -> None:
    """Measure the factorised model of a method, in its inference form; write and print that beside the prediction.

    Args:
        method: that factorised it.
        model: on the device that was timed.
        milliseconds: `batch` images, what the model took `before`, and what is `predicted` of it.
    """
    measured = times.milliseconds(model, int(milliseconds["batch"]))
    path = repository_root() / ".vtp" / "timings" / f"latency-{method}.json"
    write_json(path, milliseconds | {"measured": measured})
    print(
        f"decompose {method}: a batch of {milliseconds['batch']} took {milliseconds['before']:.2f} ms before; "
        f"predicted {milliseconds['predicted']:.2f} ms, measured {measured:.2f} ms"
    )
