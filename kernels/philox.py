"""Draws inside a kernel: fastsolve/philox.py is the definition, and the bits here are equal to its bits.

Only operations that IEEE-754 rounds correctly: add, mul, square root, integers, bit casts. tl.log and tl.cos are libdevice (not
correctly rounded, and a slow path in local memory), tl.sqrt and `/` are approximations, and tl.fma is a true fma in some
versions of the interpreter only. Kernels that call this are launched with enable_fp_fusion=False, else a*b + c becomes one.

Where the definition multiplies, converts or shifts twice, an exact identity does it once here. PTX says that the target is
NVIDIA's, where two steps are a few instructions of its assembly; everywhere else they are Triton's own.
"""

import triton
import triton.language as tl


@triton.jit
def square_root(x, PTX: tl.constexpr):
    """sqrt(x), correctly rounded, for any x from 2^-101 on: -2 log u is never less than 2^-23."""
    if PTX:
        # The instructions that sqrt.rn itself is for such x, without its test for others and the code of that case.
        return tl.inline_asm_elementwise(
            """{ .reg .f32 y, r, e;
            rsqrt.approx.ftz.f32 y, $1;
            mul.rn.f32 r, $1, y;
            mul.rn.f32 y, y, 0f3F000000;
            neg.f32 e, r;
            fma.rn.f32 e, e, r, $1;
            fma.rn.f32 $0, e, y, r; }""",
            "=f,f", [x], tl.float32, True, 1)  # fmt: skip
    else:
        return tl.sqrt_rn(x)


@triton.jit
def box_muller(first, second, PTX: tl.constexpr):
    # (i + 1/2) 2^-23 in (0, 1) for the upper 23 bits i: they are a number of [1, 2), and 1 - 2^-24 less is exact.
    u = ((first >> 9) + 0x3F800000).to(tl.float32, bitcast=True) - 0.999999940395355224609375

    # log u, Cephes logf: u = 2^e m with sqrt(1/2) <= m < sqrt(2), by the bits; 0x3F3504F3 is sqrt(1/2).
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    e = exponent.to(tl.float32)
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    p = 7.0376836292e-2 * f + -1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f + -1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f + -1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f + -2.4999993993e-1
    p = p * f + 3.3333331174e-1
    log_u = (f + ((p * f) * square + e * -2.12194440e-4 - 0.5 * square)) + e * 0.693359375
    r = square_root(log_u * -2.0, PTX)

    # A full turn is 2^32: the nearest quarter, and the signed rest within an eighth of a turn, which is the lower 30 bits: shifted
    # to the top they are 4 times that, and the factor a quarter of (pi/2) / 2^30.
    a = (second << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.657295198167899e-10
    w = a * a
    sin = ((-1.9515295891e-4 * w + 8.3321608736e-3) * w + -1.6666654611e-1) * w * a + a
    cos = ((2.443315711809948e-5 * w + -1.388731625493765e-3) * w + 4.166664568298827e-2) * (w * w) - 0.5 * w + 1.0
    quarter = second + 0x20000000  # its number is the two upper bits
    odd = (quarter & 0x40000000) != 0
    x = tl.where(odd, sin, cos).to(tl.uint32, bitcast=True) ^ ((second + 0x60000000) & 0x80000000)
    y = tl.where(odd, cos, sin).to(tl.uint32, bitcast=True) ^ (quarter & 0x80000000)
    return r * x.to(tl.float32, bitcast=True), r * y.to(tl.float32, bitcast=True)


@triton.jit
def _product(a, FACTOR: tl.constexpr, PTX: tl.constexpr):
    """The upper and the lower word of a * FACTOR."""
    if PTX:
        # One instruction; of tl.umulhi and `*`, ptxas makes two.
        return tl.inline_asm_elementwise(
            "{ .reg .b64 p; mul.wide.u32 p, $2, $3; mov.b64 {$1, $0}, p; }",
            "=r,=r,r,r", [a, FACTOR], (tl.uint32, tl.uint32), True, 1)  # fmt: skip
    else:
        return tl.umulhi(a, FACTOR), a * FACTOR


@triton.jit
def philox(seed, c0, c1, c2, c3, PTX: tl.constexpr):
    """Philox4x32-10: counter c0 .. c3 (uint32), key the 64 bits of the seed."""
    k0, k1 = seed.to(tl.uint32), (seed.to(tl.uint64) >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        a_high, a_low = _product(c0, 0xD2511F53, PTX)
        b_high, b_low = _product(c2, 0xCD9E8D57, PTX)
        c0, c1, c2, c3 = b_high ^ c1 ^ k0, b_low, a_high ^ c3 ^ k1, a_low
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def group_normals(seed, group, number, stream, PTX: tl.constexpr):
    """The four normals of each group: elements 4*group .. 4*group + 3."""
    w0, w1, w2, w3 = philox(seed, group, tl.full((), 0, tl.uint32), number, stream, PTX)
    z0, z1 = box_muller(w0, w1, PTX)
    z2, z3 = box_muller(w2, w3, PTX)
    return z0, z1, z2, z3


@triton.jit
def block_normals(seed, start, number, stream, BLOCK: tl.constexpr, WIDTH: tl.constexpr, PTX: tl.constexpr):
    """Normals of elements start .. start + BLOCK - 1 of one sample, in order; BLOCK divides start, which is below 2^31.

    A thread holds whole groups, WIDTH elements in a row as its loads do (4, or 8 of 16-bit tensors): joining them costs no
    exchange between threads. Other shapes make Triton go through shared memory.
    """
    first = (start >> 2).to(tl.uint32)
    lane = tl.arange(0, BLOCK // WIDTH).to(tl.uint32)
    if WIDTH == 4:
        z0, z1, z2, z3 = group_normals(seed, first + lane, number, stream, PTX)
        z = tl.join(tl.join(z0, z2), tl.join(z1, z3))
    else:
        tl.static_assert(WIDTH == 8)
        z0, z1, z2, z3 = group_normals(seed, first + 2 * lane, number, stream, PTX)
        z4, z5, z6, z7 = group_normals(seed, first + 2 * lane + 1, number, stream, PTX)
        z = tl.join(tl.join(tl.join(z0, z4), tl.join(z2, z6)), tl.join(tl.join(z1, z5), tl.join(z3, z7)))
    return tl.reshape(z, (BLOCK,))


@triton.jit
def element_normals(seed, element, number, stream, PTX: tl.constexpr):
    """Normals of any elements of any samples, one at a time: a whole Philox call for each, no order needed."""
    group = element >> 2
    w0, w1, w2, w3 = philox(seed, group.to(tl.uint32), (group >> 32).to(tl.uint32), number, stream, PTX)
    late = (element & 2) != 0
    x, y = box_muller(tl.where(late, w2, w0), tl.where(late, w3, w1), PTX)
    return tl.where((element & 1) != 0, y, x)
