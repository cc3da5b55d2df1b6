"""show: the table of all finished experiments, at most 120 columns wide."""

import hashlib
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from commands.experiments import collect
from stages.paths import repository_root
from stages.shared import run_stage
from vtp.errors import UserError
from vtp.report import markdown_table, percent
from vtp.tracking import Experiment, text

WIDTH = 120
NAME_WIDTH = 20
HEADER = ("experiment", "differs in", "method", "params", "MACs", "val", "dense", "pruned", "fact", "final")
LEGEND = """\
val: validation accuracy (%) of the final model, n = {} images
dense, pruned, fact, final: test accuracy (%) before, after pruning, factorising and fine-tuning, n = {} images
params, MACs: those of the final model in % of the dense one's
"""


def main() -> None:
    """Print the table; say on stderr which experiments are not in it."""
    experiments, left_out = collect(repository_root())
    for name, reason in left_out.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    if not experiments:
        raise UserError("show: there is no finished experiment yet; dvc repro makes the first")
    print(table(sorted(experiments, key=lambda experiment: experiment.time)), end="")


def table(experiments: Sequence[Experiment]) -> str:
    """Return what the columns mean and a Markdown table with a row for each of the experiments, one or more."""
    common, differences = distinguish([_settings(experiment) for experiment in experiments])
    legend = LEGEND.format(*(_either(experiments, f"{split}_images") for split in ("validation", "test")))
    if common:
        legend += textwrap.fill(f"differs in: where it names no other value, {common}", WIDTH) + "\n"
    rows = [_row(experiment, "") for experiment in experiments]
    room = WIDTH - markdown_table(HEADER, rows).index("\n") + len(HEADER[1])
    notes = list(dict.fromkeys(what for what in differences if len(what) > room))
    cells = [f"note {notes.index(what) + 1}" if what in notes else what for what in differences]
    rows = [_row(*pair) for pair in zip(experiments, cells, strict=True)]
    below = [textwrap.fill(f"note {number}: {what}", WIDTH) + "\n" for number, what in enumerate(notes, 1)]
    return f"{legend}\n{markdown_table(HEADER, rows)}" + "".join(["\n", *below] if below else [])


def distinguish(settings: Sequence[Mapping[str, str]]) -> tuple[str, list[str]]:
    """Return in words the commonest values of the keys whose values differ, and where each one has others.

    Of a dotted key that ends as no other does, the end stands alone.
    """
    keys = dict.fromkeys(key for each in settings for key in each)
    ends = Counter(key.rpartition(".")[2] for key in keys)
    columns = {key: [each.get(key, "-") for each in settings] for key in keys}
    common = {key: Counter(column).most_common(1)[0][0] for key, column in columns.items() if len(set(column)) > 1}

    def say(values: Mapping[str, str]) -> str:
        return " ".join(
            f"{end if ends[end := key.rpartition('.')[2]] == 1 else key}={values[key]}" for key in values
        )

    others = [
        {key: columns[key][i] for key in common if columns[key][i] != common[key]} for i in range(len(settings))
    ]
    return say(common), [say(values) for values in others]


def _settings(experiment: Experiment) -> dict[str, str]:
    """Return the parameters as text, without the method, which has a column, and a short name of the code."""
    params = {key: text(value) for key, value in experiment.params.items() if key != "decomp"}
    return params | {"code": hashlib.sha256(repr(sorted(experiment.code)).encode()).hexdigest()[:7]}


def _row(experiment: Experiment, differs: str) -> tuple[str, ...]:
    metrics = experiment.metrics
    sizes = (metrics[name] / metrics[f"{name}_dense"] for name in ("parameters", "macs"))
    steps = (f"test_accuracy_{step}" for step in ("dense", "pruned", "factorised"))
    accuracies = (metrics[name] for name in ("validation_accuracy", *steps, "test_accuracy"))
    name = _shortened(experiment.name, NAME_WIDTH)
    return (name, differs, str(experiment.params["decomp"]), *map(percent, (*sizes, *accuracies)))


def _either(experiments: Sequence[Experiment], figure: str) -> str:
    return " or ".join(f"{value:,}" for value in dict.fromkeys(each.metrics[figure] for each in experiments))


def _shortened(words: str, width: int) -> str:
    """Return the words with … in the middle if they are too long: names of experiments differ at their ends."""
    start = (width - 1) // 2
    return words if len(words) <= width else f"{words[:start]}…{words[start + 1 - width :]}"


if __name__ == "__main__":
    run_stage(main)
