"""Where an MLP's weights come from: arrays of its own, from layers or a flax tree, and the way back to one.

The other source is a torch module: torch_source.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .checks import check_plain
from .mlp import MLP, Layer

LAYER_KEYS = ("W", "b", "scale", "bias")
STACK_MEMBERS = "stack the members along a leading axis: jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)"


class ArraySource:
    """Weights held as read-only NumPy arrays, or as torch tensors on a GPU. They never change."""

    frozen = True

    def __init__(self, members: list[list[Layer]]) -> None:
        if not members:
            raise ValueError("members: expected at least one member, got none")
        self._members = members
        self.framework = "numpy" if isinstance(members[0][0].W, np.ndarray) else "torch"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for array in (a for member in self._members for layer in member for a in layer):
            if isinstance(array, np.ndarray):
                array.setflags(write=False)  # which NumPy does not pickle

    @classmethod
    def from_dicts(cls, members) -> ArraySource:
        if isinstance(members, Mapping) or not isinstance(members, Sequence) or len(members) == 0:
            got = "an empty one" if isinstance(members, (list, tuple)) else type(members).__name__
            raise ValueError(f"members: expected a list of lists of layer dicts, got {got}")
        if isinstance(members[0], Mapping):
            members = [members]
        for e, member in enumerate(members):
            if isinstance(member, (Mapping, str)) or not isinstance(member, Sequence) or len(member) == 0:
                raise ValueError(f"member {e}: expected a list of layer dicts, got {member!r:.80}")
        return cls._checked(
            [[_layer_from_dict(layer, e, i) for i, layer in enumerate(m)] for e, m in enumerate(members)]
        )

    @classmethod
    def from_members(cls, members: list[list[Layer]]) -> ArraySource:
        if isinstance(members[0][0].W, np.ndarray):
            return cls(members)

        def snapshot(tensor):
            if tensor is None:
                return None
            if tensor.device.type != "cpu":
                return tensor.detach().clone()
            return _own(tensor)

        return cls([[Layer(*map(snapshot, layer)) for layer in member] for member in members])

    @classmethod
    def _checked(cls, members) -> ArraySource:
        dtypes = {str(a.dtype) for m in members for layer in m for a in layer if a is not None}
        if len(dtypes) > 1:
            raise TypeError(f"weights: expected one dtype, got {sorted(dtypes)}; cast them to the same")
        return cls(members)

    @classmethod
    def from_flax(cls, tree: Mapping[str, Any]) -> tuple[ArraySource, bool]:
        """The weights of a flax parameter tree, and whether it has layer norms."""
        layers, has_norm = flax_layers(tree, np.asarray)
        ensemble = layers[0].W.shape[0]
        members = [
            [Layer(*(None if a is None else _own(a[e]) for a in layer)) for layer in layers]
            for e in range(ensemble)
        ]
        return cls._checked(members), has_norm

    def members(self) -> list[list[Layer]]:
        return self._members

    def tensors(self) -> list:
        return []

    def version(self) -> tuple:
        return ()

    def check(self) -> None:
        pass

    def dtype(self) -> str:
        return str(self._members[0][0].W.dtype).removeprefix("torch.")

    def device(self) -> str:
        return "cpu" if self.framework == "numpy" else str(self._members[0][0].W.device)


def flax_layers(tree: Mapping[str, Any], array: Callable[[Any], Any]) -> tuple[list[Layer], bool]:
    """The layers of a flax parameter tree, with a leading ensemble axis, and whether it has layer norms.

    Args:
        array: what makes an array of a leaf.
    """
    for key in ("params", "value_net", "mlp"):
        if isinstance(tree, Mapping) and key in tree:
            others = sorted(set(tree) - {key})
            if others and key != "params":
                raise ValueError(
                    f"parameters: expected {key} alone, got {others} beside it; pass what is one plain MLP"
                )
            tree = tree[key]
    if not isinstance(tree, Mapping) or "Dense_0" not in tree:
        found = sorted(tree) if isinstance(tree, Mapping) else type(tree).__name__
        remedy = "; pass its params" if hasattr(tree, "params") else ""
        remedy = f"; {STACK_MEMBERS}" if isinstance(tree, (list, tuple)) else remedy
        raise ValueError(f"parameters: expected a tree with Dense_0, Dense_1, ..., got {found}{remedy}")
    depth = sum(1 for name in tree if name.startswith("Dense_"))
    has_norm = any(name.startswith("LayerNorm_") for name in tree)
    wanted = [f"Dense_{i}" for i in range(depth)] + [f"LayerNorm_{i}" for i in range(depth - 1) if has_norm]
    if missing := sorted(set(wanted) - set(tree)):
        raise ValueError(f"parameters: {', '.join(missing)} missing: expected {wanted}, got {sorted(tree)}")
    if others := sorted(set(tree) - set(wanted)):
        raise ValueError(
            f"parameters: expected a plain MLP, {wanted}, got {others} too; only Dense and one LayerNorm for each "
            "hidden layer can be computed"
        )
    layers = []
    for i in range(depth):
        leaves = _leaves(tree, f"Dense_{i}", "kernel", "bias")
        if has_norm and i + 1 < depth:
            leaves += _leaves(tree, f"LayerNorm_{i}", "scale", "bias")
        layers.append(Layer(*map(array, leaves)))
    if layers[0].W.ndim == 2:
        layers = [Layer(*(None if a is None else a[None] for a in layer)) for layer in layers]
    axes = {a.shape[:1] for layer in layers for a in layer if a is not None}
    if len(axes) > 1:
        raise ValueError(
            "parameters: expected one leading ensemble axis in all arrays, or none, got axes of "
            f"{sorted(axis[0] if axis else 0 for axis in axes)}"
        )
    return layers, has_norm


def _leaves(tree: Mapping[str, Any], module: str, *names: str) -> list:
    """The parameters of one module of a flax tree."""
    if not isinstance(tree.get(module), Mapping):
        raise ValueError(f"parameters: expected {module} with {' and '.join(names)}, got {tree.get(module)!r:.40}")
    for name in names:
        leaf = tree[module].get(name)
        if leaf is None:
            neutral = "ones" if name == "scale" else "zeros"
            remedy = "pass all parameters" if name == "kernel" else f"put {neutral} there if it has none"
            raise ValueError(f"parameters: {module} lacks {name!r}; {remedy}")
        if hasattr(leaf, "unbox"):
            raise ValueError(
                f"parameters: expected arrays, got {module} {name} in a {type(leaf).__name__}; pass nn.meta.unbox(params)"
            )
    if others := sorted(set(tree[module]) - set(names)):
        raise ValueError(f"parameters: expected {module} with {' and '.join(names)} alone, got {others} too")
    return [tree[module][name] for name in names]


def _own(array) -> np.ndarray:
    check_plain("weights", array)
    array = np.array(_numpy(array) if hasattr(array, "detach") else array, order="C")
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"weights: expected a floating-point array, got {array.dtype}")
    if not array.dtype.isnative:
        raise TypeError(f"weights: expected this machine's byte order, got {array.dtype}; cast them to {array.dtype.name}")
    array.setflags(write=False)
    return array


def _numpy(tensor) -> np.ndarray:
    """The memory of a torch tensor."""
    try:
        return tensor.detach().numpy()
    except TypeError:
        raise TypeError(
            f"weights: expected memory of the CPU and a dtype that NumPy has, got {tensor.dtype} on {tensor.device}; convert "
            "them with .cpu() or .float()"
        ) from None


def _layer_from_dict(layer: Mapping[str, Any], member: int, index: int) -> Layer:
    where = f"member {member}, layer {index}"
    if not isinstance(layer, Mapping):
        raise ValueError(f"{where}: expected a dict with W, b (and scale, bias), got {type(layer).__name__}")
    unknown = set(layer) - set(LAYER_KEYS)
    if unknown:
        raise ValueError(f"{where}: unknown keys {sorted(unknown)}; expected {LAYER_KEYS}")
    for key in ("W", "b"):
        if layer.get(key) is None:
            raise ValueError(f"{where}: {key} is missing")
    return Layer(*(None if layer.get(key) is None else _own(layer[key]) for key in LAYER_KEYS))


def to_flax(mlp: MLP) -> dict[str, Any]:
    """See MLP.to_flax."""

    def numpy(array):
        return np.array(array if isinstance(array, np.ndarray) else _numpy(array.cpu()))

    members = mlp.members
    tree: dict[str, Any] = {}
    for i in range(len(members[0])):
        stacked = [
            None if arrays[0] is None else np.stack([numpy(a) for a in arrays])
            for arrays in zip(*(member[i] for member in members))
        ]
        if mlp.ensemble == 1:
            stacked = [None if a is None else a[0] for a in stacked]
        tree[f"Dense_{i}"] = {"kernel": stacked[0], "bias": stacked[1]}
        if stacked[2] is not None:
            tree[f"LayerNorm_{i}"] = {"scale": stacked[2], "bias": stacked[3]}
    return {"value_net" if mlp.widths[-1] == 1 else "mlp": tree}
