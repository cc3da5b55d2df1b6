"""The paper's own model (section 3: 12 layers, 10 heads, 768 dims) through every step, on small images.

768 is no multiple of 10, so two head sizes are tried: the usual 64, and 76, the largest of which ten fit in.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.models import random_images, train_a_step
from vtp.calibration.moments import moments
from vtp.checkpoint import load, save
from vtp.cost import macs, parameters
from vtp.lowrank import factorise
from vtp.models import Model, dense_spec, initialised
from vtp.models.vit.params import ViTParams
from vtp.params import load_params
from vtp.prune import choose_cut, masked, slim
from vtp.scores import scores, with_scores

ROOT = Path(__file__).resolve().parent.parent


def largest_difference(model: Model, other: Model, images: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(images) - other(images)).abs().max())


@pytest.mark.parametrize("head_dim", [pytest.param(64, marks=pytest.mark.slow), 76])
def test_the_paper_s_model_trains_prunes_factorises_and_reloads(head_dim: int, tmp_path: Path) -> None:
    params = load_params(ROOT / "configs" / "paper.yaml")
    assert isinstance(params.model, ViTParams)
    assert (params.model.depth, params.model.heads, params.model.dim) == (12, 10, 768)
    spec = dense_spec(
        replace(params.model, patch_size=8, head_dim=head_dim), image_size=16, channels=3, classes=10
    )
    images = random_images(spec, 8)

    dense = initialised(spec, 0, (120.0,) * 3, (60.0,) * 3)
    assert dense.get_parameter("blocks.11.attention.query.weight").shape == (10 * head_dim, 768)
    scored = with_scores(dense, params.sparsify.sites)
    train_a_step(scored, images)
    generator = torch.Generator().manual_seed(0)
    for score in scores(scored).values():
        score.data *= torch.rand(len(score), generator=generator)

    cut = choose_cut(scores(scored), replace(params.prune, rate=0.9), {})  # little is left, to save time
    pruned = slim(scored, cut.keep)
    assert parameters(pruned.spec) < 0.2 * parameters(spec)
    assert largest_difference(pruned, masked(scored, cut.keep), images) <= 1e-5

    plan = replace(params.decompose, metric="weight", allocation="uniform")
    flows = moments(pruned, images, 0)
    factorised, reports = factorise(pruned, "lu", plan, flows)
    assert len(reports) == 12 * 6
    assert all(report.rank for report in reports)
    assert macs(factorised.spec) < macs(pruned.spec)

    before = factorised.get_parameter("blocks.11.mlp.up.right.weight").clone()
    train_a_step(factorised, images)
    assert (factorised.get_parameter("blocks.11.mlp.up.right.weight") != before).any()
    for name, model in {"slim": pruned, "factorised": factorised}.items():
        save(model, tmp_path / name)
        numbers = sum(tensor.numel() for tensor in model.state_dict().values())
        assert (tmp_path / name).stat().st_size <= 4 * numbers + 64 * 1024  # and their names, and the spec
        assert largest_difference(load(tmp_path / name), model, images) == 0.0
