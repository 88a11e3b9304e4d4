"""What a check of `segtrain doctor` gives."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "note", "problem"]
OK: State = "ok"
NOTE: State = "note"  # works, but could be better, or may be meant
PROBLEM: State = "problem"


class Finding(NamedTuple):
    """What was seen, and what to do about it unless it is well."""

    state: State
    what: str
    seen: str
    remedy: str = ""
