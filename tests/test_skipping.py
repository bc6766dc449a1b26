"""Leaving out units that are off adds no error: bitwise the result of the engine's dense path, which computes them."""

from __future__ import annotations

import numpy as np
import processes
import pytest
from engines import Engine
from problems import layers_of, make_problem
from test_bf16 import Bf16

from vgf_kernels import MLP, _native, reference

PRINT_DIGEST = """
import hashlib, sys
import numpy as np
from engines import Engine
from problems import change_layers, make_problem
from test_bf16 import Bf16
from test_independence import results
from dataclasses import replace

def shifted(mlp, by):
    "With the last hidden layer's inputs to relu moved: by 9 all units are on, by -9 all are off."
    def shift(layers):
        name = "bias" if layers[-2].get("bias") is not None else "b"
        return [*layers[:-2], {**layers[-2], name: layers[-2][name] + np.float32(by)}, layers[-1]]
    return change_layers(mlp, shift)

engine = Engine("numpy", "cpu")
if sys.argv[1] == "bf16":
    engine = Bf16(engine)
for norm in ("pre", "none"):
    for N in (1, 3, 10, 40):
        for hidden in ((33, 17), (150, 70, 48), *([(600, 530, 20)] if sys.argv[1] == "fp32" else [])):
            p = make_problem(B=5, N=N, hidden=hidden, norm=norm)
            for by in (0, 9, -9):
                q = replace(p, critic=shifted(p.critic, by), policy=shifted(p.policy, by))
                digest = hashlib.sha256()
                for array in results(engine, q):
                    digest.update(np.ascontiguousarray(array).tobytes())
                print(norm, N, hidden, by, digest.hexdigest())
"""


def digests(precision: str, **environment: str) -> list[str]:
    done = processes.python("-c", PRINT_DIGEST, precision, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_fp32(isa):
    assert digests("fp32", VGF_CPU_ISA=isa) == digests("fp32", VGF_CPU_ISA=isa, VGF_CPU_DENSE="1")


@pytest.mark.parametrize("isa", [name for name in _native.supported_isas() if name != "avx512bf16"])
def test_bf16_where_no_pairs_are_multiplied(isa):
    assert digests("bf16", VGF_CPU_ISA=isa) == digests("bf16", VGF_CPU_ISA=isa, VGF_CPU_DENSE="1")


def test_the_digests_tell_problems_apart():
    lines = digests("fp32")
    assert len({line.split()[-1] for line in lines}) == len(lines)


def test_a_setting_that_is_no_setting():
    code = "from engines import Engine; from problems import make_problem; p = make_problem()\n"
    code += 'Engine("numpy", "cpu").value(p.critic, p.obs, p.particles)'
    done = processes.python("-c", code, VGF_CPU_DENSE="yes")
    assert done.returncode != 0
    assert 'VGF_CPU_DENSE: expected 0 or 1, got "yes"' in done.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize(("E", "member"), [(1, 0), (2, 1)])
@pytest.mark.parametrize(
    "frontend",
    [Engine("numpy", "cpu"), Bf16(Engine("numpy", "cpu")), Engine("jax", "cpu")],
    ids=["numpy", "bf16", "jax"],
)
def test_a_weight_that_is_not_finite_is_not_left_out(frontend, E, member, norm, bad):
    """0 times infinity or NaN is NaN: a unit that is off in all rows does not hide that the critic has diverged."""
    p = make_problem(B=6, N=3, E=E, hidden=(32, 32), norm=norm)
    members, off = layers_of(p.critic), np.arange(32) == 3
    first, second, _ = members[member]
    shift = "b" if norm == "none" else "bias"
    first[shift] = np.where(off, np.float32(-100), first[shift])
    second["W"] = np.where(off[:, None], np.float32(bad), second["W"])
    critic = MLP.from_layers(members, norm=norm, norm_eps=p.critic.norm_eps)
    with np.errstate(invalid="ignore"):
        wanted = reference.value_and_grad(critic, p.obs, p.particles)
    assert np.isnan(wanted[0][member]).all()
    for got, exact in zip(frontend.value_and_grad(critic, p.obs, p.particles), wanted):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
