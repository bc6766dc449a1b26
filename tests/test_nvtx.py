"""Every public function opens an NVTX range in domain "vgf", with its rows as the payload, and closes it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from engines import Engine
from problems import make_problem

from vgf_kernels import FlowConfig, ranges

CONFIG = FlowConfig(num_steps=2)
PROBLEM, OTHER = make_problem(B=3, N=4), make_problem(B=2, N=5)


class Domain:
    """Stands for nvtx's domain and keeps what is opened in it."""

    def __init__(self):
        self.opened, self.open = [], 0

    def get_event_attributes(self, message, **_):
        return SimpleNamespace(message=message, payload=None)

    def push_range(self, attributes):
        self.opened.append((attributes.message, attributes.payload))
        self.open += 1

    def pop_range(self):
        self.open -= 1


@pytest.fixture
def domain(monkeypatch):
    domain = Domain()
    monkeypatch.setattr(ranges, "_domain", domain)
    monkeypatch.setattr(ranges, "_built", threading.local())
    return domain


CALLS = {
    "value": lambda e, p: e.value(p.critic, p.obs, p.particles),
    "value_and_grad": lambda e, p: e.value_and_grad(p.critic, p.obs, p.particles),
    "direction": lambda e, p: e.direction(p.critic, p.obs, p.particles, CONFIG),
    "flow": lambda e, p: e.flow(p.critic, p.obs, p.particles, CONFIG),
    "sample": lambda e, p: e.sample(p.policy, p.obs, p.noise, 2),
    "select": lambda e, p: e.select(p.select_noise),
    "act": lambda e, p: e.act(p.critic, p.policy, p.obs, p.noise, 2, CONFIG),
    "td_target": lambda e, p: e.td_target(
        p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.9, 2, CONFIG
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_range_a_call(engine, domain, name):
    for p in (PROBLEM, OTHER):
        CALLS[name](engine, p)
    assert domain.opened == [(name, 12), (name, 10)]
    assert domain.open == 0


def test_the_rows_of_an_ensembles_values(engine, domain):
    engine.select(np.stack([PROBLEM.select_noise] * 5))
    assert domain.opened == [("select", 12)]


def test_transport_opens_one_for_itself_and_one_an_update(engine, domain):
    engine.transport(lambda x: x, PROBLEM.particles, CONFIG)
    assert domain.opened == [("transport", 12), ("update", 12), ("update", 12)]
    assert domain.open == 0


def test_a_range_is_closed_by_an_exception(domain, monkeypatch):
    monkeypatch.setenv("VGF_NUM_THREADS", "none")
    with pytest.raises(ValueError, match="VGF_NUM_THREADS"):
        CALLS["flow"](Engine("numpy", "cpu"), PROBLEM)
    assert domain.opened == [("flow", 12)]
    assert domain.open == 0


def test_threads_do_not_share_a_payload(domain):
    """Attributes are kept between calls, and a payload is written to them just before the range opens."""

    def call(rows):
        for _ in range(50):
            with ranges.span("flow", rows):
                pass

    threads = [threading.Thread(target=call, args=(rows,)) for rows in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(domain.opened) == [("flow", 1)] * 50 + [("flow", 2)] * 50


def test_the_domain_is_vgf():
    nvtx = pytest.importorskip("nvtx", reason="nvtx is not installed")
    assert ranges._domain is nvtx.get_domain("vgf")


def test_without_nvtx_nothing_happens(monkeypatch):
    monkeypatch.setattr(ranges, "_domain", None)
    with ranges.span("flow", 1):
        got = Engine("numpy", "cpu").value(PROBLEM.critic, PROBLEM.obs, PROBLEM.particles)
    assert np.isfinite(got).all()
