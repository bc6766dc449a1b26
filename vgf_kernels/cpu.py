"""The CPU engine: addresses and sizes for the compiled module, and its packed copies of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from . import checks
from .config import FlowConfig, compiled_options
from .mlp import MLP

try:
    from . import _native

    _absent = None
except ImportError as error:
    _home = Path(__file__).parent
    _absent = f"the compiled module vgf_kernels._native cannot be imported from {_home}"
    if (_home.parent / "CMakeLists.txt").exists():
        _absent += ", the source tree; use the command vgf-kernels, or start Python in another folder"
    else:
        _absent += f" ({error}); reinstall the package"

DEVICE = "cpu"
DTYPES = ("float32",)
PRECISIONS = ("fp32", "bf16")


def missing() -> str | None:
    """Why the engine cannot run here."""
    return _absent


def detail() -> str:
    """The instruction set in use. Raises RuntimeError where VGF_CPU_ISA names one that cannot run."""
    return _native.isa()


class Engine:
    """The public functions on checked float32 CPU arrays of one frontend.

    Args:
        arrays: how the frontend makes and addresses its arrays; see vgf_kernels.numpy.arrays.
        precision: "fp32" or None; "bf16" multiplies in bfloat16 between hidden layers, and sums in float32.
    """

    def __init__(self, arrays: Any, precision: str | None) -> None:
        self._arrays = arrays
        self._precision = precision or "fp32"
        self._threads = arrays.threads()

    def value(self, critic, obs, actions):
        q = self._empty(critic.ensemble, *actions.shape[:2])
        obs, actions = self._in(obs, actions)
        packed = self._packed(critic, False)
        _native.value(packed, *self._at(obs, actions, q), _dims(obs, actions), self._threads)
        return q

    def value_and_grad(self, critic, obs, actions, aggregate):
        q, dq = self._empty(critic.ensemble, *actions.shape[:2]), self._empty(*actions.shape)
        obs, actions = self._in(obs, actions)
        packed = self._packed(critic, True)
        at = self._at(obs, actions, q, dq)
        _native.value_and_grad(packed, *at, aggregate, _dims(obs, actions), self._threads)
        return q, dq

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        q = self._empty(critic.ensemble, *actions.shape[:2])
        dq = self._empty(critic.ensemble, *actions.shape)
        obs, actions = self._in(obs, actions)
        packed = self._packed(critic, True)
        _native.jacobian(packed, *self._at(obs, actions, q, dq), _dims(obs, actions), self._threads)
        return q, dq

    def direction(self, critic, obs, particles, config):
        phi = self._empty(*particles.shape)
        obs, particles = self._in(obs, particles)
        packed = self._packed(critic, True)
        at = self._at(obs, particles, phi)
        _native.direction(packed, *at, _options(config), _dims(obs, particles), self._threads)
        return phi

    def flow(self, critic, obs, particles, config, trajectory):
        steps = (config.num_steps + 1,) if trajectory else ()
        out = self._empty(*steps, *particles.shape)
        obs, particles = self._in(obs, particles)
        packed = self._packed(critic, True)
        at = self._at(obs, particles, out)
        _native.flow(packed, *at, trajectory, _options(config), _dims(obs, particles), self._threads)
        return out

    def sample(self, policy, obs, noise, num_steps, clip):
        out = self._empty(*noise.shape)
        obs, noise = self._in(obs, noise)
        packed = self._packed(policy, False)
        at = self._at(obs, noise, out)
        _native.sample(packed, *at, num_steps, clip, _dims(obs, noise), self._threads)
        return out

    def act(
        self, critic, policy, obs, noise, euler_steps, config, select, aggregate, temperature, select_noise
    ):
        out = self._empty(noise.shape[0], noise.shape[2])
        obs, noise = self._in(obs, noise)
        picks = self._in(select_noise) if select != "max" else ()
        at_picks = self._at(*picks) or (0,)
        _native.act(
            self._packed(critic, config.num_steps > 0), self._packed(policy, False),
            *self._at(obs, noise), *at_picks, *self._at(out),
            euler_steps, _options(config), select, temperature, aggregate, _dims(obs, noise), self._threads,
        )  # fmt: skip
        return out

    def td_target(
        self,
        critic,
        target_critic,
        policy,
        next_obs,
        noise,
        reward,
        mask,
        discount,
        euler_steps,
        config,
        aggregate,
        reduce,
    ):
        out = self._empty(noise.shape[0])
        next_obs, noise, reward, mask = self._in(next_obs, noise, reward, mask)
        _native.td_target(
            self._packed(critic, config.num_steps > 0), self._packed(target_critic, False),
            self._packed(policy, False), *self._at(next_obs, noise, reward, mask, out),
            discount, euler_steps, _options(config), aggregate, reduce, _dims(next_obs, noise), self._threads,
        )  # fmt: skip
        return out

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1. The moments, contiguous, are updated in place."""
        out = self._empty(*particles.shape)
        particles, dq = self._in(particles, dq)
        at = self._at(particles, dq, first_moment, second_moment, out)
        _native.update(*at, step, _options(config), _dims(None, particles), self._threads)
        return out

    def _packed(self, mlp, gradient):
        return _packed(mlp, gradient, self._precision, self._threads)

    def _empty(self, *shape: int):
        return self._arrays.empty(shape)

    def _in(self, *arrays) -> tuple:
        """Contiguous versions; hold them for as long as their addresses are in use."""
        return tuple([self._arrays.contiguous(a) for a in arrays])

    def _at(self, *arrays) -> tuple[int, ...]:
        return tuple([self._arrays.address(a) for a in arrays])


def _dims(obs, particles) -> tuple[int, int, int, int]:
    """B, N, O, A; O is 0 where there are no observations."""
    b, n, a = particles.shape
    return b, n, 0 if obs is None else obs.shape[1], a


def _options(config: FlowConfig):
    return compiled_options(_native.FlowOptions, config)


# ---- packed weights


class _Packing(NamedTuple):
    """The engine's copy of an MLP's weights, and what tells whether it is still up to date."""

    copy: Any  # a PackedMLP
    gradient: bool
    version: tuple
    buffers: list[tuple[int, int]]  # (address, bytes) of the weights that were packed
    fingerprint: int

    def serves(self, mlp: MLP, gradient: bool, version: tuple, threads: int) -> bool:
        """Whether the copy is up to date and holds what is needed."""
        if gradient and not self.gradient:
            return False
        if mlp.frozen:
            return True
        return version == self.version and _native.fingerprint(self.buffers, threads) == self.fingerprint


def _packed(mlp: MLP, gradient: bool, precision: str, threads: int):
    """The packed copy in this precision, renewed if the weights have changed or it lacks what the gradient needs.

    The version alone does not tell: torch does not count `p.data.copy_()`, the usual Polyak update, as a
    write. So unless the MLP is frozen, the bytes of its weights are compared too. A packing never changes; a
    new one replaces it in one assignment, and a thread still running on the old one keeps it alive.
    """
    key = f"cpu {precision}"
    old: _Packing | None = mlp.packed.get(key)
    tensors = mlp.tensors()  # held here, so that the addresses below stay valid
    version = mlp.version()
    if old is not None and old.serves(mlp, gradient, version, threads):
        return old.copy
    members = mlp.members
    checks.check_weights(members, "cpu", DTYPES)
    gradient = gradient or (old is not None and old.gradient)
    buffers = [_extent(t) for t in tensors]
    fingerprint = _native.fingerprint(buffers, threads)  # before packing: a later write then shows next time
    copy = _pack(mlp, members, gradient, precision, threads)
    mlp.packed[key] = _Packing(copy, gradient, version, buffers, fingerprint)
    return copy


def _pack(mlp: MLP, members, gradient: bool, precision: str, threads: int):
    held = []  # contiguous vectors, alive until they are packed

    def vector(array) -> int:
        if array is None:
            return 0
        held.append(array.contiguous() if hasattr(array, "contiguous") else array)
        return _address(held[-1])

    weights = []
    for layer in (layer for member in members for layer in member):
        stride_in, stride_out = _strides(layer.W)
        weights.append((
            _address(layer.W), stride_in, stride_out, vector(layer.b), vector(layer.scale), vector(layer.bias)
        ))  # fmt: skip
    return _native.PackedMLP(
        mlp.widths,
        len(members),
        mlp.activation,
        mlp.norm,
        mlp.norm_eps,
        weights,
        gradient,
        threads,
        precision,
    )


def _address(array) -> int:
    if not hasattr(array, "data_ptr"):
        return array.ctypes.data
    from .torch.arrays import address

    return address(array)


def _strides(array) -> tuple[int, ...]:
    """Strides in elements."""
    return array.stride() if hasattr(array, "stride") else tuple(s // array.itemsize for s in array.strides)


def _extent(tensor) -> tuple[int, int]:
    """Address and number of bytes of the memory a tensor spans."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return _address(tensor), (last + 1) * tensor.element_size()
