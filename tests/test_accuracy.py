"""Every function of the CPU engine, for every network and every setting of the flow, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accuracy import ROUND_OFF, Expected, expect, relative_error
from problems import change_layers, make_problem

from vgf_kernels import FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.3)
SETTINGS = {
    "default": {},
    "min": {"aggregate": "min"},
    "no_kernel": {"kernel": None},
    "fixed_bandwidth": {"bandwidth": 0.7},
    "bandwidth_grad": {"bandwidth_grad": True},
    "sgd": {"optimizer": "sgd"},
    "no_clip": {"clip": None},
    "tight_clip": {"clip": (-0.2, 0.1)},
    "sgd_no_kernel_no_clip": {"optimizer": "sgd", "kernel": None, "clip": None},
    "one_long_step": {"num_steps": 1, "learning_rate": 0.5},
}


def config_of(setting: str) -> FlowConfig:
    return FlowConfig(**{**CONFIG.__dict__, **SETTINGS[setting]})


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestNetworks:
    @pytest.fixture
    def problem(self, activation, norm):
        return make_problem(B=4, N=10, E=3, hidden=(64, 33, 48), activation=activation, norm=norm)

    @pytest.mark.parametrize("aggregate", ["mean", "min"])
    def test_value_and_grad(self, cpu_numpy, problem, aggregate):
        for part in (0, 1):

            def run(functions, p, part=part):
                return functions.value_and_grad(p.critic, p.obs, p.particles, aggregate)[part]

            expect(run, problem).check(run(cpu_numpy, problem))

    def test_value(self, cpu_numpy, problem):
        def run(functions, p):
            return functions.value(p.critic, p.obs, p.particles)

        expect(run, problem).check(run(cpu_numpy, problem))

    def test_direction(self, cpu_numpy, problem):
        def run(functions, p):
            return functions.direction(p.critic, p.obs, p.particles, CONFIG)

        expect(run, problem).check(run(cpu_numpy, problem))

    def test_flow(self, cpu_numpy, problem):
        def run(functions, p):
            return functions.flow(p.critic, p.obs, p.particles, CONFIG, trajectory=True)

        expect(run, problem).check_share(run(cpu_numpy, problem))

    def test_sample(self, cpu_numpy, problem):
        def run(functions, p):
            return functions.sample(p.policy, p.obs, p.noise, 6)

        expect(run, problem).check(run(cpu_numpy, problem))


@pytest.mark.parametrize(("where", "part"), [("units", "q"), ("units", "dq"), ("observations", "q")])
def test_sums_of_thousands_are_as_exact_as_of_hundreds(cpu_numpy, where, part):
    """Equal terms round alike: one after the other, 4,100 of them would be off eight times as far as 512."""

    def equal(layers):
        return [
            {key: np.full_like(array, 0.7 / array.shape[0] ** (key == "W")) for key, array in layer.items()}
            for layer in layers
        ]

    def error(terms):
        p = make_problem(
            B=2, N=3, E=1, norm="none", hidden=(terms if where == "units" else 40, 8, terms if part == "dq" else 40),
            O=terms if where == "observations" else 5,
        )  # fmt: skip
        p = replace(p, critic=change_layers(p.critic, equal), obs=np.full_like(p.obs, 0.7))
        results = (f.value_and_grad(q.critic, q.obs, q.particles) for f, q in ((cpu_numpy, p), (reference, p.at(np.float64))))
        return relative_error(*(each[part == "dq"] for each in results))

    assert error(4100) <= 2 * error(512) + ROUND_OFF


@pytest.mark.parametrize("setting", SETTINGS)
class TestSettings:
    problem = make_problem(B=5, N=9, A=4, seed=1)

    def test_direction(self, cpu, setting):
        def run(functions, p):
            return functions.direction(p.critic, p.obs, p.particles, config_of(setting))

        expect(run, self.problem).check(run(cpu, self.problem))

    def test_flow(self, cpu, setting):
        def run(functions, p):
            return functions.flow(p.critic, p.obs, p.particles, config_of(setting), trajectory=True)

        expect(run, self.problem).check_share(run(cpu, self.problem))

    def test_transport(self, cpu, setting):
        def run(functions, p):
            return functions.transport(lambda x: x * x - x, p.particles, config_of(setting))

        expect(run, self.problem).check_share(run(cpu, self.problem))


class TestOneCall:
    """`act` and `td_target` against the float64 reference."""

    problem = make_problem(B=40, N=6, seed=2)

    @pytest.mark.parametrize("aggregate", ["mean", "min"])
    @pytest.mark.parametrize("select", ["max", "softmax", "uniform"])
    def test_act(self, cpu, select, aggregate):
        p = self.problem

        def run(functions, p):
            return functions.act(
                p.critic, p.policy, p.obs, p.noise, 4, CONFIG, select, aggregate,
                temperature=0.5, select_noise=None if select == "max" else p.select_noise,
            )  # fmt: skip

        expect(run, p).check_share(run(cpu, p))

    @pytest.mark.parametrize("aggregate", ["mean", "min"])
    @pytest.mark.parametrize("reduce", ["mean", "max"])
    def test_td_target(self, cpu, reduce, aggregate):
        def run(functions, p):
            return functions.td_target(
                p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.97, 4, CONFIG,
                aggregate, reduce,
            )  # fmt: skip

        expect(run, self.problem).check_share(run(cpu, self.problem))

    def test_td_target_of_finished_episodes_is_the_reward(self, cpu):
        p = self.problem
        target = cpu.td_target(
            p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, 0 * p.mask, 0.97, 4, CONFIG
        )
        assert (target == p.reward).all()


def test_paper_width(cpu_numpy):
    """Two critics of 4 x 512, as in the paper."""
    p = make_problem(B=4, N=10, A=8, O=29, hidden=(512,) * 4, seed=5)
    config = FlowConfig(num_steps=3, learning_rate=0.05, alpha=0.2)
    for name, check in (("direction", Expected.check), ("flow", Expected.check_share)):

        def run(functions, p, name=name):
            return getattr(functions, name)(p.critic, p.obs, p.particles, config)

        check(expect(run, p), run(cpu_numpy, p))


def test_the_bar_is_low_enough_to_fail():
    """An engine that rounds its inputs to bfloat16 would not pass."""
    p = make_problem(B=4, N=10)

    def run(functions, p):
        return functions.value_and_grad(p.critic, p.obs, p.particles)[1]

    coarse = make_problem(B=4, N=10)
    coarse.particles.view("uint32")[...] &= 0xFFFF0000
    with pytest.raises(AssertionError, match="relative error"):
        expect(run, p).check(run(reference, coarse))
