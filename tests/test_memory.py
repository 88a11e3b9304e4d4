import pytest
import torch

from segtrain.errors import TrainingError
from segtrain.memory import memory_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_the_end_of_memory_is_told_with_what_it_was_for_whoever_ran_out(error):
    with (
        pytest.raises(TrainingError, match=r"out of memory on cpu: a batch; .* GiB at most\. Take less\."),
        memory_for(lambda: "a batch", CPU, "Take less"),
    ):
        raise error


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), memory_for(lambda: "a batch", CPU, "Take less"):
        raise RuntimeError("shapes differ")
