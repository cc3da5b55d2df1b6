"""The correction after pruning: least squares where there is something to gain, nothing where there is not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import KINDS, both, random_images, random_model, small_spec
from vtp.calibration.refitting import WIDEST
from vtp.calibration.regression import LARGEST, Sums, least_squares
from vtp.models import Model, from_state, spec_to_plain
from vtp.prune import corrected, keep_masks, slim
from vtp.scores import scores
from vtp.sealed import digest


def scored(family: str, seed: int = 0) -> Model:
    return random_model(small_spec(family, scored=KINDS[family]), seed)


def pruned(model: Model, rate: float) -> Model:
    return slim(model, keep_masks(scores(model), rate))


def fingerprint(model: Model) -> str:
    return digest(model.state_dict(), spec_to_plain(model.spec))


def output_of(model: Model, layer: str, images: Tensor) -> Tensor:
    """What the named layer gives, as rows."""
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, given, output: found.append(output))
    with torch.no_grad():
        model(images)
    hook.remove()
    return (found[0].movedim(1, -1) if found[0].ndim == 4 else found[0]).flatten(0, -2)


@both
@given(rate=st.floats(0.1, 0.9), seed=st.integers(0, 50))
@settings(max_examples=10)
def test_the_first_writer_comes_nearer_to_what_it_gave(family: str, rate: float, seed: int) -> None:
    model = scored(family, seed)
    images = random_images(model.spec, 64)
    cut = pruned(model, rate)
    fitted = corrected(cut, model, images)
    first = f"blocks.0.{model.writers[0]}"
    wanted = output_of(model, first, images)
    errors = [output_of(each, first, images) - wanted for each in (cut, fitted)]
    if family == "resnet18":  # their means are the next norm's
        errors = [error - error.mean(0) for error in errors]
    before, after = (error.square().sum() for error in errors)
    assert after <= before * (1 + 1e-9) + 1e-24 * wanted.square().sum()  # where nothing went, rounding is left


@given(rate=st.floats(0.1, 0.6), seed=st.integers(0, 50))
@settings(max_examples=10)
def test_batch_norms_give_the_mean_and_variance_that_they_gave(rate: float, seed: int) -> None:
    model = scored("resnet18", seed)
    images = random_images(model.spec, 64)
    fitted = corrected(pruned(model, rate), model, images)
    for index in range(len(model.blocks)):
        conv, norm = (f"blocks.{index}.{name}" for name in ("conv2", "norm2"))
        given, wanted = (output_of(each, norm, images) for each in (fitted, model))
        scale = output_of(model, conv, images).std(0) / output_of(fitted, conv, images).std(0)
        near = (scale > 1 / WIDEST) & (scale < WIDEST)
        torch.testing.assert_close(given.mean(0), wanted.mean(0), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(given.std(0)[near], wanted.std(0)[near], rtol=1e-6, atol=1e-9)
        assert near.any()


@both
def test_logits_come_nearer_on_new_images(family: str) -> None:
    errors = {"pruned": 0.0, "corrected": 0.0}
    for seed in range(5):
        model = scored(family, seed)
        images, new = random_images(model.spec, 400), random_images(model.spec, 200, seed=1)
        cut = pruned(model, 0.5)
        with torch.no_grad():
            for name, each in (("pruned", cut), ("corrected", corrected(cut, model, images))):
                errors[name] += float((each(new) - model(new)).square().mean())
    assert errors["corrected"] < 0.8 * errors["pruned"]


@both
def test_where_nothing_was_removed_nothing_changes(family: str) -> None:
    model = scored(family)
    images = random_images(model.spec, 64)
    cut = pruned(model, 0.0)
    torch.testing.assert_close(corrected(cut, model, images)(images), cut(images), rtol=1e-9, atol=1e-9)


@both
def test_what_the_kept_dims_can_make_up_for_is_made_up_for(family: str) -> None:
    """Every hidden dim has a twin that computes the same: removing the twins costs nothing."""
    model = scored(family)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {site: torch.ones(len(score), dtype=torch.bool) for site, score in scores(model).items()}
    norm = [f"norm1.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    site, made_by = {
        "vit": ("blocks.0.mlp.hidden", ["mlp.up.weight", "mlp.up.bias"]),
        "resnet18": ("blocks.0.inner", ["conv1.weight", *norm]),
    }[family]
    half = len(kept[site]) // 2
    for name in made_by:
        tensor = state[f"blocks.0.{name}"]
        tensor[half : 2 * half] = tensor[:half]
    kept[site][half : 2 * half] = False
    model = from_state(model.spec, state)
    images = random_images(model.spec, 200)
    cut = slim(model, kept)
    assert (cut(images) - model(images)).abs().max() > 1e-3
    torch.testing.assert_close(corrected(cut, model, images)(images), model(images), rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("count", [1, 3])
def test_all_is_finite_however_few_images_there_are(family: str, count: int) -> None:
    model = scored(family)
    cut = pruned(model, 0.2)
    before = fingerprint(cut)
    fitted = corrected(cut, model, random_images(model.spec, count))
    assert fingerprint(cut) == before
    assert all(tensor.isfinite().all() for tensor in fitted.state_dict().values())


def sums_of(x: torch.Tensor, y: torch.Tensor, with_origin: bool = False) -> Sums:
    """Those of rows (rows, in) and (rows, out), added in two parts."""
    sums = Sums.none(x[0] if with_origin else torch.zeros_like(x[0]), y[0])
    for part in (slice(None, 7), slice(7, None)):
        sums.add(x[part], y[part])
    return sums


@given(seed=st.integers(0, 2**32), with_origin=st.booleans())
@settings(max_examples=25)
def test_sums_of_what_a_layer_lacks_and_of_what_a_factor_makes(seed: int, with_origin: bool) -> None:
    """They are those of the rows y - W x - b and R x, made without the rows."""
    generator = torch.Generator().manual_seed(seed)
    x, y, weight, bias, right = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((20, 6), (20, 4), (4, 6), (4,), (3, 6))
    )
    found = sums_of(x, y, with_origin).missing(weight, bias).through(right)
    wanted = Sums.none(right @ x[0] * with_origin, y[0])
    wanted.add(x @ right.T, y - x @ weight.T - bias)
    for name, value in vars(wanted).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-9, atol=1e-9)
    for part, outputs in zip(sums_of(x, y, with_origin).split([1, 3]), (y[:, :1], y[:, 1:]), strict=True):
        for name, value in vars(sums_of(x, outputs, with_origin)).items():
            torch.testing.assert_close(getattr(part, name), value, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**32), regressors=st.integers(5, 30), factor=st.floats(1.3, 5))
@settings(max_examples=25)
def test_noise_alone_is_hardly_fitted(seed: int, regressors: int, factor: float) -> None:
    """On new rows the fit of pure noise is worse than none by much less than least squares would be."""
    generator = torch.Generator().manual_seed(seed)
    rows, outputs = int(factor * regressors) + 2, 200
    x = torch.randn(rows, regressors, generator=generator, dtype=torch.float64)
    r = torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    change, _ = least_squares(sums_of(x, r), with_shift=False, size=math.inf)
    plain = torch.linalg.lstsq(x, r).solution.T
    assert change.square().sum() < 0.5 * plain.square().sum()


@given(seed=st.integers(0, 2**32), rows=st.integers(15, 30), with_shift=st.booleans())
@settings(max_examples=25)
def test_fewer_rows_than_regressors_find_what_most_of_them_carry(seed: int, rows: int, with_shift: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.7 ** torch.arange(30, dtype=torch.float64)
    x, new = (torch.randn(count, 30, generator=generator, dtype=torch.float64) * sizes for count in (rows, 500))
    wanted = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    change, shift = least_squares(sums_of(x, x @ wanted.T), with_shift, float(wanted.norm()))
    missed = new @ (wanted - change).T - shift
    assert missed.norm() < 0.1 * (new @ wanted.T).norm()


@given(seed=st.integers(0, 2**32), with_shift=st.booleans())
@settings(max_examples=25)
def test_what_is_linear_is_found(seed: int, with_shift: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64) + 3
    x[:, 5] = 0  # a dead input
    wanted = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    wanted[:, 5] = 0
    r = x @ wanted.T + 2 * with_shift
    size = float(wanted.norm()) * 1.01 / LARGEST
    change, shift = least_squares(sums_of(x, r, with_shift), with_shift, size)
    torch.testing.assert_close(change, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        shift, torch.full((4,), 2.0 * with_shift, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


@given(seed=st.integers(0, 2**32), with_shift=st.booleans(), faint=st.floats(1e-7, 1e-3), part=st.floats(0.1, 0.9))
@settings(max_examples=25)
def test_a_change_is_no_larger_than_allowed_and_no_smaller_than_need_be(
    seed: int, with_shift: bool, faint: float, part: float
) -> None:
    """What is to be given has most of its weight where next to nothing flows: the rest of it is found."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, 8, generator=generator, dtype=torch.float64)
    x[:, 5:] *= faint
    wanted = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    wanted[:, 5:] /= faint
    largest = float(wanted[:, :5].norm()) + part * float(wanted[:, 5:].norm())
    change, _ = least_squares(sums_of(x, x @ wanted.T, with_shift), with_shift, largest / LARGEST)
    assert largest / 3 < float(change.norm()) <= largest
    assert (x @ (change - wanted).T).norm() < (x[:, 5:] @ wanted[:, 5:].T).norm()


def test_a_batch_norm_changes_no_more_than_allowed() -> None:
    model = scored("resnet18")
    fitted = corrected(pruned(model, 0.9), model, random_images(model.spec, 100)).state_dict()
    for name, before in model.state_dict().items():
        if name.endswith("norm2.running_var"):
            ratio = (fitted[name] + 1e-5) / (before + 1e-5)
            assert 1 / 4.001 < ratio.min() <= ratio.max() < 4.001  # WIDEST, squared
