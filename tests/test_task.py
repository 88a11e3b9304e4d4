import torch

from segtrain.task import Batch, Task, predict

RGB = ((0, 0, 0), (255, 255, 255), (255, 0, 0))


def test_two_classes_under_a_sigmoid_need_one_channel():
    binary = Task("segmentation", ("background", "vessel"), RGB[:2])
    assert (binary.channels("sigmoid"), binary.channels("softmax")) == (1, 2)
    three = Task("segmentation", ("a", "b", "c"), RGB)
    assert (three.channels("sigmoid"), three.channels("softmax")) == (3, 3)


def test_one_channel_is_a_decision_at_zero_and_several_an_argmax():
    assert predict(torch.tensor([[[-1.0, 0.0, 2.0]]])).tolist() == [[0, 0, 1]]
    assert predict(torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 0.0]])).tolist() == [1, 0]


def test_a_batch_moves_whole():
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8), ("a", "b"))
    moved = batch.to(torch.device("cpu"), torch.channels_last)
    assert moved.image.is_contiguous(memory_format=torch.channels_last)
    assert moved.ids == ("a", "b")
