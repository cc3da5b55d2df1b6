"""report.html: a run on one page, with its pictures inside; it needs neither network nor scripts."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vtp.report import Row, percent

Units = Sequence[Mapping[str, Any]]  # what `decompose` reports of each unit


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first cell of the row that is marked stands out."""

    header: Row
    rows: Sequence[Row]
    marked: str = ""


def render(pictures: Sequence[Path], **content: Any) -> str:
    """Return the page.

    Args:
        pictures: PNG files, which the page shows by their names without ending.
        content: what else `page.html` names.
    """
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    encoded = {path.stem: b64encode(path.read_bytes()).decode() for path in pictures}
    return environment.get_template("page.html").render(pictures=encoded, **content)


def blocks_table(sites: Mapping[str, Mapping[str, Any]], units: Units) -> Table:
    """Return a row a block: how many dimensions of each site are kept, and the rank of each unit.

    Args:
        sites: site -> `kept` and `dims`.
        units: with `unit`, `rank` and `shape`.
    """
    cells = [(*_split(site), f"{entry['kept']:,} of {entry['dims']:,}") for site, entry in sites.items()]
    for unit in units:
        block, kind = _split(unit["unit"])
        cells.append((block, f"{kind}, rank", _rank(unit, f" of {min(unit['shape']):,}")))
    rows: dict[str, dict[str, str]] = {}
    for block, kind, text in cells:
        rows.setdefault(block, {})[kind] = text
    kinds = dict.fromkeys(kind for _, kind, _ in cells)
    return Table(
        ("block", *kinds), [(block, *(row.get(kind, "") for kind in kinds)) for block, row in rows.items()]
    )


def dense_table(units: Units) -> Table:
    """Return a row for each reason (`reason`) why units stayed dense, with their names."""
    reasons: dict[str, list[str]] = {}
    for unit in units:
        if unit["rank"] is None:
            reasons.setdefault(unit["reason"], []).append(unit["unit"])
    return Table(("reason", "units"), [(reason, ", ".join(names)) for reason, names in reasons.items()])


def units_table(units: Units) -> Table:
    """Return a row a unit: its shape and rank, what it costs now, and what that lost."""
    header = ("unit", "shape", "rank", "parameters", "MACs", "weight error (%)", "output error (%)", "nats")
    rows = [
        (
            unit["unit"],
            "×".join(map(str, unit["shape"])),
            _rank(unit),
            f"{unit['parameters']:,} of {unit['parameters_dense']:,}",
            f"{unit['macs']:,} of {unit['macs_dense']:,}",
            percent(unit["weight_error"]),
            percent(unit["output_error"]),
            nats(unit["predicted_loss"]),
        )
        for unit in units
    ]
    return Table(header, rows)


def predicted_loss(units: Units) -> float | None:
    """Return the nats that all units together are predicted to move the predictions; None if none is predicted."""
    found = [unit["predicted_loss"] for unit in units if unit["predicted_loss"] is not None]
    return sum(found) if found else None


def nats(loss: float | None) -> str:
    """Return a loss as 0.00012, to two digits; None, where there is no figure, as a dash."""
    return "-" if loss is None else f"{loss:.2g}"


def _rank(unit: Mapping[str, Any], whole: str = "") -> str:
    return "dense" if unit["rank"] is None else f"{unit['rank']:,}{whole}"


def _split(name: str) -> tuple[str, str]:
    """Return the block of a site or unit, and which one it is there: `blocks.0` and `mlp.hidden`."""
    parts = name.split(".")
    return ".".join(parts[:2]), ".".join(parts[2:])
