"""The command line: vgf-kernels info | demo | bench."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv defaults to sys.argv[1:].

    Returns 0 on success and 1 after a failure, told in one line on stderr. A wrong command line exits with
    status 2 (SystemExit, as argparse does).
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = _run(args, rest)
        sys.stdout.flush()  # at the end of Python nobody could catch what comes of it
        return status
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RuntimeError, ValueError, OSError) as error:
        print(f"vgf-kernels {args.command}: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    if args.command == "info":
        from . import info

        return info.run()
    if args.command == "demo":
        from . import demo

        return demo.run(args.output, args.backend, args.seed, args.particles)
    from . import bench

    return bench.run(rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vgf-kernels", description="A fast flow backend for Value Gradient Flow."
    )
    parser.add_argument("--version", action="version", version=f"vgf-kernels {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)

    commands.add_parser(
        "info", help="engines, instruction sets, threads, versions, and what is missing and why"
    )

    demo = commands.add_parser(
        "demo", help="particles on a two-dimensional value landscape, as a picture; a timing",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    demo.add_argument("--output", default="demo.png", help="where the picture goes")
    demo.add_argument(
        "--backend", default="auto", choices=("auto", "cpu", "reference"), help="the engine that computes"
    )
    demo.add_argument(
        "--seed", type=_integer(0, 2**32 - 1), default=0, help="of the critics and the particles"
    )
    demo.add_argument("--particles", type=_integer(2, 1000), default=64, help="how many, 2 to 1000")

    commands.add_parser(
        "bench", help="the benchmarks; further arguments go to pytest",
        usage="vgf-kernels bench [-h] [pytest arguments ...]",
    )  # fmt: skip
    return parser


def _integer(low: int, high: int):
    """An argparse type: an integer from low to high."""

    def integer(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text!r}")
        return int(text)

    return integer
