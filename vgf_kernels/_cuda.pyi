"""The compiled CUDA engine. Raw device pointers and sizes; every check has been made by the caller (vgf_kernels.cuda).

All pointers are addresses of contiguous float32 arrays on the current device unless said otherwise; 0 is none. Every
function enqueues its work on the stream of its `Room`, waits for nothing and releases the GIL. With a Room of address 0 it
enqueues nothing and returns the bytes of workspace that it needs, which depend on the sizes and on the device.

Raises:
    RuntimeError: a call of the CUDA runtime failed; the message names it.
    ValueError: the network or the sizes are beyond what the engine takes, or the workspace is too small.
"""

from collections.abc import Sequence
from typing import TypeAlias

Dims: TypeAlias = tuple[int, int, int, int]  # B, N, O, A
Room: TypeAlias = tuple[int, int, int]  # workspace (256-byte aligned), its bytes, stream (cudaStream_t)

def driver_version() -> int:
    """The CUDA version of the driver, 1000 * major + 10 * minor; 0 without a driver."""

def devices() -> list[tuple[str, int, int]]:
    """Name and compute capability (major, minor) of every device; empty without a driver."""

class Network:
    """An MLP as the kernels see it."""

    def __init__(
        self,
        widths: Sequence[int],
        ensemble: int,
        activation: str,
        norm: str,
        norm_eps: float,
        observations: int,
        critic: bool,
        gradient: bool,
        precision: str,
    ) -> None:
        """critic: one output; else a velocity field. gradient: also pack what value_and_grad, direction and flow need.
        precision: "fp32", "tf32" or "bf16"."""

    @property
    def nbytes(self) -> int:
        """Device memory that the packed weights take."""

    def packed(
        self, weights: Sequence[tuple[int, int, int, int, int, int]], memory: int, stream: int
    ) -> Network:
        """This network with its weights packed into `memory` (16-byte aligned, nbytes) in stream order. weights:
        ensemble * depth tuples (W, stride_in, stride_out, b, scale, bias), as vgf_kernels._native.PackedMLP takes
        them, on the device."""

class FlowOptions:
    def __init__(
        self,
        num_steps: int,
        learning_rate: float,
        alpha: float,
        aggregate: str,
        kernel: str | None,
        bandwidth: str | float,
        bandwidth_grad: bool,
        optimizer: str,
        clip: tuple[float, float] | None,
    ) -> None: ...

# obs [B, O], actions and particles and noise [B, N, A]; the last pointers of each are outputs.

def value(critic: Network, obs: int, actions: int, q: int, dims: Dims, room: Room, /) -> int:
    """q [E, B, N]."""

def value_and_grad(
    critic: Network,
    obs: int,
    actions: int,
    q: int,
    dq: int,
    jacobian: int,
    aggregate: str,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """q [E, B, N], dq [B, N, A] and every critic's gradient, jacobian [E, B, N, A]; those that are 0 are left out."""

def direction(
    critic: Network, obs: int, particles: int, phi: int, options: FlowOptions, dims: Dims, room: Room, /
) -> int:
    """phi [B, N, A]."""

def flow(
    critic: Network,
    obs: int,
    particles: int,
    out: int,
    trajectory: bool,
    options: FlowOptions,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """out [B, N, A], or [L+1, B, N, A] with trajectory."""

def sample(
    policy: Network,
    obs: int,
    noise: int,
    out: int,
    num_steps: int,
    clip: tuple[float, float] | None,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """out [B, N, A]."""

def act(
    critic: Network,
    policy: Network,
    obs: int,
    noise: int,
    select_noise: int,
    out: int,
    euler_steps: int,
    options: FlowOptions,
    select: str,
    temperature: float,
    aggregate: str,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """out [B, A]. select_noise [B, N] uniform in (0, 1), or 0 for select="max"."""

def td_target(
    critic: Network,
    target_critic: Network,
    policy: Network,
    next_obs: int,
    noise: int,
    reward: int,
    mask: int,
    out: int,
    discount: float,
    euler_steps: int,
    options: FlowOptions,
    aggregate: str,
    reduce: str,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """reward, mask, out [B]."""

def update(
    particles: int,
    dq: int,
    first_moment: int,
    second_moment: int,
    out: int,
    step: int,
    options: FlowOptions,
    dims: Dims,
    room: Room,
    /,
) -> int:
    """One step (numbered from 1) of transport: out [B, N, A] from the caller's gradient dq; the moments,
    zero before the first step, are updated in place."""
