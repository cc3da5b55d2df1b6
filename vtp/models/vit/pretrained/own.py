"""Checkpoints of this project as what another training begins with."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from vtp.errors import UserError
from vtp.models.base import Model
from vtp.models.vit.module import filled
from vtp.models.vit.pretrained.folding import replace_head
from vtp.models.vit.spec import Resize, ViTSpec


def load_own(path: Path, classes: int | None) -> Model:
    """Return the vision transformer at `path`, with a new head, of zeros, if its own is for other classes.

    Its spec says how images came to the size of those that it was trained on, as the file does.

    Args:
        path: a checkpoint, such as `out/baseline/model.safetensors`.
        classes: their number; None: the model's own head stays.

    Raises UserError, one sentence, as `vtp.checkpoint.load` does, or if the model is no dense vision transformer.
    """
    from vtp.checkpoint import load, load_resizing  # which know the models of all families, this one among them

    model = load(path)
    spec = model.spec
    if not isinstance(spec, ViTSpec):
        raise UserError(f"{path}: a {spec.name}, but must be a vision transformer")
    if spec.factors or spec.scored:
        what = "factors" if spec.factors else "importance scores"
        raise UserError(f"{path}: a model with {what}, but must be dense, as baseline writes it")
    if any(head.qk != head.v for block in spec.blocks for head in block.heads):
        raise UserError(f"{path}: a model whose heads have lost dims, but must be dense, as baseline writes it")
    state, images = model.state_dict(), load_resizing(path)
    resize = Resize(images.resize or images.image_size, images.squash, cast(Any, images.interpolation))
    if classes not in (None, spec.classes):
        replace_head(state, spec.pool, classes)
        spec = replace(spec, classes=classes, representation=None)
    return filled(replace(spec, resize=resize), state)
