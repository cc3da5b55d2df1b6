"""Sharing a budget on a GPU: the model on it, moments on the CPU, and nothing computed of both at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.models import both, random_images, random_model, small_spec
from vtp.budget import Budget
from vtp.calibration.moments import moments
from vtp.models import Model, factorisable
from vtp.prune.inner import Narrowing
from vtp.prune.sharing import loss_by_ranks

COPYING = ("copy_", "_to_copy", "clone", "detach", "index_put_", "index")  # index: CUDA takes indices of the CPU


class Devices(TorchDispatchMode):
    """Tells tensors "of the GPU", and what is computed of them, from others, though all are on the CPU.

    Raises RuntimeError where something is computed of both, as CUDA does. Numbers may be mixed with anything.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.alive: list[Tensor] = []  # so that no other tensor gets their memory
        self.storages: set[int] = set()
        for tensor in model.state_dict(keep_vars=True).values():
            self.take(tensor)

    def take(self, tensor: Tensor) -> None:
        self.alive.append(tensor)
        self.storages.add(tensor.untyped_storage()._cdata)

    def has(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_flatten((args, kwargs or {}))[0] if isinstance(value, Tensor)]
        name = function._schema.name.split("::")[1]
        if len({self.has(tensor) for tensor in given if tensor.ndim}) == 2 and name not in COPYING:
            raise RuntimeError(f"{name} of tensors on two devices")
        result = function(*args, **(kwargs or {}))
        of = given[:1] if name in COPYING else given
        if any(self.has(tensor) for tensor in of):
            for value in tree_flatten(result)[0]:
                if isinstance(value, Tensor):
                    self.take(value)
        return result


@both
def test_a_model_may_be_on_another_device_than_its_moments(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(small_spec(family), seed=0, dtype=torch.float32)
    flows = moments(model, random_images(model.spec, 64), 0)
    budget = Budget(0.5, "parameters", "pair")
    target = 0.5 * sum(layer.weight.numel() for layer in factorisable(model).values())

    def results() -> list[float]:
        sites = Narrowing.of(model, flows).to(0.5)[1]
        return [loss_by_ranks(model, flows, budget, target), *(site.predicted_loss for site in sites)]

    expected = results()
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: torch.from_numpy(tensor.detach().numpy().copy()))
    with Devices(model):
        assert results() == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: tensor)
    with Devices(model), pytest.raises(RuntimeError, match="tensors on two devices"):
        results()
