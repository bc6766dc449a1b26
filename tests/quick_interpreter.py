"""Triton's interpreter, without work whose result nobody sees. It takes half the time then."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import triton.language as tl
from triton.runtime import interpreter


def hasten() -> None:
    """For a process in which nothing is compiled."""
    # Every call of a function of the device looks through all of triton.language for what to put in its place. Once will do.
    for module in (tl, tl.core):
        interpreter._patch_lang(SimpleNamespace(__globals__={"language": module}))
    interpreter._patch_lang = lambda function: SimpleNamespace(restore=lambda: None)
    # Integers are computed again in 64 bits for an assertion that is dropped, since only `debug` has assertions.
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = replace(builder.options, sanitize_overflow=False)
