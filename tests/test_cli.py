"""The command line: what it reports, draws and refuses."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import processes
import pytest

from vgf_kernels import reference
from vgf_kernels.cli import demo, info, landscape, main
from vgf_kernels.config import FlowConfig


def test_info_lists_every_engine_in_order(capsys):
    assert main(["info"]) == 0
    section = capsys.readouterr().out.split("engines, in the order")[1].split("\n\n")[0]
    names = [line.split()[0] for line in section.splitlines()[1:]]
    assert names == ["cuda", "triton", "cpu", "reference"]


def test_info_tells_what_the_jax_frontend_was_built_with(monkeypatch, capsys):
    xla = pytest.importorskip("vgf_kernels._xla")
    monkeypatch.setitem(sys.modules, "vgf_kernels._xla_cuda", None)  # how Python notes what cannot be imported
    assert main(["info"]) == 0
    section = capsys.readouterr().out.split("jax frontend\n")[1].split("\n\n")[0]
    rows = dict(line.split(maxsplit=1) for line in section.splitlines())
    assert rows["cpu"] == "XLA handlers, FFI API {}.{}".format(*xla.api_version())
    assert rows["cuda"].startswith("none: ") and "_xla_cuda" in rows["cuda"]


def test_info_says_why_a_thread_setting_is_unusable(monkeypatch, capsys):
    monkeypatch.setenv("VGF_NUM_THREADS", "none")
    assert main(["info"]) == 0
    assert "unusable: VGF_NUM_THREADS" in capsys.readouterr().out


def test_info_says_what_is_set_to_what(monkeypatch, capsys):
    monkeypatch.setenv("VGF_BACKEND", "gpu")
    monkeypatch.setenv("VGF_CACHE_DIR", "")
    monkeypatch.setenv("VGF_CPU_DENSE", "1")
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.split("environment\n")[1].split("\n\n")[0].splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["VGF_BACKEND"].startswith("unusable: VGF_BACKEND: expected one of auto, ")
    assert rows["VGF_CACHE_DIR"].startswith("not set (")
    assert rows["VGF_CPU_DENSE"].startswith("1 (")


def test_info_of_a_package_that_is_not_there():
    assert info._version("vgf-kernels-has-no-such-friend") == "not installed"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_demo_draws_a_picture(tmp_path, capsys, monkeypatch, backend):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "_timing", lambda engine: "left out")
    output = tmp_path / "picture.PNG"
    assert main(["demo", "--output", str(output), "--particles", "12", "--backend", backend]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert str(output) in said and f"engine: {backend} (" in said


def test_demo_flows_from_its_seed_with_the_kernel_and_without(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from vgf_kernels.cli import picture

    drawn = []
    figure = SimpleNamespace(savefig=lambda output: None)
    monkeypatch.setattr(picture, "draw", lambda *arguments: drawn.append(arguments) or figure)
    monkeypatch.setattr(demo, "_timing", lambda engine: "left out")
    for seed in ("0", "0", "1"):
        assert main(["demo", "--output", str(tmp_path / "picture.png"), "--particles", "12", "--seed", seed]) == 0
    (_, flow, without, _), (_, again, *_), (_, other, *_) = drawn
    np.testing.assert_array_equal(flow.path, again.path)
    np.testing.assert_array_equal(flow.path[0], without.path[0])
    assert not np.array_equal(flow.path[0], other.path[0])
    assert picture.nearest_distance(flow.path[-1]) > 2 * picture.nearest_distance(without.path[-1])


def test_demo_starts_from_actions_within_their_bounds(monkeypatch):
    monkeypatch.setattr(landscape, "BEHAVIOUR_STD", 3.0)
    actions = landscape.draw_reference(np.random.default_rng(0), 50)
    assert (actions.min(), actions.max()) == (-1, 1)


def test_demo_without_matplotlib(monkeypatch, capsys):
    from vgf_kernels import cli

    monkeypatch.delitem(sys.modules, "vgf_kernels.cli.picture", raising=False)
    monkeypatch.delattr(cli, "picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "vgf-kernels demo: matplotlib is not installed: pip install 'vgf-kernels[demo]'\n"


def test_demo_without_torch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo._timing("cpu") == "torch is not installed: no comparison"


def test_demo_critics_have_learned_the_landscape():
    critic = landscape.fit_critics(np.random.default_rng(0))
    actions = np.random.default_rng(1).uniform(-1, 1, (1, 500, 2)).astype(np.float32)
    q = reference.value(critic, landscape.OBS, actions)
    assert np.abs(q - landscape.true_value(actions)).max() < 0.05


def test_demo_timing_compares_the_same_flow():
    torch = pytest.importorskip("torch")
    from vgf_kernels import MLP
    from vgf_kernels.cli.timing import eager_flow

    torch.manual_seed(0)
    nets = [
        torch.nn.Sequential(torch.nn.Linear(5, 33), torch.nn.Tanh(), torch.nn.Linear(33, 1)) for _ in range(2)
    ]
    nets = [net.double().requires_grad_(False) for net in nets]
    obs, particles = torch.randn(3, 3).double(), torch.rand(3, 7, 2).double() * 2 - 1
    config = FlowConfig(num_steps=4)
    expected = reference.flow(MLP.from_torch(nets), obs.numpy(), particles.numpy(), config)
    np.testing.assert_allclose(eager_flow(nets, obs, particles, config).numpy(), expected, atol=1e-6)


def test_demo_timing_tells_the_round_in_the_middle(monkeypatch):
    pytest.importorskip("torch")
    from vgf_kernels.cli import timing

    for name, value in {"WIDTH": 8, "DEPTH": 1, "ROUNDS": 3}.items():
        monkeypatch.setattr(timing, name, value)
    seconds, backends, flow = iter([1.0, 2.0, 1.0, 4.0, 1.0, 3.0]), [], timing.vgf.flow
    monkeypatch.setattr(timing, "_seconds", lambda function: next(seconds))
    monkeypatch.setattr(timing.vgf, "flow", lambda *args, backend: backends.append(backend) or flow(*args, backend=backend))
    said = timing.compare("reference", list)
    assert "1000.0 ms, eager torch 3000.0 ms, 3.00 times as fast\n" in said and "rounds, 2.00 to 4.00;" in said
    assert backends == ["reference"]


def test_demo_timing_compares_nothing_that_differs():
    torch = pytest.importorskip("torch")
    from vgf_kernels.cli.timing import _check_agreement

    with pytest.raises(RuntimeError, match="agree on 50.0% of the particles' elements only, expected 99%"):
        _check_agreement(torch.zeros(2), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["fly"], ["info", "-x"], ["demo", "--particles", "1"], ["demo", "--particles", "1001"], ["demo", "--seed", "-1"],
        ["demo", "--backend", "gpu"],
    ],
)  # fmt: skip
def test_wrong_command_lines_exit_with_2(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2


def test_the_module_is_the_command():
    done = processes.python("-m", "vgf_kernels", "info")
    assert done.returncode == 0, done.stderr
    assert "engines, in the order" in done.stdout
    refused = processes.python("-m", "vgf_kernels", "bench")  # no checkout
    assert refused.returncode == 1
    assert refused.stderr.startswith("vgf-kernels bench: ")
    assert processes.python("-m", "vgf_kernels", "fly").returncode == 2


@pytest.mark.parametrize("buffering", [[], ["-u"]])
def test_a_reader_may_stop_reading(buffering):
    """As in `vgf-kernels info | head -1`."""
    code = "import os, sys; from vgf_kernels.cli import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1); sys.exit(main(['info']))"
    done = processes.python(*buffering, "-c", code)
    assert (done.returncode, done.stderr) == (1, "")


def test_failures_return_1_and_one_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    for arguments, why in (
        (["demo", "--output", "missing/picture.png"], "--output: expected a file in a folder that exists, got"),
        (["demo", "--output", "picture"], "--output: expected a name that ends in"),
        (["demo", "--output", "picture.xyz"], "--output: expected a name that ends in"),
        (["demo", "--output", "folder.png"], ""),
        (["bench"], "no ./bench beside ./vgf_kernels here"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"vgf-kernels {arguments[0]}: {why}") and error.count("\n") == 1


@pytest.mark.parametrize(("ended", "status"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 1)])
def test_bench_tells_how_pytest_ended(tmp_path, monkeypatch, ended, status):
    pytest.importorskip("pytest_benchmark")
    monkeypatch.chdir(tmp_path)
    for folder in ("bench", "vgf_kernels"):
        (tmp_path / folder).mkdir()
    given = []
    monkeypatch.setattr(pytest, "main", lambda arguments: given.append(arguments) or ended)
    assert main(["bench", "-k", "flow"]) == status
    assert given == [["bench/", "--benchmark-only", "-k", "flow"]]


def test_the_picture_does_not_ask_for_a_notebook():
    """Whose setting its shells inherit, while its package may not be installed here."""
    processes.run("import vgf_kernels.cli.picture", MPLBACKEND="of_a_notebook")
