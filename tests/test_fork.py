"""A forked child computes what its parent does, and ends."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from problems import make_problem
from torch.utils.data import DataLoader, Dataset

import vgf_kernels.numpy
import vgf_kernels.torch
from vgf_kernels import FlowConfig

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)
PROBLEM = make_problem(B=64, N=10)
DEADLINE = 60  # seconds: only a hang takes this long

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def flow():
    p = PROBLEM
    return vgf_kernels.numpy.flow(p.critic, p.obs, p.particles, CONFIG, backend="cpu")


def exit_status_of_child(work) -> int:
    """The exit status of a forked child that runs work(): 0 where it returns True."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    for _ in range(10 * DEADLINE):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.fixture(autouse=True)
def several_threads(monkeypatch):
    monkeypatch.setenv("VGF_NUM_THREADS", "3")


def test_a_child_of_a_parent_that_has_computed():
    wanted = flow()
    assert exit_status_of_child(lambda: np.array_equal(flow(), wanted)) == 0
    np.testing.assert_array_equal(flow(), wanted)


def test_a_grandchild():
    wanted = flow()

    def child():
        return (
            np.array_equal(flow(), wanted)
            and exit_status_of_child(lambda: np.array_equal(flow(), wanted)) == 0
        )

    assert exit_status_of_child(child) == 0


def test_a_child_forked_while_another_thread_computes():
    wanted = flow()
    stop = threading.Event()

    def keep_computing():
        while not stop.is_set():
            flow()

    other = threading.Thread(target=keep_computing)
    other.start()
    try:
        for _ in range(5):
            assert exit_status_of_child(lambda: np.array_equal(flow(), wanted)) == 0
    finally:
        stop.set()
        other.join()


def test_a_child_of_a_parent_that_used_torchs_threads():
    torch.randn(300, 300) @ torch.randn(300, 300)
    obs, x = torch.from_numpy(PROBLEM.obs), torch.from_numpy(PROBLEM.particles)

    def compute():
        return vgf_kernels.torch.flow(PROBLEM.critic, obs, x, CONFIG, backend="cpu")

    wanted = compute()
    assert exit_status_of_child(lambda: torch.equal(compute(), wanted)) == 0


class Flowed(Dataset):
    """Particles moved while loading."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        p = PROBLEM
        return vgf_kernels.numpy.flow(
            p.critic, p.obs[index, None], p.particles[index, None], CONFIG, backend="cpu"
        )[0]


def test_a_data_loader_worker():
    wanted = flow()
    loader = DataLoader(
        Flowed(), batch_size=2, num_workers=1, timeout=DEADLINE, multiprocessing_context="fork"
    )
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), wanted[:4])
