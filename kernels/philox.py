"""Draws inside a kernel: fastsolve/philox.py is the definition, and the bits here are equal to its bits.

Only operations that IEEE-754 rounds correctly: add, mul, sqrt_rn, integers, bit casts. tl.log and tl.cos are libdevice (not
correctly rounded, and a slow path in local memory), tl.sqrt and `/` are approximations, and tl.fma is a true fma in some
versions of the interpreter only. Kernels that call this are launched with enable_fp_fusion=False, else a*b + c becomes one.
"""

import triton
import triton.language as tl


@triton.jit
def box_muller(first, second):
    # (i + 1/2) 2^-23 in (0, 1), exact; signed, because the conversion of a signed integer is the cheaper one.
    u = ((first >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07

    # log u, Cephes logf: u = 2^e m with sqrt(1/2) <= m < sqrt(2), by the bits; 0x3F3504F3 is sqrt(1/2).
    bits = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    e = (bits >> 23).to(tl.float32)
    f = ((bits & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
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
    r = tl.sqrt_rn(log_u * -2.0)

    # A full turn is 2^32: the nearest quarter, and the signed rest within an eighth of a turn, in units of (pi/2) / 2^30.
    quarter = (second + 0x20000000) >> 30
    a = (second - (quarter << 30)).to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09
    w = a * a
    sin = ((-1.9515295891e-4 * w + 8.3321608736e-3) * w + -1.6666654611e-1) * w * a + a
    cos = ((2.443315711809948e-5 * w + -1.388731625493765e-3) * w + 4.166664568298827e-2) * (w * w) - 0.5 * w + 1.0
    odd = (quarter & 1) != 0
    x = tl.where(odd, sin, cos).to(tl.uint32, bitcast=True) ^ (((quarter + 1) & 2) << 30)
    y = tl.where(odd, cos, sin).to(tl.uint32, bitcast=True) ^ ((quarter & 2) << 30)
    return r * x.to(tl.float32, bitcast=True), r * y.to(tl.float32, bitcast=True)


@triton.jit
def group_normals(seed, low, high, number, stream):
    """The four normals of each group: elements 4*group .. 4*group + 3."""
    w0, w1, w2, w3 = tl.philox(seed, low, high, number, stream)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def block_normals(seed, start, number, stream, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Normals of elements start .. start + BLOCK - 1 of one sample, in order; BLOCK divides start.

    A thread holds whole groups, WIDTH elements in a row as its loads do (4, or 8 of 16-bit tensors): joining them costs no
    exchange between threads. Other shapes make Triton go through shared memory.
    """
    group = start >> 2
    low, high = group.to(tl.uint32), (group >> 32).to(tl.uint32)  # a block never straddles 2^32 groups: no carry
    lane = tl.arange(0, BLOCK // WIDTH).to(tl.uint32)
    if WIDTH == 4:
        z0, z1, z2, z3 = group_normals(seed, low + lane, high, number, stream)
        z = tl.join(tl.join(z0, z2), tl.join(z1, z3))
    else:
        tl.static_assert(WIDTH == 8)
        z0, z1, z2, z3 = group_normals(seed, low + 2 * lane, high, number, stream)
        z4, z5, z6, z7 = group_normals(seed, low + 2 * lane + 1, high, number, stream)
        z = tl.join(tl.join(tl.join(z0, z4), tl.join(z2, z6)), tl.join(tl.join(z1, z5), tl.join(z3, z7)))
    return tl.reshape(z, (BLOCK,))


@triton.jit
def element_normals(seed, element, number, stream):
    """Normals of any elements of any samples, one at a time: a whole Philox call for each, no order needed."""
    group = element >> 2
    w0, w1, w2, w3 = tl.philox(seed, group.to(tl.uint32), (group >> 32).to(tl.uint32), number, stream)
    late = (element & 2) != 0
    x, y = box_muller(tl.where(late, w2, w0), tl.where(late, w3, w1))
    return tl.where((element & 1) != 0, y, x)
