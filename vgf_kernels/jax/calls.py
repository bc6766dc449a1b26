"""What a call of a compiled engine is, before anybody knows on which platform it will run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .networks import Description

STATES = None  # in the shape of a result: as many as the operands have states
Axes = tuple[int | None, ...]  # where an array has each mapped axis and, last, that of states; None: it does not have it


class Result(NamedTuple):
    """What a call returns. At most one axis is STATES."""

    shape: tuple[int | None, ...]
    dtype: Any = np.float32

    @classmethod
    def like(cls, array: Any) -> Result:
        """Of the array's shape, whose first axis counts states."""
        return cls((STATES, *array.shape[1:]))

    def of(self, states: int) -> tuple[int, ...]:
        return tuple(states if size is STATES else size for size in self.shape)

    @property
    def axis(self) -> int | None:
        return self.shape.index(STATES) if STATES in self.shape else None


class Net(NamedTuple):
    """A network among the operands of a call: its packed weights, or those of its layers.

    Attributes:
        name: of the attribute that describes it to the handler.
        arrays: how many operands it is.
    """

    name: str
    description: Description
    arrays: int


class Terms(NamedTuple):
    """What holds for a call as a whole.

    Attributes:
        backend: the engine that was asked for or that packed the weights; None: the platform's own.
        precisions: (engine, precision) pairs.
        threads: the most that the CPU engine uses.
    """

    backend: str | None
    precisions: tuple[tuple[str, str], ...]
    threads: int


@dataclass(frozen=True)
class Call:
    """A handler with everything but its operands, which are networks, arrays by states, step counts.

    Attributes:
        handler: its name in python/bindings/xla/handlers.inl.
        networks: those among the operands.
        per_state: for every operand, whether its first axis counts states; the others serve all states.
        results: what it returns.
        attributes: (name, value) pairs.
        mapped: for every axis that vmap maps, the outermost first, which operands have it. Operands have these axes in
            front, in this order, and so do all results.
    """

    handler: str
    networks: tuple[Net, ...]
    per_state: tuple[bool, ...]
    results: tuple[Result, ...]
    terms: Terms
    attributes: tuple[tuple[str, Any], ...]
    mapped: tuple[tuple[bool, ...], ...] = ()

    @classmethod
    def of(cls, terms, handler, networks, per_state, steps, results, **attributes):
        """A call and its operands.

        Args:
            networks: description and operands of each, by name.
            per_state: arrays whose first axis counts states.
            steps: step counts.
        """
        nets, operands = [], []
        for name, (description, weights) in networks.items():
            nets.append(Net(name, description, len(weights)))
            operands += weights
        flags = (False,) * len(operands) + (True,) * len(per_state) + (False,) * len(steps)
        call = cls(handler, tuple(nets), flags, tuple(results), terms, tuple(attributes.items()))
        return call, [*operands, *per_state, *steps]

    @property
    def operand_axes(self) -> list[Axes]:
        axes = []
        for i, counts in enumerate(self.per_state):
            place = itertools.count()
            has = *(having[i] for having in self.mapped), counts
            axes.append(tuple(next(place) if each else None for each in has))
        return axes

    @property
    def result_axes(self) -> list[Axes]:
        first = len(self.mapped)
        return [(*range(first), None if r.axis is None else first + r.axis) for r in self.results]

    @property
    def looped(self) -> list[bool]:
        """Of every mapped axis, whether weights or step counts differ along it: each then is a call of its own."""
        return [any(has and not counts for has, counts in zip(having, self.per_state)) for having in self.mapped]

    def sizes(self, operands) -> list[int]:
        """Of every mapped axis, and last the number of states, 0 where no operand has them."""
        by_axis = zip(*self.operand_axes)
        return [next((o.shape[at] for o, at in zip(operands, places) if at is not None), 0) for places in by_axis]

    def shapes(self, operands) -> list[tuple[int, ...]]:
        *mapped, states = self.sizes(operands)
        return [(*mapped, *result.of(states)) for result in self.results]

    def split(self, operands) -> tuple[list[tuple[Net, list]], list]:
        """The networks with their operands, and the operands after them."""
        rest, networks = list(operands), []
        for net in self.networks:
            networks.append((net, rest[: net.arrays]))
            rest = rest[net.arrays :]
        return networks, rest
