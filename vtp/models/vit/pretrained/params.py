"""The section `model` of params.yaml for a vision transformer that has been trained before."""

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.errors import UserError
from vtp.models.vit.params import PATCH_DROPOUT, ViTParams, check_patches

LIBRARIES = ("timm", "torchvision", "transformers")
OWN = "vtp"  # checkpoints of this project
SOURCES = "timm/NAME-or-PATH, torchvision/NAME, transformers/NAME-or-PATH or vtp/FILE"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PretrainedParams:
    """Section `model` of name `pretrained`: a vision transformer of timm, torchvision or transformers, or ours."""

    sites: ClassVar = ViTParams.sites

    name: Literal["pretrained"]
    source: str = Field(description=SOURCES)
    weights: str | None = Field(
        description="a local file of them, safetensors or a state_dict; empty: those of PATH, or a download"
    )
    patch_size: int | None = Field(
        ge=1, description="pixels: the model is resampled for them and for data.image_size; empty: as it is"
    )
    patch_dropout: float = Field(ge=0, le=0.9, description=PATCH_DROPOUT)

    def check(self, image_size: int, batch_size: int) -> None:
        """Raise UserError unless the source names a library or a checkpoint; the rest shows when it is read."""
        library, _, name = self.source.partition("/")
        if library not in (*LIBRARIES, OWN) or not name:
            raise UserError(f"params.yaml: model.source is {self.source!r}, but must be {SOURCES}")
        if library == OWN and self.weights:
            raise UserError(
                f"params.yaml: model.weights is {self.weights!r}, but must be empty where model.source is a "
                "checkpoint, which has weights"
            )
        if self.patch_size:
            check_patches(self.patch_size, image_size)
