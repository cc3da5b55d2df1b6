"""The MLflow ledger: one run an experiment, made from the experiment's files alone.

Logging while a stage runs would miss every cached stage. So a run is a function of files: publishing twice
adds nothing, and deleting the database and publishing again brings every run back. Trainings under way have runs
of their own, which are there as long as they are.
"""

from vtp.tracking.experiment import FIGURES, NAME_TAG, Experiment, text, title
from vtp.tracking.ledger import EXPERIMENT, SETTINGS, publish, tracking_uri
from vtp.tracking.running import Training, publish_running
from vtp.tracking.views import COLUMNS, charts_link, table_link

__all__ = [
    "COLUMNS",
    "EXPERIMENT",
    "FIGURES",
    "NAME_TAG",
    "SETTINGS",
    "Experiment",
    "Training",
    "charts_link",
    "publish",
    "publish_running",
    "table_link",
    "text",
    "title",
    "tracking_uri",
]
