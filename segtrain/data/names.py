"""Names for the copies of samples: as like the old ones as can be, and safe to be written anywhere."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from pathlib import PurePosixPath

from segtrain.data.dataset import Dataset

_UNSAFE = re.compile(r"[^\w+=@, .-]")


def safe_names(dataset: Dataset, *, limit: int = 200) -> list[str]:
    """A different name for each sample: its path without the folders that all share and without its extension.

    Names never begin with a slash or a dot and never climb out of a folder, whatever the samples are called.
    """
    paths = [PurePosixPath(posixpath.normpath("/" + dataset.path(i))) for i in range(len(dataset))]
    shared = posixpath.commonpath([path.parent for path in paths])
    names, used = list[str](), Counter[str]()
    for path in paths:
        name = _safe(path.relative_to(shared).with_suffix(""), limit)
        used[name.lower()] += 1
        names.append(f"{name}~{used[name.lower()]}" if used[name.lower()] > 1 else name)
    return names


def _safe(path: PurePosixPath, limit: int) -> str:
    name = "/".join(_UNSAFE.sub("_", part).lstrip(". ") or "_" for part in path.parts)
    if len(name.encode()) <= limit:
        return name
    return f"{name[-limit // 4 :].replace('/', '_')}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
