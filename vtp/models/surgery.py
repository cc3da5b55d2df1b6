"""Cuts in a model's weights that every family uses."""

from torch import Tensor

from vtp.models.family import State


def keep_rows(state: State, names: tuple[str, ...], index: Tensor) -> None:
    """Keep the entries `index` of axis 0 of each named tensor: outputs of a layer, channels of a norm."""
    for name in names:
        state[name] = state[name][index]


def keep_columns(state: State, name: str, index: Tensor) -> None:
    """Keep the entries `index` of axis 1 of the named weight: the inputs of a layer."""
    state[name] = state[name][:, index]


def fold(state: State, name: str, score: Tensor | None, axis: int) -> None:
    """Multiply the named weight by scores of its dtype along `axis`, if there are any: the exact product, rounded
    once.
    """
    if score is None:
        return
    shape = [1] * state[name].ndim
    shape[axis] = -1
    state[name] = state[name] * score.view(shape)
