"""The Triton kernels compiled ahead of time for GPUs that are not here: that they compile, and what they take.

The default configuration at the paper's size (critics 4 x 512, N = 10) must spill nothing on NVIDIA's GPUs.
"""

from __future__ import annotations

import dataclasses
import os

import pytest

triton = pytest.importorskip("triton")

from triton_aot import ARCHITECTURES, compile_for, usage_of

from vgf_kernels import FlowConfig
from vgf_kernels.mlp import ACTIVATIONS, NORMS
from vgf_kernels.triton import plan
from vgf_kernels.triton.act import act
from vgf_kernels.triton.direction import direction
from vgf_kernels.triton.engine import UPDATE_OPTIONS
from vgf_kernels.triton.flow import flow
from vgf_kernels.triton.large_counts import large_counts
from vgf_kernels.triton.large_next import large_next
from vgf_kernels.triton.large_rows import large_rows
from vgf_kernels.triton.large_states import BLOCK, OPTIONS
from vgf_kernels.triton.large_step import large_step
from vgf_kernels.triton.launch import Options
from vgf_kernels.triton.pack import pack
from vgf_kernels.triton.packed import TILE
from vgf_kernels.triton.sample import sample
from vgf_kernels.triton.shape import Shape
from vgf_kernels.triton.td_target import td_target
from vgf_kernels.triton.update import update
from vgf_kernels.triton.value import value
from vgf_kernels.triton.value_and_grad import value_and_grad

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled"
)

PARTICLES = 10
SHARED = {
    "sm_80": 163 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "gfx942": 64 << 10,
}  # of a program, in bytes
ROWS = {"bf16": 64, "tf32": 64, "fp32": 32}  # of a large batch's tile by default
# Older compilers leave a little in local memory: Triton 3.4 up to 144 bytes a thread.
TOLERATED = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9) else 160
CHOICES = {
    "AGGREGATE": "mean", "OPTIMIZER": "adam", "CLIP": True, "TRAJECTORY": False, "REDUCE": "mean", "SELECT": "max",
}  # fmt: skip


def paper(target: str, precision: str, taped: bool = True, outputs: int = 1, norm: str = "pre", **changes):
    """The shape and the options of the default configuration for the paper's critic, or another network."""
    config = plan.config_of(512, precision, taped, ROWS[precision], ARCHITECTURES[target])
    shape = Shape(
        rows=config.rows, states=16, width=512, chunk=config.chunk, block=config.block, actions=16, outputs=outputs,
        activation="relu", norm=norm, precision=precision,
    )  # fmt: skip
    return dataclasses.replace(shape, **changes), config.options


def compiled(target, kernel, precision, shape, options, **choices):
    interaction = plan.interaction_of(FlowConfig(), PARTICLES, shape.rows)
    known = CHOICES | choices | {"shape": shape, "interaction": interaction}
    constants = {name: known[name] for name in kernel.arg_names if name in known}
    return compile_for(target, kernel, constants, options, precision)


def check(kernel, target: str, usage, spilled: int = 0) -> None:
    print(f"{kernel.__name__} {target}: {usage}")
    assert usage.registers <= (512 if target == "gfx942" else 255)
    assert usage.spilled <= spilled + TOLERATED, f"{usage.spilled} spilled"
    assert usage.shared <= SHARED[target]


@pytest.mark.parametrize("precision", ["bf16", "tf32", "fp32"])
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_flow(target, precision):
    kernel = compiled(target, flow, precision, *paper(target, precision))
    check(flow, target, usage_of(kernel))


@pytest.mark.parametrize("kernel", [value, value_and_grad, direction, td_target, act, sample])
def test_other_functions(kernel):
    choice = {"norm": "none", "outputs": 16} if kernel is sample else {}
    choice["taped"] = kernel in (value_and_grad, direction)
    check(kernel, "sm_90", usage_of(compiled("sm_90", kernel, "bf16", *paper("sm_90", "bf16", **choice))))


def test_flow_uses_the_tensor_cores_of_each_generation():
    instruction = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma"}
    for target, name in instruction.items():
        assert name in compiled(target, flow, "bf16", *paper(target, "bf16")).asm["ptx"]


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (
            update,
            {
                "interaction": plan.interaction_of(FlowConfig(bandwidth_grad=True), PARTICLES, 60),
                "OPTIMIZER": "adam", "CLIP": True, "STATES": 6, "BLOCK": 512,
            },
        ),
        (pack, {"H": 512, "ACTIONS": 16, "OUTPUTS": 1, "TILE": TILE}),
        (large_counts, {"BLOCK": BLOCK}),
        (large_next, {"BLOCK": BLOCK}),
        (large_rows, {"BLOCK": BLOCK}),
        (
            large_step,
            {
                "MEDIAN": True, "BANDWIDTH_GRAD": True, "UPDATE": True, "OPTIMIZER": "adam", "CLIP": True, "BLOCK": BLOCK,
            },
        ),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_kernels_without_a_network(target, kernel, constants):
    options = {update: UPDATE_OPTIONS, pack: Options()}.get(kernel, OPTIONS)
    few = 16 if kernel is update else 0  # the assembler limits this one's registers for the sake of occupancy
    check(kernel, target, usage_of(compile_for(target, kernel, constants, options, "bf16")), few)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_norm_compiles(activation):
    norm = NORMS[ACTIVATIONS.index(activation) % len(NORMS)]
    shape, options = paper("sm_90", "bf16", activation=activation, norm=norm, width=64, chunk=64)
    compiled("sm_90", value_and_grad, "bf16", shape, options, AGGREGATE="min")
