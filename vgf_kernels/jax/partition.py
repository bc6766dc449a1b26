"""How a call may be cut among devices: along the states and along what vmap maps, and along nothing else."""

from __future__ import annotations

import functools
import itertools
import math

from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from . import mapped
from .calls import Axes, Call


@functools.lru_cache(maxsize=1024)
def partitioned(call: Call, ranks: tuple[int, ...]):
    """The call as something that the compiler may cut; ranks: of its operands."""
    operand_axes, result_axes = call.operand_axes, call.result_axes
    result_ranks = [len(call.mapped) + len(result.shape) for result in call.results]

    def local(*operands):
        return mapped.run(call, operands)

    def cut(mesh, operands, parts):
        """Shardings of operands and results, but for parts that XLA would fill up with what is no weight or step count."""
        for i, (looped, size) in enumerate(zip(call.looped, call.sizes(operands))):
            if looped and size % math.prod(mesh.shape[name] for name in _names(parts[i])):
                parts[i] = None

        def shardings(ranks, axes):
            return [NamedSharding(mesh, spec_of(parts, rank, at)) for rank, at in zip(ranks, axes)]

        return tuple(shardings(ranks, operand_axes)), shardings(result_ranks, result_axes)

    def infer(mesh, operands, results):
        return cut(mesh, operands, parts_of(operands, operand_axes))[1]

    def partition(mesh, operands, results):
        parts = parts_of([*results, *operands], result_axes + operand_axes)
        operand_shardings, result_shardings = cut(mesh, operands, parts)
        return mesh, local, result_shardings, operand_shardings

    function = custom_partitioning(local)
    function.def_partition(
        partition=partition, infer_sharding_from_operands=infer,
        sharding_rule=_sharding_rule([*zip(ranks, operand_axes)], [*zip(result_ranks, result_axes)]),
    )  # fmt: skip
    return function


def parts_of(arrays, axes: list[Axes]) -> list:
    """Along which axes of the mesh each axis is cut: those of the first array that cuts it, unless they cut another one."""
    parts, used = [None] * len(axes[0]), set()
    for array, places in zip(arrays, axes):
        spec = getattr(getattr(array, "sharding", None), "spec", ())
        for i, at in enumerate(places):
            part = spec[at] if at is not None and at < len(spec) else None
            names = _names(part)
            if names and parts[i] is None and not names & used:
                parts[i] = part
                used |= names
    return parts


def _names(part) -> set[str]:
    return {part} if isinstance(part, str) else set(part or ())


def spec_of(parts, rank: int, places: Axes) -> PartitionSpec:
    spec = [None] * rank
    for part, at in zip(parts, places):
        if at is not None:
            spec[at] = part
    return PartitionSpec(*spec)


def _sharding_rule(operands, results) -> str:
    """The same in Shardy's notation: a name for each axis to cut along, and one of its own for every other."""
    others = (f"x{i}" for i in itertools.count())

    def term(rank, places):
        names = {at: f"s{i}" for i, at in enumerate(places)}
        return " ".join(names.get(i) or next(others) for i in range(rank))

    operands, results = (", ".join(term(*each) for each in arrays) for arrays in (operands, results))
    return f"{operands} -> {results}"
