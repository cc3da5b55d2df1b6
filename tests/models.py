"""Small random models of both families, and what hypothesis draws them from."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from vtp.models import Model, ModelSpec, build, factorisable, from_state
from vtp.models.resnet.params import ResNetParams
from vtp.models.resnet.spec import BasicBlockSpec, ResNetSpec
from vtp.models.spec import Factor
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec
from vtp.scores import scores

FAMILIES = ("vit", "resnet18")
both = pytest.mark.parametrize("family", FAMILIES)
KINDS = {"vit": ViTParams.sites, "resnet18": ResNetParams.sites}


def random_model(spec: ModelSpec, seed: int, dtype: torch.dtype = torch.float64) -> Model:
    """A model whose every tensor is random: weights of unit gain, scores of either sign, uneven norms."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in build(spec).state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.dtype == torch.int64:  # batches that a norm has seen
            state[name] = torch.tensor(7)
        elif tensor.dtype == torch.int32:  # columns that are read: any, as long as there are so many
            state[name] = torch.arange(len(tensor)).to(tensor.dtype)
        elif name in ("mean", "std"):
            state[name] = 100 + 10 * noise
        elif name.endswith("running_var"):
            state[name] = (0.3 * noise).exp()
        elif tensor.ndim > 1:
            state[name] = noise / tensor[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            state[name] = 1 + 0.3 * noise
        else:
            state[name] = noise if name.endswith("score") else 0.3 * noise
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return from_state(spec, cast)


def random_images(spec: ModelSpec, count: int = 8, seed: int = 0) -> Tensor:
    """Random pixels (count, C, H, W), uint8."""
    shape = (count, spec.channels, spec.image_size, spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def train_a_step(model: nn.Module, images: Tensor) -> None:
    """A step of gradient descent with a label of its own for each image; the model ends in evaluation mode."""
    optimizer = torch.optim.SGD(model.train().parameters(), 0.01)
    nn.functional.cross_entropy(model(images), torch.arange(len(images))).backward()
    optimizer.step()
    model.eval()


def small_spec(family: str, **changes: Any) -> ModelSpec:
    """A fixed small spec: two blocks, in a ResNet one of them with a projection."""
    common: dict[str, Any] = {"name": family, "channels": 3, "classes": 4, "scored": (), "factors": {}}
    if family == "vit":
        block = BlockSpec((HeadSpec(6, 6),) * 3, 20)
        spec: ModelSpec = ViTSpec(
            **common, image_size=8, patch_size=4, dim=16, head_dim=6, blocks=(block, block), dropout=0.0
        )
    else:
        blocks = (BasicBlockSpec(8, 8, 1), BasicBlockSpec(12, 16, 2))
        spec = ResNetSpec(**common, image_size=8, stem=8, blocks=blocks)
    return replace(spec, **changes)


def with_factors(spec: ModelSpec, rank: int) -> ModelSpec:
    """The spec with every layer of the blocks factorised; only linear layers of a transformer have a bias."""
    layers = factorisable(build(spec)).items()
    return replace(spec, factors={name: Factor(rank, layer.bias is not None) for name, layer in layers})


RATES = st.floats(0, 0.95)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def specs(draw: st.DrawFn, family: str) -> ModelSpec:
    """Specs of small models with scores at some kinds of site, at least one."""
    kinds = draw(st.lists(st.sampled_from(KINDS[family]), min_size=1, unique=True))
    common: dict[str, Any] = {
        "name": family,
        "channels": draw(st.integers(1, 3)),
        "classes": draw(st.integers(2, 5)),
        "scored": tuple(sorted(kinds)),
        "factors": {},
    }
    if family == "resnet18":
        block = st.builds(BasicBlockSpec, st.integers(1, 8), st.integers(1, 8), st.integers(1, 2))
        blocks = draw(st.lists(block, min_size=1, max_size=3))
        size, stem = draw(st.integers(4, 8)), draw(st.integers(1, 8))
        return ResNetSpec(**common, image_size=size, stem=stem, blocks=tuple(blocks))
    heads = st.lists(st.builds(lambda dims: HeadSpec(dims, dims), st.integers(1, 6)), min_size=1, max_size=4)
    dim = draw(st.integers(4, 12))
    inputs = st.none() | st.integers(1, dim)
    block = st.builds(BlockSpec, heads.map(tuple), st.integers(1, 12), inputs, inputs)
    blocks = draw(st.lists(block, min_size=1, max_size=2))
    patch = draw(st.sampled_from([2, 4]))
    return ViTSpec(
        **common,
        image_size=4,
        patch_size=patch,
        dim=dim,
        head_dim=draw(st.integers(1, 8)),
        blocks=tuple(blocks),
        dropout=0.5,
    )


@st.composite
def scored_models(draw: st.DrawFn, family: str, dtype: torch.dtype = torch.float64) -> Model:
    return random_model(draw(specs(family)), draw(SEEDS), dtype)


@st.composite
def models_and_masks(
    draw: st.DrawFn, family: str, dtype: torch.dtype = torch.float64
) -> tuple[Model, dict[str, Tensor]]:
    """A scored model and any masks that keep a dimension at every site."""
    model = draw(scored_models(family, dtype))
    masks = {}
    for site, score in scores(model).items():
        mask = draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score)))
        mask[draw(st.integers(0, len(score) - 1))] = True
        masks[site] = torch.tensor(mask)
    return model, masks
