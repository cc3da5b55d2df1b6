"""The spec of a residual network."""

from itertools import takewhile
from typing import Any

from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.models.resnet.params import ResNetParams
from vtp.models.spec import Count, ModelSpec


@dataclass(frozen=True, config=STRICT)
class BasicBlockSpec:
    """One block: channels between its convolutions, channels of its output, stride of the first one."""

    inner: Count
    outputs: Count
    stride: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResNetSpec(ModelSpec):
    """A residual network of basic blocks.

    Attributes:
        stem: channels that the stem makes of the image.
        blocks: one BasicBlockSpec a block.
    """

    stem: Count
    blocks: tuple[BasicBlockSpec, ...]

    @property
    def largest_activation(self) -> int:
        """Entries of what the stem makes, or a convolution in front of the first stride."""
        unstrided = takewhile(lambda block: block.stride == 1, self.blocks)
        widths = (max(block.inner, block.outputs) for block in unstrided)
        return max([self.stem, *widths]) * self.image_size**2


def dense_spec(params: ResNetParams, **common: Any) -> ResNetSpec:
    """Return the spec of the untrained model of `params`; `common` are the fields that all specs have.

    Four stages of two blocks; each stage doubles the channels of the one before and halves its pixels.
    """
    blocks = []
    for stage in range(4):
        width = params.width * 2**stage
        blocks += [BasicBlockSpec(width, width, 1 if stage == 0 else 2), BasicBlockSpec(width, width, 1)]
    return ResNetSpec(**common, stem=params.width, blocks=tuple(blocks))
