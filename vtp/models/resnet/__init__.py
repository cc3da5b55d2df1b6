"""Residual networks."""

from vtp.models.family import Family
from vtp.models.resnet.module import ResNet
from vtp.models.resnet.params import ResNetParams
from vtp.models.resnet.spec import ResNetSpec, dense_spec
from vtp.models.resnet.surgery import inner, slim

FAMILY = Family(ResNetParams, dense_spec, ResNetSpec, ResNet, slim, inner)
