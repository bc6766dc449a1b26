"""XLA FFI handlers of the CUDA engine: as those of _xla. Built where both nvcc and jaxlib's headers were found."""

from ._xla import api_version as api_version
from ._xla import handlers as handlers
from ._xla import packed_bytes as packed_bytes

def most_in_a_launch(precision: str) -> int:
    """The most interacting particles of a state whose flow counts its steps on the device; of larger states `flow`,
    `act` and `td_target` raise, unless there are no steps or a trajectory tells how many."""
