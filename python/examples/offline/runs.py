"""What one seed's run leaves behind for the report and the figure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

EVALUATED_STEPS = (1, 2, 3, 5, 8)  # the transport budgets compared with best-of-N


@dataclass
class Run:
    """The records of one seed. Returns are means over episodes."""

    seed: int
    behaviour: float = 0.0
    returns: dict[int, float] = field(default_factory=dict)  # num_steps -> return; 0 is best-of-N
    losses: list[tuple[float, float]] = field(default_factory=list)  # per update: critic, flow matching
    checkpoints: dict[int, tuple[float, float]] = field(default_factory=dict)  # update -> best-of-N, full budget
    data_actions: np.ndarray | None = None  # [M, A]
    chosen_actions: dict[int, np.ndarray] = field(default_factory=dict)  # num_steps -> [M, A], the same states
    update_seconds: float = 0.0
    target_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)  # phase -> seconds
