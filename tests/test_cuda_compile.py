"""The machine code of every CUDA kernel, as the package ships it or else compiled here, is held to what the kernels
claim. No GPU needed.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import cubins
import pytest

# The tile and latency kernels have a multiprocessor for themselves: 256 threads may take 255 registers each. The others
# share it. Of Hopper's tile kernel it is what 640 threads start with; setmaxnreg moves them.
REGISTERS = {
    "tile_kernel": 255, "interact_kernel": 128, "hopper_tile_kernel": 96, "hopper_latency_kernel": 255,
}  # fmt: skip
OTHERS = 96
PRECISIONS = ("fp32", "tf32", "bf16")  # as the engine numbers them
# What must be in the code of Hopper's kernels, and what must not: products on the tensor cores of warpgroups, bulk copies,
# registers moved; or products of warps with transposed operands, stores that tell a barrier of the other block.
MOVED = ["UBLKCP", "USETMAXREG.DEALLOC.CTAPOOL", "USETMAXREG.TRY_ALLOC.CTAPOOL"]
INSTRUCTIONS = {
    "hopper_tile_kernel bf16": ([*MOVED, "HGMMA.64x128x16.F32.BF16"], "HMMA"),
    "hopper_tile_kernel tf32": ([*MOVED, "HGMMA.64x128x8.F32.TF32"], "HMMA"),
    "hopper_tile_kernel fp32": ([*MOVED, "HGMMA.64x32x8.F32.TF32", "LDSM.16.M88.4"], "HMMA"),
    "hopper_latency_kernel": (["HMMA.16816.F32.BF16", "LDSM.16.MT88.4", "STAS.64", "STAS.128", "LDGSTS"], "HGMMA"),
}  # fmt: skip

SPILLING = """
__device__ __noinline__ float sum(const float* p, int n) {
  float v[60], total = 0;
  for (int i = 0; i < 60; ++i) v[i] = p[i * n];
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < 60; ++i) v[i] = v[i] * v[(i * 7 + 3) % 60] + p[i];
  for (int i = 0; i < 60; ++i) total += v[i];
  return total;
}
__global__ void thrifty_kernel(float* p) { p[threadIdx.x] += 1; }
__global__ void spilling_kernel(float* p, int n) { *p = sum(p, n); }
"""
WAITING = """
#include <ptx/warpgroup.cuh>
__global__ void __launch_bounds__(128) waiting_kernel(float* p, std::uint32_t a, int n) {
  float d[64];
  for (int i = 0; i < 64; ++i) d[i] = p[i];
  vgf::cuda::ptx::begin_products();
  for (int i = 0; i < n; ++i) {
    vgf::cuda::ptx::multiply_group<vgf::Precision::bf16>(d, a, a);
#ifdef TOUCHED
    d[3] += 1;
#endif
    vgf::cuda::ptx::multiply_group<vgf::Precision::bf16>(d, a, a);
    vgf::cuda::ptx::commit_products();
    vgf::cuda::ptx::wait_products<1>();
  }
  vgf::cuda::ptx::wait_products<0>();
  for (int i = 0; i < 64; ++i) p[i] = d[i];
}
"""

# With products that take rows from R4 to R7, and what may stand before they are waited for.
ROWS = """
/*0000*/ LDSM.16.M88.4 R4, [R2] ;
/*0010*/ WARPGROUP.ARRIVE ;
/*0020*/ HGMMA.64x32x8.F32.TF32 R24, R4, gdesc[UR8], !UPT ;
/*0030*/ HGMMA.64x32x8.F32.TF32 R24, R4, gdesc[UR12], R24, gsb0 ;
/*0040*/ {} ;
/*0050*/ WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
/*0060*/ @P0 LDSM.16.M88.4 R4, [R2] ;
"""


@pytest.fixture(scope="module")
def code(once):
    """All cubins: of each source, for each architecture."""
    if cubins.missing():
        pytest.skip(cubins.missing())
    return sorted(once("cubins", cubins.collect).glob("*.cubin"))


@pytest.fixture(scope="module")
def kernels(code):
    return [kernel for cubin in code for kernel in cubins.kernels_of(cubin)]


@pytest.fixture(scope="module")
def hopper_code(code):
    """The machine code of Hopper's kernels, by name."""
    found = {}
    for cubin in code:
        if cubin.match("*.sm_90a.cubin"):
            found |= {name: text for name, text in cubins.instructions_of(cubin).items() if "hopper_" in name}
    return found


def kernel_of(name: str) -> str:
    """A kernel of Hopper by its mangled name, with its precision where it has several."""
    precision = re.search(r"PrecisionE(\d)", name)
    kernel = re.search(r"hopper_[a-z]+_kernel", name).group()
    return f"{kernel} {PRECISIONS[int(precision[1])]}" if precision else kernel


def groups_of_products(instructions: str) -> str:
    """How a function's warpgroup products follow each other: A opens the registers to them, h is a product, H the last
    of a group, w waits for all but the youngest group, W for all.
    """
    letters = []
    for name, rest in re.findall(r"\b(WARPGROUP\.ARRIVE|WARPGROUP\.DEPBAR|HGMMA)\b(.*?);", instructions):
        if name == "HGMMA":
            letters.append("H" if "gsb0" in rest else "h")
        else:
            letters.append("A" if name == "WARPGROUP.ARRIVE" else "W" if "gsb0, 0x0" in rest else "w")
    return "".join(letters)


def with_addresses(instructions: str) -> list[tuple[int, str]]:
    """A function's instructions, each with its address."""
    return [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,6})\*/\s+(.*?);", instructions)]


def products(instructions: str) -> str:
    """What lies between a function's first product of a warpgroup and the wait for its last one, in the order of addresses."""
    code = with_addresses(instructions)
    at = [address for address, text in code if re.match(r"WARPGROUP\.(ARRIVE|DEPBAR)|HGMMA", text)]
    return " ".join(text for address, text in code if at and at[0] <= address <= at[-1])


def overwritten(instructions: str) -> tuple[int, list[str]]:
    """How many products take rows from registers, and the instructions that write to those of one not yet waited for."""
    count, found, rows = 0, [], set()
    for _, text in with_addresses(instructions):
        name, *operands = re.split(r"[\s,]+", re.sub(r"^@\S+\s+", "", text))
        registers = [int(match[1]) if (match := re.match(r"R(\d+)", operand)) else None for operand in operands[:2]]
        if name.startswith("HGMMA"):
            if None not in registers:
                count += 1
                rows |= set(range(registers[1], registers[1] + 4))
        elif name == "WARPGROUP.DEPBAR.LE" and operands[:2] == ["gsb0", "0x0"]:
            rows = set()
        elif registers and registers[0] is not None and not re.match(r"ST|RED|BAR|SYNCS", name):
            width = 4 if ".128" in name or name.startswith("LDSM") else 2 if re.search(r"\.64|WIDE", name) else 1
            if rows & set(range(registers[0], registers[0] + width)):
                found.append(text.strip())
    return count, found


def reached(code: list[tuple[int, str]], start: int) -> set[int]:
    """The addresses of what may run from an instruction on: behind it, where it jumps to, and in the functions it calls."""
    texts, following = dict(code), {at: after for (at, _), (after, _) in pairwise(code)}
    found, todo = set(), [start]
    while todo:
        at = todo.pop()
        if at is None or at in found:
            continue
        found.add(at)
        text = texts[at]
        assert not re.search(r"\b(BRX|JMX)\b", text), f"where does it lead? {text}"
        todo += [int(to, 16) for to in re.findall(r"\b(?:BRA|CALL|WARPSYNC)\S*\s+(?:\S+,\s*)?0x([0-9a-f]+)", text)]
        if not re.match(r"(EXIT|RET|BRA(?!\.DIV))\b(?!.*\bU?P\d)", text):  # what is under a condition may go on
            todo.append(following.get(at))
    return found


def compiled(folder, text, architecture, *options):
    """The cubin of a source of one's own."""
    if cubins.missing() or cubins.nvcc() is None:
        pytest.skip(cubins.missing() or "no CUDA compiler (nvcc) was found; set CUDACXX")
    source = folder / "source.cu"
    source.write_text(text)
    cubins.compile_into(folder, source, [architecture], *options)
    return next(folder.glob("*.cubin"))


def test_every_source_is_there_for_every_architecture(code):
    counts = Counter(cubin.name.split(".")[-2] for cubin in code)
    counts["sm_90a"] -= len(cubins.HOPPER_KERNELS)  # VGF_CUDA_ARCHS may ask for the others there, too
    assert set((+counts).values()) == {len(cubins.KERNELS)}, f"built from other sources? Install again. {counts}"


def test_nothing_spills(kernels):
    assert not [kernel for kernel in kernels if kernel.spills]


def test_products_of_warpgroups_use_no_memory_of_a_thread(hopper_code):
    for name, instructions in hopper_code.items():
        between = products(instructions)
        assert ("hopper_tile_kernel" in name) == ("HGMMA" in between)
        assert not re.search(r"\b(LDL|STL)\b", between), name


def test_registers(kernels):
    assert not [kernel for kernel in kernels if kernel.registers > REGISTERS.get(kernel.function, OTHERS)]
    assert set(REGISTERS) < {kernel.function for kernel in kernels}
    # With fewer at the start, the warpgroups would wait forever for those that setmaxnreg is to hand out.
    starts = {kernel.registers for kernel in kernels if kernel.function == "hopper_tile_kernel"}
    assert starts == {REGISTERS["hopper_tile_kernel"]}


def test_registers_of_the_fetching_warpgroup(hopper_code):
    """It has few once it has given them away, and so have the functions that it calls: one that takes more would write to those
    of other warps.
    """
    layout = (cubins.ROOT / "csrc/cuda/sm90_layout.hpp").read_text()
    given = int(re.search(r"kFetchRegisters = (\d+)", layout)[1])
    for name, instructions in hopper_code.items():
        if "hopper_tile_kernel" not in name:
            continue
        code = with_addresses(instructions)
        (gives,) = (at for at, text in code if "USETMAXREG.DEALLOC" in text)
        own = reached(code, gives)
        texts = [text for at, text in code if at in own]
        used = [int(register) for text in texts for register in re.findall(r"\bR(\d+)\b", text)]
        assert sum("UBLKCP" in text for text in texts) > 3 and not any("HGMMA" in text for text in texts), name
        assert any("UCGABAR_WAIT" in text for text in texts), name
        assert max(used) < given, name


def test_shared_memory_is_dynamic(kernels):
    """The host asks for all of it, so that it can be held to the device's limit before a launch."""
    assert not [kernel for kernel in kernels if kernel.shared]


def test_products_of_warpgroups_are_not_waited_for_one_by_one(hopper_code):
    """Two make a group, which is under way until the next one is; in float32 three make one term of 32 columns, which is then
    added. Where ptxas serialises, it waits for each product.
    """
    for name, instructions in hopper_code.items():
        if "hopper_tile_kernel" in name:
            expected = "(AhhHW){4}" if kernel_of(name).endswith("fp32") else "AhHwW"
            assert re.fullmatch(expected, groups_of_products(instructions)), name


def test_instructions_of_hopper_kernels(hopper_code):
    kernels = {name: kernel_of(name) for name in hopper_code}
    assert set(kernels.values()) == set(INSTRUCTIONS)
    for name, kernel in kernels.items():
        present, absent = INSTRUCTIONS[kernel]
        assert not [i for i in present if not re.search(rf"\b{re.escape(i)}\b", hopper_code[name])], name
        assert not re.search(rf"\b{absent}\b", hopper_code[name]), name


def test_only_barriers_of_the_cluster_wait_for_memory(hopper_code):
    """A ring's or an exchange's mbarrier must not: its fence of the whole GPU would take longer than the product between two.
    Blocks that evaluate different members meet twice a step, over an mbarrier that hands on what they have written.
    """
    for name, instructions in hopper_code.items():
        meetings = 2 if "hopper_tile_kernel" in name else 0
        counts = Counter(re.findall(r"\b(MEMBAR\.[A-Z]+\.GPU|UCGABAR_ARV|CCTL\.IVALL|UCGABAR_WAIT)\b", instructions))
        assert counts["UCGABAR_ARV"] > 0, name
        assert counts["MEMBAR.ALL.GPU"] == counts["UCGABAR_ARV"] + meetings and len(counts) <= 4, name
        assert counts["CCTL.IVALL"] == counts["UCGABAR_WAIT"] + 2 * meetings, name  # of the first try and the others


def test_rows_that_a_product_takes_from_registers_stay_there(hopper_code):
    """Compilers before CUDA 13.3 may use them again while a product still reads them."""
    counts = set()
    for name, instructions in hopper_code.items():
        count, found = overwritten(instructions)
        assert not found, name
        counts.add((kernel_of(name), count > 0))
    assert counts == {(kernel, kernel == "hopper_tile_kernel fp32") for kernel in INSTRUCTIONS}


@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
def test_spills_are_found(tmp_path, architecture):
    """Those of functions that are called, too."""
    kernels = cubins.kernels_of(compiled(tmp_path, SPILLING, architecture, "-maxrregcount=40"))
    assert {kernel.function: kernel.spills > 0 for kernel in kernels} == {
        "spilling_kernel": True, "thrifty_kernel": False,
    }  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), [((), "(A+(hHw)+)+W"), (("-DTOUCHED",), "(AHW)+")])
def test_products_that_are_waited_for_are_found(tmp_path, options, expected):
    cubin = compiled(tmp_path, WAITING, "sm_90a", *options)
    (instructions,) = cubins.instructions_of(cubin).values()
    assert re.fullmatch(expected, groups_of_products(instructions))


@pytest.mark.parametrize(
    ("between", "wrong"),
    [
        ("MOV R5, R9", True), ("@!P1 IADD3 R7, R1, R2, RZ", True), ("LDS.128 R0, [R6]", False), ("LDS.128 R4, [R0]", True),
        ("IMAD.WIDE R2, R4, R5, R6", False), ("LDS.64 R6, [R0]", True), ("STS.128 [R4], R4", False), ("UMOV UR4, 0x1", False),
    ],
)  # fmt: skip
def test_rows_that_are_overwritten_are_found(between, wrong):
    assert overwritten(ROWS.format(between)) == (2, [between] if wrong else [])
