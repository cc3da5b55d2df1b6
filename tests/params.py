"""What the tests of params.yaml share."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from vtp.errors import UserError
from vtp.models.vit.params import ViTParams
from vtp.params import Params, params_from_text
from vtp.yaml import read_yaml

PATH = Path("params.yaml")
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
DIGITS_TEXT = (ROOT / "configs" / "digits.yaml").read_text(encoding="utf-8")
VIT: dict[str, Any] = read_yaml(DIGITS_TEXT, PATH)
RESNET = copy.deepcopy(VIT) | {"model": {"name": "resnet18", "width": 16}}
RESNET["sparsify"]["sites"] = ["block.inner"]


def vit_params(**changes: Any) -> ViTParams:
    """The section `model` of configs/digits.yaml with other values."""
    return ViTParams(**VIT["model"] | changes)


def parse(content: Any) -> Params:
    return params_from_text(yaml.dump(content, Dumper=DUMPER, default_flow_style=True), PATH)


def complaint(content: Any) -> str:
    """What is said about a content that is refused: one line."""
    with pytest.raises(UserError) as caught:
        parse(content)
    message = str(caught.value)
    assert message.startswith("params.yaml")
    assert "\n" not in message
    return message
