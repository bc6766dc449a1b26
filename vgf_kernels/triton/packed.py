"""An MLP's weights in the layout of shape.Net, packed by one launch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..mlp import MLP
from ..torch.arrays import address, outlasting
from .launch import Options, is_capturing, launch
from .pack import pack
from .shape import ALIGNED, round_up

TILE = 64
POWERS_UP_TO = 512  # widths up to this become powers of two, wider ones multiples of it
TABLES = 4  # of an MLP and device that are kept, with their copies
LARGEST = 2**31 - 1  # offsets within a packed network are 32-bit integers


@dataclass(frozen=True)
class Table:
    """Where the weights of an MLP are, on the device.

    Attributes:
        entries: [E, depth + 1, 8] int64, see pack.py.
        widths: [depth + 1] int32, the hidden layers' widths and a zero.
        held: by member, layer and name, the arrays that are not parameters of a live module: snapshots, and the
            zeros and ones that stand for an absent bias or affine norm.
        copies: of these weights, the packed ones.
    """

    entries: Tensor
    widths: Tensor
    held: dict[tuple, Tensor]
    copies: dict[tuple, PackedMLP] = field(default_factory=dict)


@dataclass
class PackedMLP:
    """The engine's copy of an MLP on one device.

    Attributes:
        width: H. first: rows of the first layer. actions: A rounded up. outputs: columns of the last layer.
        arrays: hidden, edges and widths, as every kernel takes them.
        sizes: stride, first, depth and eps, as every kernel takes them.
        description: what its kernels' speed depends on.
    """

    ensemble: int
    activation: str
    norm: str
    width: int
    actions: int
    outputs: int
    arrays: tuple[Tensor, Tensor, Tensor]
    sizes: tuple[int, int, int, float]
    description: str

    @property
    def depth(self) -> int:
        """Hidden layers."""
        return self.sizes[2]


def packed_width(widths: tuple[int, ...]) -> int:
    """H: the widest hidden layer, rounded up."""
    widest = max(widths[1:-1])
    if widest <= POWERS_UP_TO:
        return max(16, 1 << (widest - 1).bit_length())
    return round_up(widest, POWERS_UP_TO)


def up_to_date(
    mlp: MLP, actions: int, timed: bool, precision: str, products: str, device: torch.device
) -> PackedMLP:
    """The packed copy with today's weights.

    A live MLP is packed at every call, since comparing its weights with the copy would wait for the GPU; each stream has
    a copy of its own, so that none overwrites what another still reads. A frozen one is packed once, and waited for, so
    that every stream and graph may read it. What was not packed before a capture is packed into memory of its graph, again
    with every replay.

    Args:
        actions: A. timed: the network is a velocity field, with a time input. products: see shape.Shape.
    """
    capturing = is_capturing(device)
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
    table = _table(mlp, device, capturing)
    key = (precision, actions, timed, None if mlp.frozen else stream and stream.cuda_stream)
    packed = table.copies.get(key)
    if packed is not None and mlp.frozen:
        if stream is not None and stream != torch.cuda.default_stream(device):
            _record(packed.arrays, stream)
        return packed
    if capturing:
        packed = _allocate(mlp, actions, timed, precision, device, table)
    elif packed is None:
        packed = outlasting(lambda: _allocate(mlp, actions, timed, precision, device, table), device)
    if stream is not None:
        _record((table.entries, *table.held.values(), *packed.arrays), stream)
    stride, first, depth, _ = packed.sizes
    tiles = max(-(-inner // TILE) * -(-outer // TILE) for inner, outer in zip(mlp.widths, mlp.widths[1:]))
    launch(
        pack, (tiles, mlp.ensemble * (depth + 1)), device, Options(),
        (table.entries, *packed.arrays[:2], stride, first, depth, mlp.widths[0] - actions - timed, actions),
        (packed.width, packed.actions, packed.outputs, products, TILE),
    )  # fmt: skip
    if capturing:
        return packed
    if not mlp.frozen:
        table.copies[key] = packed  # this call's own: another thread's may have been packed before a write to the weights
        return packed
    if stream is not None:
        stream.synchronize()
    return table.copies.setdefault(key, packed)  # another thread's, where it was first and a graph may have it by now


def _record(tensors: Iterable[Tensor], stream: torch.cuda.Stream) -> None:
    """They are another stream's memory, and must not be used again while this one still reads them."""
    for tensor in tensors:
        tensor.record_stream(stream)


def _allocate(
    mlp: MLP, actions: int, timed: bool, precision: str, device: torch.device, table: Table
) -> PackedMLP:
    """A copy whose padding is zero, and whose weights are not there yet."""
    width, depth = packed_width(mlp.widths), len(mlp.widths) - 2
    padded = round_up(actions, 16)
    outputs = padded if timed else 1
    observations = mlp.widths[0] - actions - timed
    first = round_up(observations + padded + 1, 16)
    stride = width * (first + padded + 3 * depth + outputs) + padded  # elements of a member's edges
    hidden = mlp.ensemble * (depth - 1) * 2 * width * width
    if max(hidden, mlp.ensemble * stride) > LARGEST:
        raise ValueError(
            f"the network's packed weights: expected at most {LARGEST} elements, got "
            f"{max(hidden, mlp.ensemble * stride)} for "
            f"widths {mlp.widths} and {mlp.ensemble} members; split the ensemble"
        )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return PackedMLP(
        mlp.ensemble, mlp.activation, mlp.norm, width, padded, outputs,
        (
            torch.zeros(max(hidden, 1), dtype=dtype, device=device),
            torch.zeros(mlp.ensemble * stride, dtype=torch.float32, device=device),
            table.widths,
        ),
        (stride // ALIGNED, first, depth, mlp.norm_eps),
        f"{mlp.ensemble} x {depth} x {width} {mlp.norm} {mlp.activation}, {padded} actions",
    )  # fmt: skip


# ---- the table of addresses


def _table(mlp: MLP, device: torch.device, capturing: bool) -> Table:
    """Where the weights are now: a known table, unless parameters have been replaced by others.

    Several are known, since one MLP stands for the networks of several exported programs, and weights may be swapped with
    their moving averages.
    """
    mlp.check()
    tables = mlp.packed.setdefault(f"triton tables {device}", {})
    identity = tuple((t.data_ptr(), t.dtype, t.shape, t.stride()) for t in mlp.tensors())
    known = tables.get(identity)
    if known is not None:
        if capturing:  # its graph reads it at every replay, whatever becomes of the parameters
            mlp.packed.setdefault(f"triton tables of graphs {device}", {})[id(known)] = known
        return known
    if capturing:
        raise RuntimeError(
            "a network's parameters have moved since the last call, or there was none: their addresses cannot be "
            "copied to the GPU while a CUDA graph is captured; call the function once before capturing it"
        )
    made = outlasting(lambda: _make_table(mlp, {pointer for pointer, *_ in identity}, device), device)
    while len(tables) >= TABLES:
        tables.pop(next(iter(tables)), None)
    return tables.setdefault(identity, made)


def _make_table(mlp: MLP, parameters: set[int], device: torch.device) -> Table:
    held: dict[tuple, Tensor] = {}
    entries = []
    for e, member in enumerate(mlp.members):
        for i, layer in enumerate(member):
            W, *vectors = (
                _on_device(array, (e, i, name), device, parameters, held)
                for name, array in zip(layer._fields, layer)
            )
            b, scale, bias = (0 if vector is None else vector.data_ptr() for vector in vectors)
            entries.append([W.data_ptr(), *W.stride(), b, scale, bias, *W.shape])
    return Table(
        torch.tensor(entries, dtype=torch.int64).to(device),
        torch.tensor([*mlp.widths[1:-1], 0], dtype=torch.int32).to(device),
        held,
    )


def _on_device(array: Any, where: tuple, device: torch.device, parameters: set, held: dict) -> Tensor | None:
    """The array as a tensor whose address may be kept: itself, if it is a parameter, or a copy that is held."""
    if array is None:
        return None
    e, i, name = where
    label = f"weights: member {e}, layer {i}, {name}"
    checks.check_weight_on_gpu(label, array, "triton", device)
    if isinstance(array, np.ndarray):
        held[where] = torch.from_numpy(np.array(array)).to(device)  # a snapshot has no device of its own
        return held[where]
    if array.ndim == 1 and not array.is_contiguous():
        raise ValueError(
            f"{label}: expected a contiguous vector, got stride {array.stride()[0]}; use .contiguous()"
        )
    if address(array) not in parameters:
        held[where] = array
    return array
