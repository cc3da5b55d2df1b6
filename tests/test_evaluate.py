"""What evaluate says of the models' answers."""

import torch

from stages.evaluate import differing
from tests.models import random_model, small_spec
from vtp.data.dataset import Split
from vtp.measure import answers


def test_differing_are_the_images_that_two_models_take_for_different_classes() -> None:
    dense, final = (random_model(small_spec("vit"), seed=seed, dtype=torch.float32) for seed in (0, 1))
    spec = dense.spec
    shape = (40, spec.channels, spec.image_size, spec.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % spec.classes
    names = tuple(f"class {index}" for index in range(spec.classes))
    split = Split(images, labels)
    before, after = (answers(model, split) for model in (dense, final))
    found = differing(before, after, split, names)
    assert [entry["image"] for entry in found] == (before != after).nonzero().flatten().tolist()
    assert 0 < len(found) < 40
    for entry in found:
        place = entry["image"]
        assert (entry["class"], entry["dense"], entry["finetuned"]) == tuple(
            names[index] for index in (labels[place], before[place], after[place])
        )
    assert differing(before, before, split, names) == []
