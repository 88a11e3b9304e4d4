import numpy as np
import pytest
import torch

from segtrain.metrics.churn import Churn
from segtrain.metrics.evaluation import Probe


def probe(mined, name="a"):
    mined = None if mined is None else np.array(mined, np.float32)
    shape = (1, 4) if mined is None else mined.shape
    return Probe(
        np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), mined, None, name
    )


def test_churn_is_what_is_not_common_to_two_mined_sets():
    churn = Churn()
    assert churn([probe([[1, 1, 0, 0]]), probe([[0.5, 0, 0]])]) == {}, "there is nothing to compare with"
    assert churn([probe([[1, 0, 1, 0]]), probe([[1, 0, 0]])]) == {"mining/churn": pytest.approx(1 - 2 / 4)}
    assert churn([probe([[1, 0, 1, 0]]), probe([[1, 0, 0]])]) == {"mining/churn": 0}


def test_other_probes_are_not_compared_nor_what_is_not_mined():
    churn = Churn()
    churn([probe([[1, 0]])])
    assert churn([probe([[1, 0]], "b")]) == {}
    assert churn([probe([[1], [0]], "b")]) == {}, "another size"
    assert churn([probe(None)]) == {}
    assert churn([]) == {}


def test_the_mined_set_survives_in_a_state_of_a_bit_per_pixel():
    rng = np.random.default_rng(0)
    first, second = (probe(rng.random((13, 7)) > 0.5) for _ in range(2))
    whole, resumed = Churn(), Churn()
    assert whole.state_dict() is None
    whole([first])
    state = whole.state_dict()
    assert (state["bits"].dtype, state["bits"].numel()) == (torch.uint8, 12)
    resumed.load_state_dict(state)
    assert resumed([second]) == whole([second])
