"""Sharded arrays and shard_map: every device works on the states it holds. In processes with four CPU devices."""

from __future__ import annotations

import processes
import pytest


def run(file, case):
    done = processes.python(file, case, XLA_FLAGS="--xla_force_host_platform_device_count=4", JAX_PLATFORMS="cpu")
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize(
    "case",
    [
        "sharded_arrays", "states_on_another_axis", "gradient", "explicit_mesh", "under_shard_map", "gradient_under_shard_map",
        "transport_under_shard_map", "gradient_of_what_all_devices_share", "transport_of_what_all_devices_share",
        "vmap_and_shard_map", "exported_shard_map",
    ],
)
def test_four_devices(case):
    run("jax_devices.py", case)


@pytest.mark.parametrize("case", ["automatic", "explicit", "uneven"])
def test_vmap_on_four_devices(case):
    run("jax_devices_vmap.py", case)
