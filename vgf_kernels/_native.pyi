"""The compiled CPU engine. Raw pointers and sizes; every check has been made by the caller (vgf_kernels.cpu).

All pointers are addresses of contiguous float32 arrays unless said otherwise. Every function releases the GIL.
`threads` >= 1 is the largest number of threads to use; results do not depend on it.
"""

from collections.abc import Sequence
from typing import TypeAlias

Dims: TypeAlias = tuple[int, int, int, int]  # B, N, O, A

def isa() -> str:
    """The instruction set in use: "avx512amx", "avx512bf16", "avx512", "avx2", "neon" or "scalar". Raises RuntimeError if
    VGF_CPU_ISA names an unknown or unsupported one."""

def supported_isas() -> list[str]:
    """The instruction sets this machine and build can run, fastest first."""

def fingerprint(buffers: Sequence[tuple[int, int]], threads: int, /) -> int:
    """A 64-bit fingerprint of the bytes of (pointer, byte count) buffers; any changed byte changes it."""

class PackedMLP:
    """An immutable copy of an MLP's weights in the engine's own layout."""

    def __init__(
        self,
        widths: Sequence[int],
        ensemble: int,
        activation: str,
        norm: str,
        norm_eps: float,
        weights: Sequence[tuple[int, int, int, int, int, int]],
        gradient: bool,
        threads: int,
        precision: str,
    ) -> None:
        """weights: E * depth tuples (W, stride_in, stride_out, b, scale, bias), member-major: W's element
        strides along in and out (so torch's [out, in] needs no copy), then pointers to [out] vectors; 0 means
        zeros for b and bias, ones for scale. gradient: also pack what value_and_grad and flow need.
        precision "bf16": products between hidden layers in bfloat16, sums and everything else in float32."""

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

def value(
    critic: PackedMLP, obs: int, actions: int, q: int, dims: Dims, threads: int, /
) -> None:
    """q [E, B, N]."""

def value_and_grad(
    critic: PackedMLP,
    obs: int,
    actions: int,
    q: int,
    dq: int,
    aggregate: str,
    dims: Dims,
    threads: int,
    /,
) -> None:
    """q [E, B, N], dq [B, N, A]. critic must have been packed with gradient=True."""

def jacobian(
    critic: PackedMLP,
    obs: int,
    actions: int,
    q: int,
    dq: int,
    dims: Dims,
    threads: int,
    /,
) -> None:
    """q [E, B, N], the gradient of every critic dq [E, B, N, A]. critic must have been packed with gradient=True."""

def direction(
    critic: PackedMLP,
    obs: int,
    particles: int,
    phi: int,
    options: FlowOptions,
    dims: Dims,
    threads: int,
    /,
) -> None:
    """phi [B, N, A]."""

def flow(
    critic: PackedMLP,
    obs: int,
    particles: int,
    out: int,
    trajectory: bool,
    options: FlowOptions,
    dims: Dims,
    threads: int,
    /,
) -> None:
    """out [B, N, A], or [L+1, B, N, A] with trajectory; may be the same memory as particles without it."""

def sample(
    policy: PackedMLP,
    obs: int,
    noise: int,
    out: int,
    num_steps: int,
    clip: tuple[float, float] | None,
    dims: Dims,
    threads: int,
    /,
) -> None:
    """out [B, N, A]."""

def act(
    critic: PackedMLP,
    policy: PackedMLP,
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
    threads: int,
    /,
) -> None:
    """out [B, A]. select_noise [B, N] uniform in (0, 1), or 0 for select="max"."""

def td_target(
    critic: PackedMLP,
    target_critic: PackedMLP,
    policy: PackedMLP,
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
    threads: int,
    /,
) -> None:
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
    threads: int,
    /,
) -> None:
    """One step (numbered from 1) of transport: out [B, N, A] from the caller's gradient dq; the moments,
    zero before the first step, are updated in place. out may be the same memory as particles."""
