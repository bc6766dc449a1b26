"""Products of row tiles with packed weights: the only place where tensor cores are called."""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Triton's interpreter multiplies bfloat16 wrongly and truncates float32 to bfloat16; both are worked around here.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def multiply_add(
    acc,
    a,
    a_stride,
    a_first,
    w,
    w_stride,
    w_first,
    inner,
    columns,
    ROWS: tl.constexpr,
    BK: tl.constexpr,
    PRODUCTS: tl.constexpr,
    ROUNDED: tl.constexpr = True,
):
    """acc [ROWS, columns] + a [ROWS, inner] @ w [inner, columns]; inner is rounded up to a multiple of BK.

    a and w are row-major matrices, padded with zeros up to that multiple, in memory where their first rows are
    a_first and w_first. Where their types differ, a (activations in bfloat16) is widened to w's. In float32 both are
    operands already, a only where it is ROUNDED.
    """
    rows, ks = tl.arange(0, ROWS), tl.arange(0, BK)
    a_at = a + (a_first + rows)[:, None] * a_stride + ks[None, :]
    w_at = w + (w_first + ks)[:, None] * w_stride + columns[None, :]
    for _ in range(0, inner, BK):
        rows_of_a = tl.load(a_at)
        if not ROUNDED:
            rows_of_a = operand(rows_of_a, PRODUCTS)
        acc = dot(rows_of_a, tl.load(w_at), acc, PRODUCTS)
        a_at += BK
        w_at += BK * w_stride
    return acc


@triton.jit
def dot(a, w, acc, PRODUCTS: tl.constexpr):
    """acc + a @ w. Float32 operands are multiplied as PRODUCTS says, "ieee" or "tf32"; sums are float32."""
    a = a.to(w.dtype)
    if INTERPRETED:
        a, w = a.to(tl.float32), w.to(tl.float32)
    return tl.dot(a, w, acc, input_precision=PRODUCTS)


@triton.jit
def operand(values, PRODUCTS: tl.constexpr):
    """Float32 values as a product should be given them: tensor cores cut off what tf32 has no bits for, twice the error
    of rounding to nearest (ties away from zero, as cvt.rna.tf32 of the PTX ISA), and always towards zero."""
    if PRODUCTS == "tf32":
        bits = (values.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        values = tl.where(values == values, bits.to(tl.float32, bitcast=True), values)  # noqa: PLR0124  a NaN stays one
    return values


@triton.jit
def store_operand(pointers, values, PRODUCTS: tl.constexpr, mask=None):
    """Store float32 values that a product will take."""
    if pointers.dtype.element_ty == tl.float32:
        values = operand(values, PRODUCTS)
    store_as(pointers, values, mask)


@triton.jit
def store_as(pointers, values, mask=None):
    """Store float32 values in the element type of the pointers, rounded to nearest even."""
    if INTERPRETED and pointers.dtype.element_ty == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        is_number = values == values  # noqa: PLR0124
        values = tl.where(is_number, rounded, bits).to(tl.float32, bitcast=True)
    tl.store(pointers, values.to(pointers.dtype.element_ty), mask=mask)
