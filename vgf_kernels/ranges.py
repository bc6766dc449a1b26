"""NVTX ranges in domain "vgf": Nsight Systems shows every call. No-ops without package nvtx or a tool."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

try:
    import nvtx
except ImportError:
    nvtx = None

_domain: Any = None if nvtx is None else nvtx.get_domain("vgf")
_built = threading.local()  # attributes carry the payload, so every thread has its own


@contextlib.contextmanager
def span(name: str, rows: int) -> Iterator[None]:
    """A range called `name` with the number of rows (B * N) as its payload."""
    attributes = _attributes(name)
    if attributes is None:
        yield
        return
    attributes.payload = rows
    _domain.push_range(attributes)
    try:
        yield
    finally:
        _domain.pop_range()


def _attributes(name: str) -> Any:
    """The thread's prebuilt attributes of a range; None where nobody listens."""
    if _domain is None:
        return None
    attributes = getattr(_built, name, None)
    if attributes is None:
        attributes = _domain.get_event_attributes(name)
        setattr(_built, name, attributes)
    return attributes
