import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.data.division import divided


@given(st.integers(3, 60), st.integers(1, 5), st.integers(0, 99), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_sample_is_in_one_split_and_groups_stay_together(n, k, seed, grouped):
    rng = np.random.default_rng(seed)
    presence = rng.random((n, k)) < 0.3
    groups = [str(g) for g in rng.integers(0, max(1, n // 3), n)] if grouped else None
    parts = divided(presence, (0.6, 0.2, 0.2), groups=groups, seed=seed)
    assert sorted(sample for part in parts for sample in part) == list(range(n))
    assert parts == divided(presence, (0.6, 0.2, 0.2), groups=groups, seed=seed)
    if groups:
        held = [{groups[i] for i in part} for part in parts]
        assert sum(map(len, held)) == len(set(groups))
    else:
        assert [abs(len(part) - n * share) < 1 for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True)] == [
            True
        ] * 3


def test_a_rare_class_is_shared_out_as_the_samples_are():
    presence = np.zeros((100, 2), bool)
    presence[:, 0] = True
    presence[:10, 1] = True  # all at the beginning
    parts = divided(presence, (0.8, 0.1, 0.1))
    assert [len(part) for part in parts] == [80, 10, 10]
    assert [int(presence[part, 1].sum()) for part in parts] == [8, 1, 1]


def test_another_seed_is_another_division():
    presence = np.ones((40, 1), bool)
    assert divided(presence, (0.5, 0.5), seed=0) != divided(presence, (0.5, 0.5), seed=1)


def test_no_split_is_empty_while_there_are_groups_enough():
    groups = ["a"] * 40 + ["b"] * 30 + ["c"] * 2
    for seed in range(20):
        assert all(divided(np.ones((72, 1), bool), (0.8, 0.1, 0.1), groups=groups, seed=seed))


@pytest.mark.parametrize("sizes", [[5, 5, 5, 5], [17, 1, 1, 1]])
def test_groups_fill_the_shares_as_well_as_they_can(sizes):
    groups = [str(g) for g, size in enumerate(sizes) for _ in range(size)]
    parts = divided(np.ones((20, 1), bool), (0.75, 0.25), groups=groups)
    assert [len(part) for part in parts] == ([15, 5] if sizes[0] == 5 else [17, 3])
