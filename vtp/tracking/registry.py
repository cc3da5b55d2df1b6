"""The MLflow model of a run: what `export` wrote, servable without this project, registered by the data's name."""

import io
import json
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from vtp.tracking import Experiment

FOLDER = "model"  # of the run's artifacts
MODEL, EXAMPLE = "model.onnx", "examples/0.png"  # of what `export` wrote
REQUIREMENTS = ("mlflow", "numpy", "onnx", "onnxruntime")
KEY_TAG = "vtp.key"


def log_model(client: Any, run_id: str, experiment: "Experiment") -> None:
    """Give the run the experiment's model, and register it; a run of an experiment that exported none gets none.

    An experiment has one version: what an interrupted publication, or a run since deleted, has left is removed.
    """
    if not {MODEL, EXAMPLE} <= experiment.exported.keys():
        return
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        save_model(experiment, run_id, Path(folder) / FOLDER)
        client.log_artifacts(run_id, folder)
    name = registered_name(experiment.params)
    with suppress(MlflowException):  # it is there already; if it cannot be made, neither can a version
        client.create_registered_model(name)
    for left in client.search_model_versions(f"name = '{name}' and tags.`{KEY_TAG}` = '{experiment.key}'"):
        client.delete_model_version(name, left.version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    tags = {KEY_TAG: experiment.key}
    client.create_model_version(name, source, run_id, tags=tags, description=experiment.title)


def registered_name(params: Mapping[str, Any]) -> str:
    """Return the name of the data; of your own images that of their folder or archive, without its ending."""
    if params["data.name"] != "imagefolder":
        return str(params["data.name"])
    name = re.sub(r"\.(zip|tar|tar\.gz|tar\.xz)$", "", Path(params["data.path"]).name, flags=re.IGNORECASE)
    return re.sub(r"[:/'\"`]", "-", name).strip(".") or "images"  # what MLflow takes as a name, and in a query


def save_model(experiment: "Experiment", run_id: str, path: Path) -> None:
    """Write the folder of an MLflow model of flavour `onnx`: uint8 images (-1, C, H, W) to probabilities.

    Its metadata have `class_names`; its input example is a test image. Equal experiments give equal files.
    """
    import onnx

    from vtp.export import CLASS_NAMES, INPUT, OUTPUT

    with catch_warnings():
        simplefilter("ignore")  # about MLflow's own code
        import mlflow.onnx
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

    proto = onnx.load_from_string(experiment.exported[MODEL])
    class_names = json.loads({entry.key: entry.value for entry in proto.metadata_props}[CLASS_NAMES])
    _, *shape = (dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim)
    with Image.open(io.BytesIO(experiment.exported[EXAMPLE])) as image:
        example = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None]
    mlflow.onnx.save_model(
        proto,
        path,
        mlflow_model=Model(
            artifact_path=FOLDER,
            run_id=run_id,
            utc_time_created=datetime.fromtimestamp(experiment.time, UTC).replace(tzinfo=None),
            model_uuid=experiment.key[:32],
        ),
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape), INPUT)]),
            Schema([TensorSpec(np.dtype(np.float32), (-1, len(class_names)), OUTPUT)]),
        ),
        input_example={INPUT: example},
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={CLASS_NAMES: class_names},
        save_as_external_data=False,
    )
