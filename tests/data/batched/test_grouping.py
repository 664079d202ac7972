"""Groups get what was chosen for them, in the order of the rounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthostream.data.batched import grouping
from orthostream.data.batched.grouping import by_group


@given(data=st.data(), batch=st.integers(0, 9), rounds=st.integers(0, 4), block=st.sampled_from([1, 16, 1 << 18]))
def test_each_image_gets_its_operations_in_order(data, batch, rounds, block):
    rows = st.lists(st.integers(0, 2), min_size=batch, max_size=batch)
    choices = torch.tensor([data.draw(rows) for _ in range(rounds)], dtype=torch.int64).view(rounds, batch)
    images = torch.arange(8.0 * batch).view(batch, 2, 2, 2)
    before = images.clone()

    def apply(group, images, samples):
        # Not commutative, and different for each image.
        return images * (group + 2) + samples.view(-1, 1, 1, 1)

    expected = []
    for sample, image in enumerate(images):
        for choice in choices[:, sample].tolist():
            image = image * (choice + 2) + sample
        expected.append(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "BLOCK", block)
        found = by_group(images, choices, 3, apply)
    assert torch.equal(images, before)
    assert torch.equal(found, torch.stack(expected) if expected else images)


def test_groups_without_images_are_not_called():
    called = []
    by_group(torch.zeros(2, 1, 1, 1), torch.tensor([[3, 1]]), 5, lambda group, rows, _: called.append(group) or rows)
    assert called == [1, 3]
