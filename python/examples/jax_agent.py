"""A flax agent that trains with Value Gradient Flow: the official algorithm, in plain JAX and on this library.

Both start from the same parameters and see the same data and keys. Prints the time of an update and of an action
for each, and how far their parameters are apart in the end.

    python jax_agent.py                         the official sizes: 2 critics and a policy of 4 x 512, 256 states
    python jax_agent.py --amortized             the variant that learns the action gradient
    python jax_agent.py --precision bf16        targets in bfloat16
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax_agent import fused, plain
from flax_agent.learner import Batch, Settings, State, create, update

OBS, ACTIONS, BATCH = 29, 8, 256


def make_batch(rng: np.random.Generator) -> Batch:
    """Transitions of no environment: the time does not depend on them."""
    obs, next_obs = rng.standard_normal((2, BATCH, OBS), np.float32)
    actions = np.tanh(rng.standard_normal((BATCH, ACTIONS), np.float32))
    reward, mask = rng.standard_normal(BATCH, np.float32), rng.random(BATCH, np.float32) < 0.95
    return Batch(obs, actions, reward, mask.astype(np.float32), next_obs)


def train(start: State, batches: list[Batch], settings: Settings, implementation) -> State:
    """All updates; prints the median time of one. Compiling is not counted."""
    step = jax.jit(partial(update, settings=settings, implementation=implementation))
    jax.block_until_ready(step(start, batches[0]))
    state, seconds = start, []
    for batch in batches:
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - begin)
    print(f"{implementation.__name__}: {1e3 * statistics.median(seconds):.1f} ms an update")
    return state


def play(networks: dict, settings: Settings, implementation, count: int = 100) -> None:
    """Actions for single observations, as an environment would ask for them; prints the median time of one."""
    choose = jax.jit(partial(implementation.act, settings=settings))
    noise = jax.random.normal(jax.random.PRNGKey(1), (1, settings.particles, ACTIONS))
    observations, seconds = np.random.default_rng(1).standard_normal((count, 1, OBS), np.float32), []
    for obs in observations:
        begin = time.perf_counter()
        jax.block_until_ready(choose(networks, obs=obs, noise=noise))
        seconds.append(time.perf_counter() - begin)
    print(f"{implementation.__name__}: {1e3 * statistics.median(seconds[1:]):.2f} ms an action")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=20, help="how many, of each agent")
    parser.add_argument("--amortized", action="store_true", help="move particles along a learned score")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the library")
    arguments = parser.parse_args()
    if arguments.updates < 1:
        parser.error(f"--updates: expected at least 1, got {arguments.updates}")
    settings = Settings(amortized=arguments.amortized, precision=arguments.precision)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng) for _ in range(arguments.updates)]
    start = create(jax.random.PRNGKey(0), OBS, ACTIONS, settings)

    ends = [train(start, batches, settings, implementation) for implementation in (plain, fused)]
    moved, apart = (_distance(ends[0].params, other.params) for other in (start, ends[1]))
    print(f"parameters moved by {moved:.4f}, and are {apart:.2e} apart")

    play(ends[0].params, settings, plain)
    pack = jax.jit(partial(fused.pack, settings=settings))
    play(pack(ends[0].params), settings, fused)


def _distance(one, other) -> float:
    squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), one, other)
    return float(jnp.sqrt(sum(jax.tree.leaves(squares))))


if __name__ == "__main__":
    main()
