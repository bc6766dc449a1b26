"""The public functions on Triton kernels: packed weights, scratch memory, and one launch for each function."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from .. import __version__
from ..config import FlowConfig
from ..mlp import MLP
from ..torch.arrays import address, contiguous
from . import plan, tuning
from .act import act
from .direction import direction
from .flow import flow
from .large_states import LargeStates
from .launch import launch, timer
from .packed import PackedMLP, up_to_date
from .sample import sample
from .shape import ALIGNED, scratch_sizes
from .td_target import td_target
from .update import update
from .value import value
from .value_and_grad import value_and_grad

VERSIONS = f"vgf-kernels {__version__}, Triton {triton.__version__}"


class TritonEngine:
    """The functions on checked float32 tensors of one device, for one call. Only tuning waits for the GPU.

    Args:
        precision: "fp32", "tf32" or "bf16", of the products; sums, norms, the kernel and Adam are float32.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._packed: dict[tuple, PackedMLP] = {}  # an engine serves one call, which packs a network once

    def value(self, critic: MLP, obs: Tensor, actions: Tensor) -> Tensor:
        q = _empty(actions, critic.ensemble, *actions.shape[:2])
        self._run(value, critic, obs, actions, (q,))
        return q

    def value_and_grad(
        self, critic: MLP, obs: Tensor, actions: Tensor, aggregate: str
    ) -> tuple[Tensor, Tensor]:
        q, dq = _empty(actions, critic.ensemble, *actions.shape[:2]), _empty(actions, *actions.shape)
        self._run(value_and_grad, critic, obs, actions, (q, dq), constants=(aggregate,), taped=True)
        return q, dq

    def jacobian(self, critic: MLP, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        q = _empty(actions, critic.ensemble, *actions.shape[:2])
        dq = _empty(actions, critic.ensemble, *actions.shape)
        self._run(value_and_grad, critic, obs, actions, (q, dq), constants=("each",), taped=True)
        return q, dq

    def direction(self, critic: MLP, obs: Tensor, particles: Tensor, config: FlowConfig) -> Tensor:
        if plan.is_large(config, particles.shape[1]):
            particles = _plain(particles)
            _, dq = self.value_and_grad(critic, obs, particles, config.aggregate)
            return LargeStates(particles, config).direction(particles, dq)
        phi = _empty(particles, *particles.shape)
        self._run(
            direction, critic, obs, particles, (phi,),
            numbers=plan.rate_alpha_sigma(config)[1:], config=config, constants=(config.aggregate,), taped=True,
        )  # fmt: skip
        return phi

    def flow(
        self, critic: MLP, obs: Tensor, particles: Tensor, config: FlowConfig, trajectory: bool
    ) -> Tensor:
        if plan.is_large(config, particles.shape[1]):
            return self._flow_of_large_states(critic, obs, particles, config, trajectory)
        steps = (config.num_steps + 1,) if trajectory else ()
        out = _empty(particles, *steps, *particles.shape)
        self._run(
            flow, critic, obs, particles, (out,),
            numbers=(
                config.num_steps, *plan.rate_alpha_sigma(config), *plan.bounds(config.clip),
            ),
            config=config,
            constants=(config.aggregate, config.optimizer, config.clip is not None, trajectory),
            taped=True,
        )  # fmt: skip
        return out

    def _flow_of_large_states(self, critic, obs, particles, config, trajectory) -> Tensor:
        """A few launches a step, for states with more particles than a tile."""
        path = [_plain(particles.detach()).clone()]
        first_moment, second_moment = torch.zeros_like(path[0]), torch.zeros_like(path[0])
        states = LargeStates(particles, config)
        for step in range(1, config.num_steps + 1):
            _, dq = self.value_and_grad(critic, obs, path[-1], config.aggregate)
            moved = states.step(path[-1], dq, first_moment, second_moment, step)
            path = [*path, moved] if trajectory else [moved]
        return torch.stack(path) if trajectory else path[-1]

    def sample(self, policy: MLP, obs: Tensor, noise: Tensor, num_steps: int, clip) -> Tensor:
        out = _empty(noise, *noise.shape)
        self._run(
            sample, policy, obs, noise, (out,),
            numbers=(int(num_steps), *plan.bounds(clip)), constants=(clip is not None,), timed=True,
        )  # fmt: skip
        return out

    def act(
        self, critic, policy, obs, noise, euler_steps, config, select, aggregate, temperature, select_noise
    ) -> Tensor:
        particles = self.sample(policy, obs, noise, euler_steps, config.clip)
        particles = self.flow(critic, obs, particles, config, False)
        out = _empty(noise, noise.shape[0], noise.shape[2])
        picks = particles if select == "max" else _plain(select_noise)
        self._run(
            act, critic, obs, particles, (picks, out),
            numbers=(float(temperature),), constants=(aggregate, select),
        )  # fmt: skip
        return out

    def td_target(
        self, critic, target_critic, policy, next_obs, noise, reward, mask, discount, euler_steps, config,
        aggregate, reduce,
    ) -> Tensor:  # fmt: skip
        particles = self.sample(policy, next_obs, noise, euler_steps, config.clip)
        particles = self.flow(critic, next_obs, particles, config, False)
        out = _empty(noise, noise.shape[0])
        arrays = (_plain(reward), _plain(mask), out)
        self._run(
            td_target, target_critic, next_obs, particles, arrays,
            numbers=(float(discount),), constants=(aggregate, reduce),
        )  # fmt: skip
        return out

    def update(
        self, particles: Tensor, dq: Tensor, first_moment: Tensor, second_moment: Tensor, step: int,
        config: FlowConfig,
    ) -> Tensor:  # fmt: skip
        """One step of transport, numbered from 1. The moments, contiguous, are updated in place."""
        B, N, A = particles.shape
        if plan.is_large(config, N):
            states = LargeStates(particles, config)
            return states.step(_plain(particles), _plain(dq), first_moment, second_moment, step)
        out, phi = _empty(particles, B, N, A), _empty(particles, B, N, A)
        states, options = plan.update_plan(N)
        interaction = plan.interaction_of(config, N, states * N)
        launch(
            update, (-(-B // states), 1), particles.device, options,
            (
                _plain(particles), _plain(dq), first_moment, second_moment, phi, out, B, N, A,
                *plan.rate_alpha_sigma(config), *plan.bounds(config.clip),
                *plan.corrections(step),
            ),
            (interaction, config.optimizer, config.clip is not None, states, 512),
        )  # fmt: skip
        return out

    def _run(
        self, kernel: Any, mlp: MLP, obs: Tensor, actions: Tensor, arrays: tuple, *,
        numbers: tuple = (), config: FlowConfig | None = None, constants: tuple = (),
        taped: bool = False, timed: bool = False,
    ) -> None:  # fmt: skip
        """Launch one of the kernels over a network: they share their leading arguments."""
        device = actions.device
        B, N, A = actions.shape
        gpu = _gpu(device)
        products = plan.products_of(self._precision, gpu)
        packed = self._packed.get((id(mlp), timed))
        if packed is None:
            packed = self._packed[id(mlp), timed] = up_to_date(mlp, A, timed, self._precision, products, device)
        obs, actions = _plain(obs), _plain(actions)
        ensemble = () if timed else (packed.ensemble,)

        def run(chosen: plan.Config) -> None:
            shape = plan.shape_of(packed, products, chosen, N)
            programs = min(plan.tiles(B, N, chosen.rows), gpu.processors)
            small_size, large_size = scratch_sizes(shape, packed.ensemble, packed.depth, taped)
            interaction = () if config is None else (plan.interaction_of(config, N, chosen.rows),)
            launch(
                kernel, (programs, 1), device, chosen.options,
                (
                    *packed.arrays,
                    torch.empty(programs * small_size * ALIGNED, dtype=torch.float32, device=device),
                    torch.empty(programs * large_size * ALIGNED, dtype=packed.arrays[0].dtype, device=device),
                    obs, actions, *arrays,
                    small_size, large_size, *packed.sizes, *ensemble, B, N, obs.shape[1], A, *numbers,
                ),
                (shape, *interaction, *constants),
            )  # fmt: skip

        size = 1 << (B - 1).bit_length()  # batches of a like size share a choice
        key = (
            kernel.__name__,
            *constants,
            config and (config.kernel, config.bandwidth == "median", config.bandwidth_grad),
            packed.description,
            self._precision,
            size,
            N,
            gpu,
            VERSIONS,
        )
        chosen = tuning.chosen.get(key)
        if chosen is None:
            candidates = plan.candidates(packed.width, self._precision, B, N, gpu)
            chosen = tuning.choose(key, candidates, timer(device, run))
        run(chosen)


def _plain(tensor: Tensor) -> Tensor:
    """As a kernel reads it; an error for what has no memory of its own."""
    tensor = contiguous(tensor)
    address(tensor)
    return tensor


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


@functools.cache
def _gpu(device: torch.device) -> plan.Gpu:
    if device.type == "cpu":  # under Triton's interpreter; a few processors, so that programs take several tiles
        return plan.Gpu("interpreter", 2, 0, True)
    properties = torch.cuda.get_device_properties(device)
    name, processors = properties.name, properties.multi_processor_count
    if torch.version.hip:
        return plan.Gpu(name, processors, 0, properties.gcnArchName.startswith("gfx942"))
    if properties.major < 8:
        raise ValueError(f"expected arrays on a GPU of compute capability 8.0 or newer, got {device}, {name}; move them")
    return plan.Gpu(name, processors, 10 * properties.major + properties.minor, True)
