"""The section `model` of params.yaml for a ResNet-18."""

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.errors import UserError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResNetParams:
    """Section `model` of name `resnet18`: the form with a 3×3 stem and no max-pooling."""

    sites: ClassVar = ("block.inner",)

    name: Literal["resnet18"]
    width: int = Field(
        ge=1, le=4096, description="channels of the first blocks; later ones have up to 8 times as many"
    )

    def check(self, image_size: int, batch_size: int) -> None:
        """Raise UserError unless such a model can take images of `image_size` pixels, `batch_size` at once."""
        if batch_size == 1 and image_size <= 8:
            raise UserError(
                "params.yaml: training.batch_size is 1, but must be at least 2 for resnet18 with data.image_size "
                f"{image_size}: its last norms would see a single value"
            )
