"""Options, fixtures and the summary of the benchmark suite."""

from __future__ import annotations

import sys
from pathlib import Path

# Where `python -m pytest` begins to look, before the installed package.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).parents[1]]

import pytest
import report
from cases import CASES, trained_case
from contestants import contestants_of
from run import Run

RUN = pytest.StashKey[Run]()


def pytest_addoption(parser) -> None:
    add = parser.getgroup("vgf-kernels bench").addoption
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the contestants compute")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="in which they compute")
    add("--rounds", type=int, default=12, help="turns of every contestant (large cases take fewer)")
    add("--trained", type=Path, metavar="NPZ", help="also a critic that train_offline.py --save-critic wrote")
    add("--save-results", action="store_true", help="write bench/results/<utc date>-<machine>.json")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "large: 100,000 particles and more; takes minutes")
    option = config.option
    if option.rounds < 1:
        raise pytest.UsageError(f"--rounds: expected 1 or more, got {option.rounds}")
    if option.device == "cpu" and option.precision == "tf32":
        raise pytest.UsageError("--precision: the cpu engine computes fp32 or bf16, got tf32; pass one of these")
    if option.trained and not (option.trained.suffix == ".npz" and option.trained.is_file()):
        raise pytest.UsageError(
            f"--trained: expected an .npz file, got {option.trained}; write one with train_offline.py --save-critic"
        )


def pytest_generate_tests(metafunc) -> None:
    if "contestant" in metafunc.fixturenames:
        contestants = contestants_of(metafunc.config.option.device, metafunc.config.option.precision)
        metafunc.parametrize("contestant", contestants, ids=[c.name for c in contestants])
    if "case" in metafunc.fixturenames:
        trained = metafunc.config.option.trained
        every = [*CASES, trained_case(trained)] if trained else CASES
        cases = [pytest.param(c, id=c.name, marks=[pytest.mark.large] if c.large else []) for c in every]
        metafunc.parametrize("case", cases)


@pytest.fixture(scope="session")
def run(request):
    option = request.config.option
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def progress(text: str) -> None:
        """On a terminal one line that rewrites itself, in a log a line for each contestant and case."""
        with capture.global_and_fixture_disabled():
            if terminal.isatty:
                terminal.rewrite(text, erase=True)
            elif text and "round" not in text:
                terminal.write_line(text)

    run = request.config.stash[RUN] = Run(option.device, option.precision, option.rounds, progress)
    try:
        yield run
    finally:
        run.close()


def pytest_terminal_summary(terminalreporter, config) -> None:
    run = config.stash.get(RUN, None)
    if run is None:
        return
    terminalreporter.section("in turns: time of vgf, and how many times as long the others take [quartiles]")
    for line in report.lines(run, contestants_of(run.device, run.precision)):
        terminalreporter.write_line(line)
    if config.option.save_results:
        path = report.save(run)
        terminalreporter.write_line(f"written: {path}" if path else "nothing was measured, so no record is written")
