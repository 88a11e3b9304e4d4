import pytest
import torch

from segtrain.task import Batch
from segtrain.transfer import Transfer

BATCH = Batch(torch.arange(96, dtype=torch.uint8).view(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8), ("a", "b"))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_arrives_as_it_was_in_the_layout_that_was_asked_for(layout):
    moved = Transfer(torch.device("cpu"), layout)(BATCH)
    assert moved.image.is_contiguous(memory_format=layout)
    assert torch.equal(moved.image, BATCH.image)
    assert torch.equal(moved.target, BATCH.target)
    assert moved.ids == BATCH.ids
