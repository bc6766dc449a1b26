"""The JAX frontend on a GPU: the CUDA engine's handlers inside jit, and JAX's own streams, graphs and devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("vgf_kernels._xla_cuda")

import jax_on_cuda
from problems import make_problem
from test_accuracy import CONFIG, SETTINGS, config_of

import vgf_kernels.jax as vgf
from vgf_kernels import cuda

sys.path.insert(0, str(Path(__file__).parents[1] / "python" / "examples"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="JAX sees no GPU"),
    pytest.mark.skipif(cuda.missing() is not None, reason=f"the cuda engine: {cuda.missing()}"),
]
STATES_OF_A_TILE, LARGER_STATES = 10, 300  # particles


@pytest.fixture(autouse=True)
def fp32():
    with jax.default_matmul_precision("float32"):
        yield


@pytest.mark.parametrize("N", [STATES_OF_A_TILE, LARGER_STATES])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_function(setting, N):
    jax_on_cuda.check_everything(make_problem(B=5, N=N, A=4, seed=1), config_of(setting))


@pytest.mark.parametrize(
    "sizes", [{"hidden": (512,) * 4, "A": 8, "O": 29, "B": 256}, {"hidden": (33, 300), "E": 13}], ids=str
)
def test_sizes(sizes):
    jax_on_cuda.check_everything(make_problem(**{"N": STATES_OF_A_TILE} | sizes))


@pytest.mark.parametrize("N", [STATES_OF_A_TILE, LARGER_STATES])
def test_traced_step_counts(N):
    jax_on_cuda.check_counts(make_problem(B=5, N=N, A=4, seed=2))


@pytest.mark.parametrize("N", [STATES_OF_A_TILE, LARGER_STATES])
def test_vmap(N):
    jax_on_cuda.check_vmap(make_problem(B=5, N=N, A=4))


def test_the_gradient_of_value():
    jax_on_cuda.check_gradient(make_problem(E=3))


def test_packed_weights():
    jax_on_cuda.check_packed(make_problem())


def test_auto_follows_the_arrays():
    """To the CUDA engine on the GPU, and to the CPU engine on the CPU."""
    p = make_problem()
    results = {}
    for name in ("gpu", "cpu"):
        device = jax.devices(name)[0]
        obs, x, critic = jax.device_put((p.obs, p.particles, vgf.Network.from_mlp(p.critic)), device)
        results[name] = vgf.value(critic, obs, x)
        assert results[name].devices() == {device}
        forced = vgf.value(critic, obs, x, backend={"gpu": "cuda", "cpu": "cpu"}[name])
        np.testing.assert_array_equal(results[name], forced)


def test_in_a_loop_after_other_work():
    """On XLA's stream: what comes before is done by then, and what comes after waits."""
    p = make_problem(B=64, N=10, hidden=(256, 256))
    critic = vgf.Network.from_mlp(p.critic)

    @jax.jit
    def looped(x):
        def body(i, x):
            return vgf.flow(critic, p.obs, x, CONFIG) * 0.5

        return jax.lax.fori_loop(0, 20, body, x)

    wanted = p.particles
    for _ in range(20):
        wanted = np.asarray(vgf.flow(critic, p.obs, wanted, CONFIG)) * np.float32(0.5)
    np.testing.assert_array_equal(looped(p.particles), wanted)


def test_a_training_update():
    """The agent of python/examples takes the step that plain JAX takes."""
    from flax_agent import fused, plain
    from flax_agent.learner import Batch, Settings, create, update

    settings = Settings(hidden=(64, 64), particles=6, euler_steps=3, config=replace(CONFIG, bandwidth_grad=True))
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, 16, 11), np.float32)
    actions = np.tanh(rng.standard_normal((16, 3), np.float32))
    batch = Batch(obs, actions, rng.standard_normal(16, np.float32), np.ones(16, np.float32), next_obs)
    state = create(jax.random.PRNGKey(0), 11, 3, settings)
    ends = [
        np.concatenate([
            np.ravel(leaf)
            for leaf in jax.tree.leaves(
                jax.jit(partial(update, settings=settings, implementation=implementation))(state, batch)[0].params
            )
        ])
        for implementation in (plain, fused)
    ]  # fmt: skip
    start = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])
    assert np.linalg.norm(ends[1] - ends[0]) < 0.01 * np.linalg.norm(ends[0] - start)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_states_spread_over_devices():
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    p = make_problem(B=2 * len(jax.devices()))
    mesh = Mesh(np.array(jax.devices()), ("states",))
    critic = jax.device_put(vgf.Network.from_mlp(p.critic), NamedSharding(mesh, PartitionSpec()))
    obs, x = jax.device_put((p.obs, p.particles), NamedSharding(mesh, PartitionSpec("states")))
    flow = jax.jit(lambda critic, obs, x: vgf.flow(critic, obs, x, CONFIG))
    moved = flow(critic, obs, x)
    assert moved.sharding.is_equivalent_to(x.sharding, 3)
    np.testing.assert_array_equal(moved, vgf.flow(p.critic, p.obs, p.particles, CONFIG))
