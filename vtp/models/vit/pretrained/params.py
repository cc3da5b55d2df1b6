"""The section `model` of params.yaml for a vision transformer that another library has trained."""

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.errors import UserError
from vtp.models.vit.params import ViTParams

LIBRARIES = ("timm", "torchvision", "transformers")
SOURCES = "timm/NAME-or-PATH, torchvision/NAME or transformers/NAME-or-PATH"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainedParams:
    """Section `model` of name `pretrained`: a vision transformer of timm, torchvision or transformers."""

    sites: ClassVar = ViTParams.sites

    name: Literal["pretrained"]
    source: str = Field(description=SOURCES)
    weights: str | None = Field(
        description="a local file of them, safetensors or a state_dict; empty: those of PATH, or a download"
    )

    def check(self, image_size: int, batch_size: int) -> None:
        """Raise UserError unless the source names one of the libraries; the rest shows when it is read."""
        library, _, name = self.source.partition("/")
        if library not in LIBRARIES or not name:
            raise UserError(f"params.yaml: model.source is {self.source!r}, but must be {SOURCES}")
