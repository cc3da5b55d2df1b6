"""The tables of `benchmarks.frontier`, and the statistics in them."""

import statistics
from dataclasses import dataclass

import scipy.stats
from torch import Tensor

from benchmarks.trained_models import spread
from vtp.report import markdown_table


@dataclass(frozen=True, eq=False)
class Result:
    """A model of one method, budget and seed.

    Attributes:
        parameters, macs, time: over those of the dense model.
        in_budget: whether it has the parameters asked for.
        seconds: of CPU.
        divergence, accuracy: of each image, (N,), float64.
        tuned: the accuracy after fine-tuning, if there was some.
    """

    parameters: float
    macs: float
    time: float
    in_budget: bool
    seconds: float
    divergence: Tensor
    accuracy: Tensor
    tuned: Tensor | None


MEASURES = {"divergence": "divergence", "accuracy": "accuracy", "tuned": "fine-tuned"}
FORMS = {"divergence": ".1e", "accuracy": ".4f", "tuned": ".4f"}
COSTS = ("parameters", "macs", "time", "seconds")
Found = dict[str, list[Result]]


def table(found: Found) -> str:
    """Return the rows of one budget."""
    first, rows = next(iter(found.values())), []
    measures = [measure for measure in MEASURES if getattr(first[0], measure) is not None]
    for name, entries in found.items():
        if not entries:
            rows.append((name, "cannot", *[""] * (5 + 2 * len(measures))))
            continue
        cells, standings = [], list[tuple[str, str]]()
        for measure in measures:
            values = [float(getattr(each, measure).mean()) for each in entries]
            differences = paired(first, entries, measure)
            form = FORMS[measure]
            cells += [spread(values, form), "" if entries is first else interval(differences, form)]
            standings.append((standing(differences, measure), measure))
        of, of_ours = costs(entries), costs(first)
        more = [label for key, label in (("macs", "MACs"), ("time", "time")) if of_ours[key] > of[key]]
        off = "" if all(each.in_budget for each in entries) else " (off)"
        sizes = (f"{of['parameters']:.3f}{off}", f"{of['macs']:.3f}", f"{of['time']:.2f}", f"{of['seconds']:.1f}")
        rows.append((name, *cells, *sizes, str(len(entries)), "" if entries is first else said(standings, more)))
    header = [title for measure in measures for title in (MEASURES[measure], "ours - its")]
    return markdown_table(("method", *header, "parameters", "MACs", "time", "seconds", "n", "ours is"), rows)


def paired(first: list[Result], others: list[Result], measure: str) -> list[float]:
    """Return the differences by seed; of one seed, by image."""
    pairs = zip(first, others, strict=True)
    differences = [getattr(one, measure) - getattr(other, measure) for one, other in pairs]
    if len(differences) == 1:
        return [float(value) for value in differences[0]]
    return [float(each.mean()) for each in differences]


def bounds(differences: list[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by Student's t."""
    mean, count = statistics.mean(differences), len(differences)
    half = float(scipy.stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
    return mean, mean - half, mean + half


def interval(differences: list[float], form: str) -> str:
    """Return both as text, each in that form."""
    mean, low, high = bounds(differences)
    return f"{mean:+{form}} ({low:+{form}} to {high:+{form}})"


def standing(differences: list[float], measure: str) -> str:
    """Return `ahead`, `level` or `BEHIND`: where the interval of ours minus the other's lies."""
    _, low, high = bounds(differences)
    if measure == "divergence":
        low, high = -high, -low
    return "ahead" if low > 0 else "BEHIND" if high < 0 else "level"


def costs(entries: list[Result]) -> dict[str, float]:
    """Return the mean of each of COSTS."""
    return {key: statistics.mean(getattr(each, key) for each in entries) for key in COSTS}


def said(standings: list[tuple[str, str]], more: list[str]) -> str:
    """Return in which measures ours is not ahead, or that it is in all, and of which costs it has more."""
    parts = []
    for verdict in ("BEHIND", "level"):
        measures = [measure for found, measure in standings if found == verdict]
        parts += [f"{verdict}: {', '.join(measures)}"] if measures else []
    parts = parts or ["ahead"]
    return "; ".join(parts + ([f"more {' and '.join(more)}"] if more else []))
