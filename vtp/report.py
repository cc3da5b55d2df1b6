"""Tables from plain data."""

from collections.abc import Sequence

Row = Sequence[str]


def markdown_table(header: Row, rows: Sequence[Row]) -> str:
    """Return an aligned Markdown table that also reads well as plain text; the first column is left-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Row) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def percent(fraction: float | None) -> str:
    """Return 0.9712 as `97.12`, in percent; None, where there is no figure, as a dash."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def count(number: int, whole: int) -> str:
    """Return a count with the percentage that it is of `whole`: `53,990 (40 %)`."""
    return f"{number:,} ({number / whole:.0%})".replace("%", " %")
