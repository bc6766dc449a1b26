"""The CUDA engine: torch memory and streams for the compiled module, and its packed copies of the weights."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from . import checks
from .config import FlowConfig, compiled_options
from .mlp import MLP

_absent: str | None = None
try:
    from . import _cuda
except ImportError as error:
    if importlib.util.find_spec("vgf_kernels._cuda") is None:
        _absent = "the package was built without a CUDA compiler; reinstall where nvcc is"
    else:
        _absent = f"the compiled module vgf_kernels._cuda cannot be imported: {error}"

DEVICE = "cuda"
DTYPES = ("float32",)
PRECISIONS = ("fp32", "tf32", "bf16")
OLDEST = (8, 0)  # compute capability
DEFAULT_STREAM = 0


def missing() -> str | None:
    """Why the engine cannot run here."""
    if _absent is not None:
        return _absent
    try:
        return _without_device(_cuda)
    except RuntimeError as error:  # which may pass, so it is asked again
        driver = _cuda.driver_version()
        return f"{error} (the driver is for CUDA {driver // 1000}.{driver % 1000 // 10})"


@functools.cache  # asking for the devices' properties at every call would cost more than the call
def _without_device(module: Any) -> str | None:
    if not module.driver_version():
        return "no CUDA driver was found; install one, or give this container a GPU"
    devices = module.devices()
    if not devices:
        return "the CUDA driver shows no device; look at nvidia-smi and at CUDA_VISIBLE_DEVICES"
    if all((major, minor) < OLDEST for _, major, minor in devices):
        return f"it needs a GPU of compute capability 8.0 or newer, found {detail()}; use another engine"
    return None


def detail() -> str:
    """The devices and their compute capabilities."""
    return ", ".join(f"{name} ({major}.{minor})" for name, major, minor in _cuda.devices())


class Engine:
    """The public functions on checked float32 torch tensors on a GPU, on their device's current stream.

    Nothing waits for the device, and memory comes from torch's allocator, so calls may be captured in CUDA graphs.

    Args:
        arrays: unused; the torch frontend is the only one.
        precision: "fp32" (products of three tf32 ones), "tf32" or "bf16"; None follows
            torch.set_float32_matmul_precision. Sums, norms, kernel and update are float32.
    """

    def __init__(self, arrays: Any, precision: str | None) -> None:
        from .torch.precision import matmul_precision

        self._precision = precision or matmul_precision()

    def value(self, critic, obs, actions):
        q = _empty(actions, critic.ensemble, *actions.shape[:2])
        with _Call(obs, actions) as call:
            call.run("value", self._critic(critic, call), *call.at(obs, actions, q))
        return q

    def value_and_grad(self, critic, obs, actions, aggregate):
        q, dq = _empty(actions, critic.ensemble, *actions.shape[:2]), _empty(actions, *actions.shape)
        with _Call(obs, actions) as call:
            packed = self._critic(critic, call, gradient=True)
            call.run("value_and_grad", packed, *call.at(obs, actions, q, dq, None), aggregate)
        return q, dq

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        q = _empty(actions, critic.ensemble, *actions.shape[:2])
        dq = _empty(actions, critic.ensemble, *actions.shape)
        with _Call(obs, actions) as call:
            packed = self._critic(critic, call, gradient=True)
            call.run("value_and_grad", packed, *call.at(obs, actions, q, None, dq), "mean")
        return q, dq

    def direction(self, critic, obs, particles, config):
        phi = _empty(particles, *particles.shape)
        with _Call(obs, particles) as call:
            packed = self._critic(critic, call, gradient=True)
            call.run("direction", packed, *call.at(obs, particles, phi), _options(config))
        return phi

    def flow(self, critic, obs, particles, config, trajectory):
        steps = (config.num_steps + 1,) if trajectory else ()
        out = _empty(particles, *steps, *particles.shape)
        with _Call(obs, particles) as call:
            packed = self._critic(critic, call, gradient=True)
            call.run("flow", packed, *call.at(obs, particles, out), trajectory, _options(config))
        return out

    def sample(self, policy, obs, noise, num_steps, clip):
        out = _empty(noise, *noise.shape)
        with _Call(obs, noise) as call:
            call.run("sample", self._policy(policy, call), *call.at(obs, noise, out), num_steps, clip)
        return out

    def act(
        self, critic, policy, obs, noise, euler_steps, config, select, aggregate, temperature, select_noise
    ):
        out = _empty(noise, noise.shape[0], noise.shape[2])
        with _Call(obs, noise) as call:
            call.run(
                "act", self._critic(critic, call, gradient=config.num_steps > 0), self._policy(policy, call),
                *call.at(obs, noise, select_noise if select != "max" else None, out),
                int(euler_steps), _options(config), select, temperature, aggregate,
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
        out = _empty(noise, noise.shape[0])
        with _Call(next_obs, noise) as call:
            call.run(
                "td_target", self._critic(critic, call, gradient=config.num_steps > 0),
                self._critic(target_critic, call), self._policy(policy, call),
                *call.at(next_obs, noise, reward, mask, out),
                discount, int(euler_steps), _options(config), aggregate, reduce,
            )  # fmt: skip
        return out

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1. The moments, contiguous, are updated in place."""
        out = _empty(particles, *particles.shape)
        with _Call(None, particles) as call:
            at = call.at(particles, dq, first_moment, second_moment, out)
            call.run("update", *at, int(step), _options(config))
        return out

    def _critic(self, mlp: MLP, call: _Call, gradient: bool = False):
        return call.packed(mlp, "critic", gradient, self._precision)

    def _policy(self, mlp: MLP, call: _Call):
        return call.packed(mlp, "policy", False, self._precision)


class _Call:
    """One call of the compiled module: its device and stream, its sizes, and what must live until it is enqueued."""

    def __init__(self, obs, particles) -> None:
        b, n, a = particles.shape
        self._sizes = (b, n, 0 if obs is None else obs.shape[1], a)
        self._like = particles
        self._held: list = []

    def __enter__(self) -> _Call:
        self._guard, self._stream = _place(self._like.device)
        self._guard.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._guard.__exit__(*error)

    def at(self, *tensors) -> tuple[int, ...]:
        """The addresses of contiguous versions; 0 for None."""
        from .torch.arrays import contiguous

        return tuple([0 if t is None else self._address(contiguous(t.detach())) for t in tensors])

    def run(self, function: str, *args) -> None:
        """Ask for the size of the workspace, then enqueue the work."""
        enqueue = getattr(_cuda, function)
        size = enqueue(*args, self._sizes, (0, 0, 0))
        memory = self._hold(self._bytes(size))
        enqueue(*args, self._sizes, (memory.data_ptr(), size, self._stream))

    def packed(self, mlp: MLP, role: str, gradient: bool, precision: str):
        """The network with its weights packed in stream order: anew at every call, but once for a frozen MLP."""
        observations = self._sizes[2]
        key = f"cuda {precision} {role} {observations} {gradient} {self._like.device}"
        kept = mlp.packed.get(key) if mlp.frozen else None
        if kept is None:
            network = _cuda.Network(
                mlp.widths, mlp.ensemble, mlp.activation, mlp.norm, mlp.norm_eps,
                observations, role == "critic", gradient, precision,
            )  # fmt: skip
            keeps = mlp.frozen and not _capturing()
            memory = self._kept_bytes(network.nbytes) if keeps else self._bytes(network.nbytes)
            kept = network.packed(self._weights(mlp), memory.data_ptr(), self._stream), memory
            if keeps:
                _finish(self._like.device)  # once, so that other streams may use it too
                kept = mlp.packed.setdefault(key, kept)  # another thread's, where it was first and a graph may have it
        network, memory = kept
        if mlp.frozen and self._stream != DEFAULT_STREAM:
            _record(memory)
        self._hold(memory)
        return network

    def _weights(self, mlp: MLP) -> list[tuple[int, int, int, int, int, int]]:
        return [
            self._layer(f"weights: member {e}, layer {i}", layer)
            for e, member in enumerate(mlp.members)
            for i, layer in enumerate(member)
        ]

    def _layer(self, where: str, layer) -> tuple[int, int, int, int, int, int]:
        tensors = [
            None if a is None else self._weight(f"{where}, {name}", a) for name, a in layer._asdict().items()
        ]
        matrix, *vectors = tensors
        return (self._address(matrix), *matrix.stride(), *self.at(*vectors))

    def _weight(self, where: str, array):
        """A weight as a tensor on the call's device. Arrays of a snapshot are copied there; tensors must be there."""
        import torch

        checks.check_weight_on_gpu(where, array, "cuda", self._like.device)
        if not isinstance(array, torch.Tensor):
            if _capturing():
                raise RuntimeError(
                    f"{where}: it lies on the host, and cannot be copied to the GPU while a CUDA graph is captured; call the "
                    "function once before capturing it"
                )
            return torch.tensor(array, device=self._like.device)
        return array.detach()

    def _bytes(self, count: int):
        import torch

        return torch.empty(count, dtype=torch.uint8, device=self._like.device)

    def _kept_bytes(self, count: int):
        from .torch.arrays import outlasting

        return outlasting(lambda: self._bytes(count), self._like.device)

    def _address(self, tensor) -> int:
        """Where a tensor is that is kept until the work is enqueued."""
        from .torch.arrays import address

        return address(self._hold(tensor))

    def _hold(self, tensor):
        self._held.append(tensor)
        return tensor


def _empty(like, *shape: int):
    return like.new_empty(shape)


def _place(device) -> tuple[Any, int]:
    """What makes the device current, and the handle of its current stream."""
    import torch

    return torch.cuda.device(device), torch.cuda.current_stream(device).cuda_stream


def _capturing() -> bool:
    """Whether the current stream of the current device is captured into a CUDA graph."""
    import torch

    return torch.cuda.is_current_stream_capturing()


def _finish(device) -> None:
    import torch

    torch.cuda.current_stream(device).synchronize()


def _record(memory) -> None:
    """Keep memory of another stream from being reused before the current stream's work is done."""
    import torch

    memory.record_stream(torch.cuda.current_stream(memory.device))


def _options(config: FlowConfig):
    return compiled_options(_cuda.FlowOptions, config)
