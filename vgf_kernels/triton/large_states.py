"""The interaction of states with more particles than a tile: a few launches a step, no array of N x N."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import FlowConfig
from . import plan
from .large_counts import large_counts
from .large_next import large_next
from .large_rows import large_rows
from .large_step import large_step
from .launch import Options, launch
from .median import ABSENT, DIGITS

BLOCK = 64  # particles of a program
OPTIONS = Options(num_warps=8, num_stages=1)


class LargeStates:
    """Launches for particles [B, N, A] of one config, with the memory that they share.

    Median of the squared distances: four launches for the lower of the two middle ones, one more for the upper
    where N is even; one more for its gradient; one for the direction and the update.
    """

    def __init__(self, particles: Tensor, config: FlowConfig) -> None:
        self._config = config
        self._device = particles.device
        self._sizes = B, N, _ = particles.shape
        self._grid = (B * -(-N // BLOCK), 1)
        self._counts = self._following = self._equals = self._spread = particles  # stand-ins where not used
        if config.bandwidth == "median":
            self._counts = torch.empty((DIGITS.value, B, 256), dtype=torch.int64, device=self._device)
            self._following = torch.empty(B, dtype=torch.int32, device=self._device)
        if config.bandwidth_grad:
            self._equals = torch.empty((2, B, N), dtype=torch.int32, device=self._device)
            self._spread = torch.empty((B, N), dtype=torch.float32, device=self._device)

    def direction(self, particles: Tensor, dq: Tensor) -> Tensor:
        """phi [B, N, A]."""
        return self._run(particles, dq, particles, particles, 1, update=False)

    def step(self, particles: Tensor, dq: Tensor, first: Tensor, second: Tensor, number: int) -> Tensor:
        """The particles moved by the step of this number, from 1; the moments are updated in place."""
        return self._run(particles, dq, first, second, number, update=True)

    def _run(self, particles, dq, first, second, number: int, update: bool) -> Tensor:
        config = self._config
        if config.bandwidth == "median":
            self._find_median(particles)
        out = torch.empty_like(particles)
        launch(
            large_step, self._grid, self._device, OPTIONS,
            (
                particles, dq, first, second, out, self._counts, self._following, self._equals, self._spread,
                *self._sizes, *plan.rate_alpha_sigma(config), *plan.bounds(config.clip),
                *plan.corrections(number),
            ),
            (
                config.bandwidth == "median", config.bandwidth_grad, update, config.optimizer,
                config.clip is not None, BLOCK,
            ),
        )  # fmt: skip
        return out

    def _find_median(self, particles: Tensor) -> None:
        def run(kernel, *arguments):
            launch(kernel, self._grid, self._device, OPTIONS, (particles, *arguments, *self._sizes), (BLOCK,))

        self._counts.zero_()
        self._following.fill_(ABSENT.value)
        for digit in range(DIGITS.value):
            run(large_counts, self._counts, self._following, digit)
        if self._sizes[1] % 2 == 0:
            run(large_next, self._counts, self._following)
        if self._config.bandwidth_grad:
            run(large_rows, self._counts, self._following, self._equals, self._spread)
