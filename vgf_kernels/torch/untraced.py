"""What torch.compile must leave alone, although it reaches it below a frame that it skips, or in which its graph broke.

There it would compile each function by itself, and free an array as soon as nothing but its address is in use.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


def untraced(function: Callable) -> Callable:
    """The function, run as it is. Until somebody compiles, torch's compiler, which takes seconds to import, is not."""
    disabled: list[Callable] = []

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args)
        if not disabled:
            import torch

            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args)

    return run
