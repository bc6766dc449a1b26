"""Scratch memory grows with threads, not with particles."""

from __future__ import annotations

import json

import processes
import pytest

MEASURE = """
import json, re, sys
import numpy as np
from problems import make_mlp
from vgf_kernels import FlowConfig
import vgf_kernels.numpy as vgf

def kilobytes(field):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{field}:\\s+(\\d+) kB", status.read())[1])

states, count = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
critic = make_mlp(rng, (8 + 8, 32, 32, 1), 2, "relu", "pre")
obs = rng.standard_normal((states, 8), dtype=np.float32)
particles = rng.uniform(-1, 1, (states, count, 8)).astype(np.float32)
config = FlowConfig(num_steps=1)
for _ in range(3):
    vgf.flow(critic, obs[:4], particles[:4], config, backend="cpu")  # makes threads and packed weights
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # the peak starts again from here
before = kilobytes("VmRSS")
out = vgf.flow(critic, obs, particles, config, backend="cpu")
grown = 1024 * (kilobytes("VmHWM") - before)
print(json.dumps({"inputs": obs.nbytes + particles.nbytes, "outputs": out.nbytes, "grown": grown}))
"""


@pytest.mark.parametrize(("states", "count"), [(20_000, 10), (400, 500)])
def test_two_hundred_thousand_particles(states, count):
    done = processes.python("-c", MEASURE, str(states), str(count), VGF_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    arrays = sizes["inputs"] + sizes["outputs"]
    assert sizes["inputs"] + sizes["grown"] <= 1.3 * arrays, sizes
