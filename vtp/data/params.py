"""What a source of images is asked for."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT, Rule

CHECKSUM = Rule("64 hexadecimal digits", lambda value: value is None or re.fullmatch("[0-9a-fA-F]{64}", value))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageParams:
    """Section `data`: which images; `name` is that of a source."""

    name: str
    path: str | None = Field(description="a local copy: CIFAR's official archive; a folder or archive of images")
    sha256: Annotated[str | None, AfterValidator(CHECKSUM)] = Field(
        description="checksum that the archive must have; empty: not checked"
    )
    image_size: int = Field(ge=4, le=1024, description="pixels; images of another size are resized")
    resize: int = Field(
        ge=0, le=2048, description="pixels of the shorter side before the centre is cropped; 0: image_size"
    )
    squash: bool = Field(description="both sides become that long, whatever the image's shape")
    interpolation: Literal["bilinear", "bicubic"] = Field(description="of the resizing")
    validation_fraction: float = Field(
        ge=0.01, le=0.5, description="of the training images, where the data have no validation split"
    )
