"""Vision transformers."""

from vtp.models.family import Family
from vtp.models.vit.module import VisionTransformer
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import ViTSpec, dense_spec
from vtp.models.vit.surgery import inner, slim

FAMILY = Family(ViTParams, dense_spec, ViTSpec, VisionTransformer, slim, inner)
