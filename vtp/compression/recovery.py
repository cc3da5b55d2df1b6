"""Bring a smaller model nearer to the one that it was made of, by a short distillation without labels."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from vtp.measure import divergence

RATE = 1e-4
STEP = 64  # images of a step, at least


def nearness(run: Callable[[Any], Tensor], batches: Sequence[Any], dense: Tensor) -> tuple[float, float]:
    """Return divergence and agreement of what `run` gives for the batches with the logits of the dense model."""
    with torch.no_grad():
        return divergence(dense, torch.cat([run(batch) for batch in batches]))


def recovered(
    student: nn.Module,
    run: Callable[[Any], Tensor],
    teacher: Callable[[Any], Tensor],
    seen: Sequence[Any],
    batches: Sequence[Any],
    dense: Tensor,
    steps: int,
    seed: int,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Train `student`, in place, towards a teacher, unless that brings it no nearer on the batches.

    Args:
        student: in evaluation mode, in which it stays; all its weights are trained.
        run, teacher: give the logits (B, classes) of either for a batch.
        seen: batches of images to train on; as many run at once as a batch has.
        batches: those by which the two are compared.
        dense: the logits of the teacher for `batches`.
        steps: of at least 64 images.
        seed: of what is drawn.

    Returns its nearness before and in the end.
    """
    state = {key: value.clone() for key, value in student.state_dict().items()}
    before = nearness(run, batches, dense)
    _distil(student, run, teacher, _drawn(seen, torch.Generator().manual_seed(seed)), steps)
    after = nearness(run, batches, dense)
    if after[0] < before[0]:
        return before, after
    student.load_state_dict(state)
    return before, before


def _distil(
    student: nn.Module,
    run: Callable[[Any], Tensor],
    teacher: Callable[[Any], Tensor],
    drawn: Iterator[Any],
    steps: int,
) -> None:
    """Take steps towards the predictions of the teacher (arXiv:1503.02531); the rate of Adam falls to zero."""
    optimizer = torch.optim.Adam(student.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in trange(steps, desc="recovering", disable=None):
        optimizer.zero_grad()
        seen = 0
        while seen < STEP:
            batch = next(drawn)
            with torch.no_grad():
                wanted = teacher(batch).log_softmax(1)
            found = run(batch).log_softmax(1)
            F.kl_div(found, wanted, log_target=True, reduction="sum").div(STEP).backward()
            seen += len(wanted)
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()


def _drawn(batches: Sequence[Any], generator: torch.Generator) -> Iterator[Any]:
    """Yield batches without end: of images, any of them, blended in pairs; of anything else, one of `batches`.

    Blends are those of mixup (arXiv:1710.09412): of images on which it was trained a model is sure, and so says
    little; in between it is not.
    """
    tensors = [batch for batch in batches if isinstance(batch, Tensor) and _blends(batch)]
    sizes = {batch.shape[1:] for batch in tensors}
    if len(tensors) < len(batches) or len(sizes) > 1:
        while True:
            yield batches[int(torch.randint(len(batches), (), generator=generator))]
    images, size = torch.cat(tensors), len(tensors[0])
    while True:
        one, other = (images[torch.randint(len(images), (size,), generator=generator)] for _ in range(2))
        share = torch.rand(size, *(1,) * (images.ndim - 1), generator=generator).to(images.device)
        yield (share * one + (1 - share) * other).to(images.dtype)


def _blends(batch: Tensor) -> bool:
    """Say whether there is something between two values, as there is between pixels, but not between tokens."""
    return batch.is_floating_point() or batch.dtype == torch.uint8
