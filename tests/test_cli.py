"""The command line: what it reports, draws and refuses."""

from __future__ import annotations

import sys

import numpy as np
import processes
import pytest

from vgf_kernels import reference
from vgf_kernels.cli import demo, landscape, main
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


def test_demo_draws_a_picture(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "_timing", lambda engine: "left out")
    output = tmp_path / "picture.png"
    assert main(["demo", "--output", str(output), "--particles", "12"]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert str(output) in capsys.readouterr().out


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


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["info", "-x"], ["demo", "--particles", "1"], ["demo", "--backend", "gpu"]]
)
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
    for arguments in (["demo", "--output", "missing/picture.png"], ["demo", "--output", "picture"], ["demo", "--output", "picture.xyz"], ["bench"]):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"vgf-kernels {arguments[0]}: ") and error.count("\n") == 1


def test_the_picture_does_not_ask_for_a_notebook():
    """Whose setting its shells inherit, while its package may not be installed here."""
    processes.run("import vgf_kernels.cli.picture", MPLBACKEND="module://of_a_notebook.backend_inline")
