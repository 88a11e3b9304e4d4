"""Large pages: new memory costs a fault for every 4 KiB when it is first written, a sixth of a mined loss."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor

_SIZE = 1 << 21
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # of Linux
_LIBC = None if _ADVICE is None else ctypes.CDLL(None)


def ask_for_large_pages(tensor: Tensor) -> None:
    """Ask Linux for pages of 2 MiB for a new tensor on a CPU; without them, or where it is smaller, nothing changes."""
    first = -(-tensor.data_ptr() // _SIZE) * _SIZE
    size = (tensor.data_ptr() + tensor.nbytes - first) // _SIZE * _SIZE
    if _LIBC is not None and size > 0:
        _LIBC.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _ADVICE)
