"""What `compress` did, in numbers and as a table, and the file that keeps its model."""

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from vtp.compression.modules import distinct
from vtp.lowrank.report import UnitReport
from vtp.models.spec import Factor
from vtp.report import markdown_table
from vtp.sealed import write_sealed

KIND = "compressed"


@dataclass(frozen=True, eq=False)
class Report:
    """What `compress` did.

    Attributes:
        model: the compressed model.
        units: what became of each layer that was looked at.
        left_alone: layer -> why it was not looked at.
        factors: layer -> the pair that stands in its place, those of an earlier call too.
        parameters, parameters_dense: weights of the whole model, now and before.
        predicted: mean KL divergence (nats) from the dense model's predictions that the metric `loss` expects;
            None for the other metrics, whose errors are in another unit.
        unrecovered: the same as it was found on the images given, before `recover`; None where none was asked for.
        measured: the same in the end.
        agreement: the fraction of these images on which both models name the same class.
    """

    model: nn.Module
    units: tuple[UnitReport, ...]
    left_alone: dict[str, str]
    factors: dict[str, Factor]
    parameters: int
    parameters_dense: int
    predicted: float | None
    unrecovered: float | None
    measured: float
    agreement: float

    def save(self, path: Path | str) -> None:
        """Write the compressed model to one file, whole or not at all, without pickle; `restore` reads it."""
        content = {"factors": {name: asdict(factor) for name, factor in self.factors.items()}}
        write_sealed(Path(path), KIND, content, distinct(self.model))

    def __str__(self) -> str:
        """A table of the layers, and the totals."""
        rows = [
            (
                unit.unit,
                "×".join(map(str, unit.shape)),
                str(unit.rank or "dense"),
                f"{unit.parameters:,}",
                f"{unit.macs:,}",
                f"{unit.output_error:.4f}",
            )
            for unit in self.units
        ]
        expected = "" if self.predicted is None else f", predicted {self.predicted:.4f}"
        before = "" if self.unrecovered is None else f", before recovery {self.unrecovered:.4f}"
        return markdown_table(("layer", "shape", "rank", "parameters", "MACs", "output error"), rows) + (
            f"\n{self.parameters:,} of {self.parameters_dense:,} parameters "
            f"({self.parameters / self.parameters_dense:.0%}); KL divergence from the dense model "
            f"{max(self.measured, 0.0):.4f} nats{before}{expected}; the same class on {self.agreement:.1%} of the "
            "images\n"
        )
