"""Building an MLP from arrays and from flax trees, and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from problems import layers_of, make_layers, make_mlp, make_problem

import vgf_kernels.numpy
from vgf_kernels import MLP, reference
from vgf_kernels.mlp import NORMS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def assert_same_weights(one: MLP, other: MLP) -> None:
    assert (one.widths, one.ensemble, one.norm) == (other.widths, other.ensemble, other.norm)
    for a, b in zip(layers_of(one), layers_of(other), strict=True):
        for layer, twin in zip(a, b, strict=True):
            assert layer.keys() == twin.keys()
            for key in layer:
                np.testing.assert_array_equal(layer[key], np.asarray(twin[key]))


def test_from_layers_describes_itself(rng):
    mlp = MLP.from_layers(
        [make_layers(rng, (5, 8, 3, 1), "pre") for _ in range(3)], activation="mish", norm="pre"
    )
    assert (mlp.widths, mlp.ensemble, mlp.activation, mlp.norm) == ((5, 8, 3, 1), 3, "mish", "pre")
    assert (mlp.framework, mlp.dtype, mlp.device, mlp.frozen) == ("numpy", "float32", "cpu", True)
    assert repr(mlp) == "MLP(3 x [5 -> 8 -> 3 -> 1], mish, norm='pre', float32, numpy)"


def test_a_single_list_is_an_ensemble_of_one(rng):
    layers = make_layers(rng, (5, 8, 1), "none")
    assert_same_weights(MLP.from_layers(layers), MLP.from_layers([layers]))


def test_the_arrays_are_copied(rng):
    layers = make_layers(rng, (5, 8, 1), "none")
    mlp = MLP.from_layers(layers)
    before = layers[0]["W"].copy()
    layers[0]["W"][...] = 0
    np.testing.assert_array_equal(mlp.members[0][0].W, before)


def test_weights_cannot_be_written_to(rng):
    mlp = make_mlp(rng, (5, 8, 1), 1, "relu", "none")
    with pytest.raises(ValueError, match="read-only"):
        mlp.members[0][0].W[0, 0] = 1


def test_bfloat16_arrays(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layers = [
        {key: a.astype(ml_dtypes.bfloat16) for key, a in layer.items()} for layer in make_layers(rng, (5, 8, 1), "none")
    ]
    assert MLP.from_layers(layers).dtype == "bfloat16"


def test_members_from_the_end(rng):
    mlp = make_mlp(rng, (5, 8, 1), 3, "relu", "pre")
    np.testing.assert_array_equal(mlp.member(-1).members[0][0].W, mlp.members[2][0].W)
    with pytest.raises(IndexError, match="member: expected a number below 3, got -4"):
        mlp.member(-4)


def test_a_network_that_nobody_holds_is_gone():
    p = make_problem()
    mlp = make_mlp(np.random.default_rng(0), p.critic.widths, 2, "relu", "pre")
    vgf_kernels.numpy.value(mlp, p.obs, p.particles)
    handle, gone = mlp.handle, weakref.ref(mlp)
    del mlp
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="the MLP of a compiled graph is gone"):
        MLP.from_graph([], handle, "")


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda mlp: pickle.loads(pickle.dumps(mlp))])
def test_weights_of_a_copy_cannot_be_written_either(rng, remake):
    made = remake(make_mlp(rng, (5, 8, 1), 2, "relu", "pre"))
    with pytest.raises(ValueError, match="read-only"):
        made.members[0][0].W[...] = 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ensemble", [1, 3])
def test_to_flax_and_back(rng, ensemble, norm):
    mlp = make_mlp(rng, (5, 8, 4, 1), ensemble, "gelu", norm)
    tree = mlp.to_flax()
    assert list(tree) == ["value_net"]
    back = MLP.from_flax(tree, activation="gelu", norm=norm, norm_eps=mlp.norm_eps)
    assert_same_weights(mlp, back)


def test_a_velocity_field_goes_to_flax_without_an_ensemble_axis(rng):
    mlp = make_mlp(rng, (5, 8, 3), 1, "gelu", "none")
    tree = mlp.to_flax()
    assert list(tree) == ["mlp"]
    assert tree["mlp"]["Dense_0"]["kernel"].shape == (5, 8)
    assert_same_weights(mlp, MLP.from_flax(tree, activation="gelu"))


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {"params": t}, lambda t: {"params": t, "intermediates": {}}, lambda t: t["value_net"]]
)
def test_from_flax_finds_the_tree_in_its_wrapping(rng, wrap):
    mlp = make_mlp(rng, (5, 8, 1), 2, "relu", "pre")
    back = MLP.from_flax(wrap(mlp.to_flax()), norm_eps=mlp.norm_eps)
    assert back.norm == "pre"
    assert_same_weights(mlp, back)


def test_from_flax_reads_what_flax_computes(rng):
    """The official agent's critic: Dense, LayerNorm, gelu, vmapped over the ensemble."""
    pytest.importorskip("flax", reason="flax is not installed")
    import flax.linen as nn
    import jax

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (16, 12):
                x = nn.gelu(nn.LayerNorm()(nn.Dense(width)(x)))
            return nn.Dense(1)(x)

    class Critic(nn.Module):
        @nn.compact
        def __call__(self, x):
            ensemble = nn.vmap(
                Network,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                out_axes=0,
                axis_size=2,
            )
            return ensemble(name="value_net")(x)[..., 0]

    obs = rng.normal(size=(4, 5)).astype(np.float32)
    actions = rng.normal(size=(4, 1, 3)).astype(np.float32)
    x = np.concatenate([obs, actions[:, 0]], axis=1)
    variables = Critic().init(jax.random.key(0), x)
    variables = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32), variables)
    mlp = MLP.from_flax(variables, activation="gelu")
    assert (mlp.ensemble, mlp.norm, mlp.widths) == (2, "pre", (8, 16, 12, 1))
    wanted = Critic().apply(variables, x)
    np.testing.assert_allclose(reference.value(mlp, obs, actions)[..., 0], wanted, rtol=1e-5, atol=1e-5)


# ---- what is refused


def broken(rng, change):
    layers = make_layers(rng, (5, 8, 4, 1), "none")
    change(layers)
    return layers


REFUSED = {
    "widths that do not chain": (
        lambda layers: layers.__setitem__(
            1, {"W": np.zeros((7, 4), np.float32), "b": np.zeros(4, np.float32)}
        ),
        ValueError,
        r"layer 1: widths do not chain.*gives 8.*takes 7",
    ),
    "a bias of the wrong width": (
        lambda layers: layers[1].update(b=np.zeros(5, np.float32)),
        ValueError,
        r"layer 1: expected b \[4\], got shape \(5,\)",
    ),
    "a bias of two axes": (
        lambda layers: layers[1].update(b=np.zeros((4, 2), np.float32)),
        ValueError,
        r"layer 1: expected b \[4\], got shape \(4, 2\)",
    ),
    "a matrix that is none": (
        lambda layers: layers[0].update(W=np.zeros(8, np.float32)),
        ValueError,
        r"layer 0: expected W \[in, out\].*got shape \(8,\)",
    ),
    "an empty layer": (
        lambda layers: layers[0].update(W=np.zeros((5, 0), np.float32), b=np.zeros(0, np.float32)),
        ValueError,
        r"layer 0: expected W \[in, out\] with positive widths, got shape \(5, 0\)",
    ),
    "a missing bias": (lambda layers: layers[2].pop("b"), ValueError, r"layer 2: b is missing"),
    "an unknown key": (
        lambda layers: layers[0].update(gamma=np.zeros(8)),
        ValueError,
        r"layer 0: unknown keys \['gamma'\]; expected .*scale",
    ),
    "a norm nobody asked for": (
        lambda layers: layers[0].update(scale=np.ones(8, np.float32)),
        ValueError,
        r"layer 0: scale was given but norm is 'none'",
    ),
    "no hidden layer": (
        lambda layers: layers.__delitem__(slice(1, None)),
        ValueError,
        r"at least one hidden layer",
    ),
    "integers": (
        lambda layers: layers[0].update(W=np.zeros((5, 8), np.int32)),
        TypeError,
        r"expected a floating-point array, got int32",
    ),
    "swapped bytes": (
        lambda layers: layers[0].update(W=np.zeros((5, 8), np.dtype(np.float32).newbyteorder())),
        TypeError,
        r"expected this machine's byte order, got >f4; cast them to float32",
    ),
    "two dtypes": (
        lambda layers: layers[0].update(W=np.zeros((5, 8), np.float64)),
        TypeError,
        r"expected one dtype, got \['float32', 'float64'\]; cast",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_are_refused(rng, case):
    change, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        MLP.from_layers(broken(rng, change))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish"}, "activation: expected one of 'relu'.*got 'swish'"),
        ({"norm": "batch"}, "norm: expected one of 'pre', 'post', 'none', got 'batch'"),
        ({"norm_eps": -1e-6}, "norm_eps: expected a finite number >= 0, got -1e-06"),
        ({"norm_eps": float("nan")}, "norm_eps: expected a finite number >= 0, got nan"),
        ({"norm": "pre"}, r"layer 0: scale is missing \(norm='pre'\)"),
    ],
)
def test_settings_that_are_refused(rng, settings, message):
    with pytest.raises(ValueError, match=message):
        MLP.from_layers(make_layers(rng, (5, 8, 1), "none"), **settings)


def test_an_eps_of_zero(rng):
    assert MLP.from_layers(make_layers(rng, (5, 8, 1), "pre"), norm="pre", norm_eps=0).norm_eps == 0


@pytest.mark.parametrize("other", [1, 2])
def test_members_that_differ(rng, other):
    members = [make_layers(rng, (5, 9 if member == other else 8, 1), "none") for member in range(3)]
    with pytest.raises(ValueError, match=rf"member 0 has widths \(5, 8, 1\), member {other} has \(5, 9, 1\)"):
        MLP.from_layers(members)


def test_a_norm_behind_the_last_layer(rng):
    layers = make_layers(rng, (5, 8, 1), "pre")
    layers[-1] |= {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="layer 1: scale was given but the last layer has no norm"):
        MLP.from_layers(layers, norm="pre")


@pytest.mark.parametrize(
    ("members", "got"), [([], "an empty one"), ({}, "dict"), (None, "NoneType"), ([[]], r"\[\]"), ([[1, 2]], "int")]
)
def test_members_that_are_no_layers(members, got):
    with pytest.raises(ValueError, match=rf"expected .*, got {got}"):
        MLP.from_layers(members)


def test_flax_trees_that_are_refused(rng):
    tree = make_mlp(rng, (5, 8, 4, 1), 2, "relu", "pre").to_flax()["value_net"]
    with pytest.raises(ValueError, match=r"expected a tree with Dense_0, Dense_1, ..., got \['encoder'\]"):
        MLP.from_flax({"encoder": tree})
    with pytest.raises(ValueError, match=r"LayerNorm_1 missing: expected \['Dense_0', 'Dense_1', 'Dense_2', "):
        MLP.from_flax({key: v for key, v in tree.items() if key != "LayerNorm_1"})
    with pytest.raises(ValueError, match=r"Dense_1 missing: expected .*, got \['Dense_0', 'Dense_2', 'LayerNorm_0'\]"):
        MLP.from_flax({key: v for key, v in tree.items() if key not in ("Dense_1", "LayerNorm_1")})
    with pytest.raises(ValueError, match="Dense_0 lacks 'bias'; put zeros there"):
        MLP.from_flax({**tree, "Dense_0": {"kernel": tree["Dense_0"]["kernel"]}})
    with pytest.raises(ValueError, match="LayerNorm_0 lacks 'scale'; put ones there"):
        MLP.from_flax({**tree, "LayerNorm_0": {"bias": tree["LayerNorm_0"]["bias"]}})
    with pytest.raises(ValueError, match="expected Dense_0 with kernel and bias, got 3"):
        MLP.from_flax({**tree, "Dense_0": 3})
    with pytest.raises(ValueError, match=r"expected Dense_0 with kernel and bias alone, got \['gain'\] too"):
        MLP.from_flax({**tree, "Dense_0": {**tree["Dense_0"], "gain": tree["Dense_0"]["bias"]}})


@pytest.mark.parametrize("other", ["LayerNorm_2", "BatchNorm_0", "encoder"])
def test_what_would_be_left_out_of_a_flax_tree_is_refused(rng, other):
    """It would change what the network computes."""
    tree = make_mlp(rng, (5, 8, 4, 1), 2, "relu", "pre").to_flax()["value_net"]
    with pytest.raises(ValueError, match=rf"expected a plain MLP, .* got \['{other}'\] too"):
        MLP.from_flax({"value_net": {**tree, other: tree["LayerNorm_1"]}})


def test_what_stands_beside_a_flax_network_is_refused(rng):
    tree = make_mlp(rng, (5, 8, 1), 2, "relu", "pre").to_flax()
    with pytest.raises(ValueError, match=r"expected value_net alone, got \['encoder'\] beside it"):
        MLP.from_flax({"params": {**tree, "encoder": {}}})


def test_ensemble_axes_that_differ(rng):
    two, three = (make_mlp(rng, (5, 8, 1), members, "relu", "none").to_flax()["value_net"] for members in (2, 3))
    with pytest.raises(ValueError, match=r"expected one leading ensemble axis in all arrays.* axes of \[2, 3\]"):
        MLP.from_flax({**two, "Dense_1": three["Dense_1"]})


@pytest.mark.parametrize("name", ["activation", "norm", "norm_eps", "widths"])
def test_what_engines_have_packed_for_cannot_be_set(rng, name):
    mlp = make_mlp(rng, (5, 8, 1), 1, "relu", "none")
    with pytest.raises(AttributeError, match=f"MLP.{name} cannot be set: .*; make a new MLP"):
        setattr(mlp, name, "tanh")


def test_arrays_are_copied(rng):
    frozen = make_mlp(rng, (5, 8, 1), 2, "relu", "none").to_flax()["value_net"]
    tree = {module: {name: np.array(array) for name, array in leaves.items()} for module, leaves in frozen.items()}
    mlp = MLP.from_flax(tree)
    before = mlp.members[0][0].W.copy()
    tree["Dense_0"]["kernel"][...] = 0
    np.testing.assert_array_equal(mlp.members[0][0].W, before)


def test_the_eps_of_flax_is_the_default():
    import vgf_kernels.jax as vgf

    layers = [{"W": np.ones((5, 8)), "b": np.zeros(8), "scale": np.ones(8), "bias": np.zeros(8)}, {"W": np.ones((8, 1)), "b": np.zeros(1)}]
    mlp = MLP.from_layers(layers, norm="pre")
    assert vgf.network(mlp.to_flax()).norm_eps == mlp.norm_eps == MLP.from_flax(mlp.to_flax()).norm_eps == 1e-6
