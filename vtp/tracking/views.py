"""What MLflow's pages of the ledger open on, and the links to them.

A view is the JSON of the UI's state in a tag of the experiment, which a link names. MLflow's page that compares
chosen runs has no such state and always opens on a chart of its own: the comparison is a view of all runs instead.
"""

import json
from pathlib import Path
from typing import Any

from vtp.tracking.experiment import NAME_TAG
from vtp.tracking.ledger import connected, experiment_id_of

WIDTHS = {  # of the table's columns, pixels: in a window of 1,500, macs is seen beside MLflow's assistant, too
    "attributes.`Run Name`": 270,
    "metrics.`validation_accuracy`": 130,
    "metrics.`test_accuracy`": 97,
    "metrics.`parameters`": 87,
    "metrics.`macs`": 70,
    "metrics.`test_accuracy_dense`": 140,
    "duration": 80,
    f"tags.`{NAME_TAG}`": 120,
    "params.`decomp`": 80,
    "params.`decompose.keep`": 115,
    "params.`prune.rate`": 85,
}
COLUMNS = tuple(WIDTHS)
ORDER = {"orderByKey": "metrics.`validation_accuracy`", "orderByAsc": False}
COST, DIFFERENCES = "accuracy and cost", "what differs"
SECTIONS = {  # of the comparison: charts side by side; without MLflow's own two, it would lose what is in them
    COST: 2,
    DIFFERENCES: 1,
    "Model metrics": 3,
    "System metrics": 3,
}
CHARTS = [
    {
        "type": "SCATTER",
        "metricSectionId": COST,
        "xaxis": {"key": cost, "type": "METRIC"},
        "yaxis": {"key": "validation_accuracy", "type": "METRIC"},
        "runsCountToCompare": 100,
    }
    for cost in ("parameters", "macs")
] + [
    {
        "type": "DIFFERENCE",
        "metricSectionId": DIFFERENCES,
        "chartName": "parameters and figures in which the runs differ",
        "compareGroups": ["Parameters", "Model metrics"],
        "showDifferencesOnly": True,
        "showChangeFromBaseline": False,
        "baselineColumnUuid": "",
    }
]


def table_link(root: Path, address: str) -> str:
    """Return the link to the table of all runs, the best first, for the UI served at `address`.

    Raises UserError if the ledger cannot be reached or written.
    """
    view = {"selectedColumns": COLUMNS, "columnOrder": COLUMNS, "columnWidths": WIDTHS, **ORDER}
    return _link(root, address, "TABLE", "methods", view)


def charts_link(root: Path, address: str) -> str:
    """Return the link to the charts of accuracy over cost, a point a run, and to the table of what differs.

    Raises UserError as `table_link`.
    """
    view = {
        "compareRunCharts": [
            {"uuid": f"chart-{index}", "deleted": False, "isGenerated": False, **chart}
            for index, chart in enumerate(CHARTS)
        ],
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": False, "columns": columns}
            for name, columns in SECTIONS.items()
        ],
        "isAccordionReordered": True,  # in this order, not by name
        "runsHiddenMode": "SHOW_ALL",
        **ORDER,
    }
    return _link(root, address, "CHART", "comparison", view)


def _link(root: Path, address: str, mode: str, name: str, view: dict[str, Any]) -> str:
    """Keep the view under a name in the ledger; return the link to it."""
    with connected(root) as client:
        experiment_id = experiment_id_of(client, root)
        client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{name}", json.dumps(view))
    return (
        f"{address}/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&compareRunsMode={mode}&viewStateShareKey={name}"
    )
