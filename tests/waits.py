"""What would make a GPU wait, seen on a CPU."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from segtrain.selection import largest


class NoHostSync(TorchDispatchMode):
    """Refuses what would make a GPU step wait for the device; what may be asked on a CPU is not asked in it."""

    def __enter__(self):
        self.free, largest._FREE = largest._FREE, ()
        return super().__enter__()

    def __exit__(self, *exception):
        largest._FREE = self.free
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts by name what brings the numbers of a tensor to Python."""

    NAMES = ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))
