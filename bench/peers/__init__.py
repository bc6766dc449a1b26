"""The contestants. Each module has a class Peer; the worker process makes one and knows only this interface.

Peer(name, device, precision)        raises Absent where it cannot run here, and says why
describe() -> dict                   versions, threads, devices
prepare(case, data, slices) -> list  a function without arguments for each slice of the states
wait(output)                         returns when the output has been computed
fetch(output) -> float32 ndarray
evict()                              on a GPU: push the case's data out of the cache
"""

MODULES = {
    "vgf": "vgf",
    "vgf-jax": "vgf_jax_peer",
    "torch": "torch_peer",
    "torch.compile": "torch_peer",
    "torch.compile-graphs": "torch_peer",
    "jax": "jax_peer",
    "jax-unrolled": "jax_peer",
}  # contestant -> the module of its Peer
ON_GPU_ALONE = ("torch.compile-graphs",)

EVICT_BYTES = 512 << 20  # several times the L2 cache of any current GPU


class Absent(Exception):
    """This contestant cannot run here; the message is the reason."""
