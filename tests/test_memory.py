"""Scratch memory grows with threads, not with particles."""

from __future__ import annotations

import json
import re

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


SCARCE = """
import os, resource
import numpy as np
from problems import make_mlp
import vgf_kernels.numpy as vgf

rng = np.random.default_rng(0)
small, large = (make_mlp(rng, (2, *hidden, 1), 1, "relu", "none") for hidden in ([8], [20_000, 1] * 40))
obs, x = np.zeros((1, 1), np.float32), rng.uniform(-1, 1, (1, 100, 1)).astype(np.float32)
vgf.value(small, obs, x, backend="cpu")  # makes threads
threads = os.environ["VGF_NUM_THREADS"]
os.environ["VGF_NUM_THREADS"] = "1"
vgf.value(large, obs, x[:, :1], backend="cpu")  # makes packed weights, without the others' memory
os.environ["VGF_NUM_THREADS"] = threads
with open("/proc/self/statm") as statm:
    used = resource.getpagesize() * int(statm.read().split()[0])
for more in range(0, 384 << 20, 32 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (used + more, -1))
    try:
        vgf.value(large, obs, x, backend="cpu")
        print("done")
    except MemoryError as error:
        print(error)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_memory_that_the_system_does_not_give(threads):
    """An error of the caller's, for whichever thread there is none."""
    *refused, last = processes.run(SCARCE, VGF_NUM_THREADS=threads).splitlines()
    assert re.fullmatch("expected [0-9]+ bytes for the cpu engine's work, got none from the system; .*", refused[0])
    assert last == "done"
