"""The section `model` of params.yaml for a vision transformer."""

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.errors import UserError

PATCH_DROPOUT = "part of an image's patches that most of a training leaves out, which saves time"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViTParams:
    """Section `model` of name `vit`: a vision transformer."""

    sites: ClassVar = ("attention.inner", "mlp.hidden", "attention.input", "mlp.input")

    name: Literal["vit"]
    patch_size: int = Field(ge=1, description="pixels; divides image_size")
    dim: int = Field(ge=1, le=65536, description="width of the residual stream")
    depth: int = Field(ge=1, le=1024, description="blocks")
    heads: int = Field(ge=1, le=1024, description="heads of each block")
    head_dim: int = Field(ge=1, le=65536, description="q, k and v dims of each head; need not be dim / heads")
    mlp_dim: int = Field(ge=1, le=262144, description="hidden dims of each block's MLP")
    dropout: float = Field(ge=0, le=0.9, description="probability")
    stochastic_depth: float = Field(
        ge=0, le=0.9, description="probability that a branch of the last block is dropped; earlier ones less"
    )
    patch_dropout: float = Field(ge=0, le=0.9, description=PATCH_DROPOUT)
    weight_std: float = Field(
        ge=0, le=1, description="standard deviation of weights before training; 0: Xavier's, by the layer's sizes"
    )
    position_std: float = Field(ge=0, le=10, description="standard deviation of the positions before training")
    mimetic: bool = Field(
        description="attention and positions begin as those of trained models look, which learns faster"
    )

    def check(self, image_size: int, batch_size: int) -> None:
        """Raise UserError unless such a model can take images of `image_size` pixels, `batch_size` at once."""
        check_patches(self.patch_size, image_size)


def check_patches(patch_size: int, image_size: int) -> None:
    """Raise UserError unless patches of `patch_size` pixels fill an image of `image_size`."""
    if image_size % patch_size:
        raise UserError(
            f"params.yaml: model.patch_size is {patch_size}, but must divide data.image_size, "
            f"which is {image_size}"
        )
