"""csrc/cuda/ against the definition: fastsolve.philox and updates spelled in NumPy, bit for bit, on a CPU and on a GPU.

Without a GPU the very same sources are compiled for a CPU against tests/cuda_shim/.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
import torch

from bits import assert_bits_equal
from fastsolve import philox
from shim import Shimmed
from updates import CASES, DTYPES, MID_CASES, SEEDS, Case, Problem, any_pattern, clip, in_order, rounding_values


@dataclass(frozen=True)
class Place:
    """Where kernels run."""

    module: ModuleType
    device: str

    def stream(self) -> int:
        return torch.cuda.current_stream().cuda_stream if self.device == "cuda" else 0


@pytest.fixture(scope="session", params=["shim", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "cuda":
        return Place(pytest.importorskip("fastsolve._cuda"), "cuda")
    return Place(request.getfixturevalue("shimmed").module, "cpu")


class Launch:
    """The update of a problem on a device, with the tables that it reads there."""

    def __init__(self, place: Place, problem: Problem, device: int = 0) -> None:
        case = problem.case
        self._place = place
        self.table = torch.from_numpy(problem.table.copy()).to(place.device)
        self.draws = torch.from_numpy(np.array(case.draws or [(0, 0)], np.uint32).view(np.int32)).to(place.device)
        self.seeds = torch.from_numpy(problem.seeds.view(np.int64).copy()).to(place.device)
        tables = self.table.data_ptr(), self.draws.data_ptr()
        given = case.batch, case.size, device, problem.mids, problem.stride
        self.program = place.module.Program(problem.codes, *tables, [problem.update], *given)
        self.program.seeds(self.seeds.data_ptr())
        for slot, address in enumerate(problem.addresses()):
            self.program.set(slot, address)

    def __call__(self) -> None:
        self.program.run(0, self._place.stream())


def cyclic(letters: str, n: int) -> str:
    return (letters * n)[:n]


A_DRAW = ((1, 9),)
SEVERAL = tuple((1, number) for number in range(4))
MORE = [
    *(
        Case(f"{k}-of-{kinds}-{d}-draws-{n}", n, cyclic(kinds, k), outs, in_order(k + d) * len(outs), SEVERAL[:d], 2)
        for k in range(10)
        for d in range(5)
        for kinds, outs in (("f", "f"), ("fbh", "fb"))
        for n in (1000, 1003)
        if k + d
    ),
    *(Case(f"tail-{n}", n, "fff", "f", in_order(4), A_DRAW) for n in (1, 2, 3, 4, 5, 63, 511, 512, 513, 1023, 1025)),
    *(Case(f"rest-of-a-thread-{n}", n, "ff", "fh", ((0, 1), (0, 1))) for n in (511, 512, 516, 1020, 1023, 1024, 1028)),
    Case("two-full-rows", 1000, "fb", "fb", ((0, 1), (0, 1))),
    Case("two-rows-one-order", 1000, "fff", "ff", ((2, 0), (2, 1, 0))),
    Case("eight-left-out", 1000, "f" * 8, "fff", ((0, 2, 4, 6), (1, 3, 5, 7), (0, 7)), batch=2),
    Case("eight-and-three-draws", 1003, "fbfhfbfh", "fb", ((0, 2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 10)), SEVERAL[:3], 2),
    Case("orders-disagree", 1000, "fff", "fff", ((0, 1, 2), (0, 1, 2), (2, 0, 1))),
    Case("orders-disagree-in-place", 1003, "ff", "ff", ((0, 1), (1, 0)), alias=(0, 1)),
    Case("draws-in-another-order", 1003, "f", "ff", ((0, 3, 1), (0, 2, 1)), SEVERAL[:3], 2),
    Case("a-draw-before-a-source", 1003, "ff", "f", ((0, 2, 1),), A_DRAW, 2),
    Case("a-draw-twice", 1003, "f", "f", ((0, 1, 1),), A_DRAW, 2),
    *(
        Case(f"{n}-rows", 1003, "f" * n, "fbh" * 2 + "ff"[: n - 6], tuple((i, (i + 1) % n) for i in range(n)))
        for n in (7, 8)
    ),
    Case("rotate-eight", 1003, "f" * 8, "f" * 8, tuple(((i + 3) % 8,) for i in range(8)), alias=tuple(range(8))),
    Case("thousand-samples", 5, "f", "f", ((0, 1),), A_DRAW, 1000),
    Case("samples-of-one", 1, "f", "fh", ((0, 1), (1, 0)), A_DRAW, 70_000),
    Case("samples-of-a-block", 512, "f", "f", ((0, 1),), A_DRAW, 65),
    Case("million", 1_000_003, "fb", "fb", ((0, 1, 2), (0, 2)), A_DRAW),
]


def assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal bits, and any NaN for a NaN."""
    assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (got.cpu(), want)))


def check(place: Place, problem: Problem) -> None:
    expected = problem.expected()
    Launch(place, problem)()
    for out, row in zip(problem.outs, expected, strict=True):
        assert_same(out, row)
    problem.assert_margins()


@pytest.mark.parametrize("case", CASES + MORE + MID_CASES, ids=str)
def test_update_is_the_definition(place: Place, case: Case) -> None:
    check(place, Problem(case, device=place.device, awkward=True))


@pytest.mark.parametrize("shift", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "case", [case for case in CASES + MORE if case.name.startswith(("3-", "in-place", "8-"))], ids=str
)
def test_addresses_that_suit_no_vector(place: Place, case: Case, shift: int) -> None:
    """4 suits those of 16-bit elements and, by chance, of float32."""
    check(place, Problem(case, device=place.device, shift=shift))


@pytest.mark.parametrize("number", range(150))
def test_any_rows(place: Place, number: int) -> None:
    """Rows at random: terms in any order, left out, repeated, draws among them."""
    rng = np.random.default_rng(number)
    sources, draws = rng.integers(0, 7), rng.integers(0, 4)
    rows = []
    for _ in range(rng.integers(1, 5)):
        terms = rng.permutation(max(sources + draws, 1))[: rng.integers(1, 8)]
        rows.append(
            tuple(map(int, np.sort(terms) if rng.random() < 0.6 else terms)) + ((0,) if rng.random() < 0.1 else ())
        )
    letters = "".join(rng.choice(list("ffbh"), sources or int(draws == 0)))
    outs = "".join(rng.choice(list("fb"), len(rows)))
    check(
        place, Problem(Case(f"any-{number}", 37, letters, outs, tuple(rows), SEVERAL[:draws], 3), device=place.device)
    )


@pytest.mark.parametrize("number", range(60))
def test_any_mids(place: Place, number: int) -> None:
    rng = np.random.default_rng(number)
    pattern = any_pattern(rng, int(rng.integers(1, 6)), int(rng.integers(0, 4)))
    case = Case("y" * number, int(rng.integers(1, 600)), batch=3, **pattern)
    check(place, Problem(case, device=place.device, awkward=True))


@pytest.mark.parametrize("bounds", [(0.5, -0.5), (np.nan, 0.5), (-0.5, np.nan), (-0.0, 0.0), (-np.inf, np.inf)])
def test_bounds_as_they_come(place: Place, bounds: tuple[float, float]) -> None:
    """Crossed, missing, of a sign that a minimum or a maximum would not keep."""
    problem = Problem(Case("bounds", 100, "f", "f", ((1,),), mids=(clip(0),)), device=place.device)
    problem.table[2:] = (1, *bounds, 1)
    problem.sources[0][0, :4] = torch.tensor([0.0, -0.0, torch.nan, torch.inf])
    check(place, problem)


@pytest.mark.skipif(sys.platform != "linux", reason="how memory is protected differs from system to system")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 62, 512, 1023])
@pytest.mark.parametrize(("kind", "width"), [(0, 4), (1, 2)], ids=["float32", "bfloat16"])
def test_nothing_behind_a_tensor_is_read(shimmed: Shimmed, kind: int, width: int, size: int) -> None:
    """The source ends where a page ends, and the next page may not be read: a child that does is killed."""
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    beginning = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(beginning + 2 * page), ctypes.c_size_t(page), 0) == 0
    out, table = np.empty((2, size), np.float32), np.ones(2, np.float32)
    draws, seeds = np.zeros((1, 2), np.int32), np.zeros(2, np.uint64)
    for numbers, batch in (([], 1), ([(0, 0)], 2)):
        update = ([0], numbers, [(1, list(range(1 + len(numbers))), 0)])
        program = shimmed.module.Program([kind, 0], table.ctypes.data, draws.ctypes.data, [update], batch, size, 0)
        program.seeds(seeds.ctypes.data)
        program.set(0, beginning + 2 * page - batch * size * width)
        program.set(1, out.ctypes.data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child has no use for other threads
            child = os.fork()
        if child == 0:
            program.run(0, 0)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def drawn(place: Place, seeds: np.ndarray, size: int, stream: int, number: int) -> np.ndarray:
    problem = Problem(Case("draw", size, draws=((stream, number),), batch=len(seeds)), device=place.device)
    problem.table[:], problem.seeds = 1, seeds
    Launch(place, problem)()
    problem.assert_margins()
    return problem.outs[0].cpu().numpy()


def test_a_million_normals(place: Place) -> None:
    assert_bits_equal(drawn(place, SEEDS[:1], 1_000_003, 1, 3), philox.normals(SEEDS[:1], 1_000_003, 3, 1))


@pytest.mark.parametrize(("stream", "number"), [(0, 0), (1, 7), (2**32 - 1, 2**32 - 1)])
def test_normals_do_not_depend_on_the_batch(place: Place, stream: int, number: int) -> None:
    together = drawn(place, SEEDS, 1003, stream, number)
    assert_bits_equal(together, philox.normals(SEEDS, 1003, number, stream))
    for i in range(3):
        assert_bits_equal(drawn(place, SEEDS[i : i + 1], 1003, stream, number), together[i : i + 1])


def test_the_high_word_of_the_group_is_counted(shimmed: Shimmed) -> None:
    library, group, seed = shimmed.library, 2**34 + 1024, int(SEEDS[0])
    words = philox.philox4x32((1024, 4, 5, 1), (seed & 0xFFFFFFFF, seed >> 32))
    expected = np.ravel(philox.box_muller(words[0], words[1]) + philox.box_muller(words[2], words[3]))
    z = np.empty(4, np.float32)
    library.group_normals(z.ctypes.data_as(ctypes.c_void_p), *map(ctypes.c_uint64, (seed, group)), 1, 5)
    assert_bits_equal(z, expected)
    library.element_normal.restype = ctypes.c_float
    elements = [library.element_normal(*map(ctypes.c_uint64, (seed, 4 * group + i)), 1, 5) for i in range(4)]
    assert_bits_equal(np.float32(elements), expected)


def test_what_lies_on_the_device_is_read_at_every_run(place: Place) -> None:
    """Coefficients, draw numbers, seeds: a captured graph follows them."""
    problem = Problem(Case("tables", 1003, "f", "f", ((0, 1),), A_DRAW, 2), device=place.device)
    launch = Launch(place, problem)
    launch()
    launch.table[2:] = torch.tensor((3.0, -0.5))
    launch.draws[0] = torch.tensor((0, 4))
    launch.seeds[:2] = torch.tensor((8, 9))
    launch()
    z = torch.from_numpy(philox.normals(np.uint64([8, 9]), 1003, 4, 0))
    assert_bits_equal(problem.outs[0], 3 * problem.sources[0].cpu() + -0.5 * z)


def test_draws_of_later_updates_follow_those_of_earlier_ones(place: Place) -> None:
    out = torch.full((1, 8), torch.nan, device=place.device)
    one = torch.ones(1, device=place.device)
    draws = torch.tensor([(1, 3), (1, 4), (0, 5)], dtype=torch.int32, device=place.device)
    seeds = torch.tensor([7], device=place.device)
    updates = [
        ([], list(map(tuple, part)), [(0, [len(part) - 1], 0)]) for part in (draws[:2].tolist(), draws[2:].tolist())
    ]
    program = place.module.Program([0], one.data_ptr(), draws.data_ptr(), updates, 1, 8, 0)
    program.seeds(seeds.data_ptr())
    program.set(0, out.data_ptr())
    for update, (stream, number) in enumerate([(1, 4), (0, 5)]):
        program.run(update, place.stream())
        assert_bits_equal(out, philox.normals(np.uint64([7]), 8, number, stream))


def cast(place: Place, values: torch.Tensor, letter: str) -> torch.Tensor:
    """1 * values, in the type of the letter."""
    values = values.to(place.device)
    out = torch.empty(values.shape, dtype=DTYPES[letter], device=place.device)
    one = torch.ones(1, device=place.device)
    codes = [list(DTYPES.values()).index(values.dtype), list(DTYPES).index(letter)]
    program = place.module.Program(codes, one.data_ptr(), 0, [([0], [], [(1, [0], 0)])], 1, values.numel(), 0)
    program.set(0, values.data_ptr())
    program.set(1, out.data_ptr())
    program.run(0, place.stream())
    return out.cpu()


@pytest.mark.parametrize("letter", ["b", "h"])
def test_all_16_bit_values_widen(place: Place, letter: str) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(DTYPES[letter])
    assert_same(cast(place, every, "f"), every.float())


@pytest.mark.parametrize("letter", ["b", "h"])
def test_rounding_to_16_bits(place: Place, letter: str) -> None:
    values = rounding_values(letter)
    assert_bits_equal(cast(place, values, letter), values.to(DTYPES[letter]))
    # Those whose low bits alone say NaN must not round to infinity.
    nans = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    assert cast(place, nans, letter).isnan().all()


def test_a_refusal_of_cuda_is_named(shimmed: Shimmed) -> None:
    module, library = shimmed
    place, problem = Place(module, "cpu"), Problem(Case("refused", 8, "f"))
    launch = Launch(place, problem, device=1)
    with pytest.raises(RuntimeError, match=r"^update 0: cudaErrorInvalidResourceHandle \(invalid resource handle\)$"):
        launch.program.run(0, 1)
    with pytest.raises(RuntimeError, match=r"^update 0: cudaErrorInvalidDevice \(invalid device ordinal\)$"):
        Launch(place, problem, device=7)
    launch()
    assert library.device_of_last_launch() == 1
    Launch(place, problem)()
    assert library.device_of_last_launch() == 0


def program(
    place: Place,
    update: object,
    dtypes: Sequence[int] = (0, 0),
    table: int = 64,
    draws: int = 64,
    size: int = 4,
    **extras: object,
) -> object:
    return place.module.Program(dtypes, table, draws, [update], 1, size, 0, **extras)


def bound_over_another_width(place: Place) -> None:
    both = program(place, ([0], [], [(1, [0], 0)]), (1, 0))
    both.set(0, 64)
    both.set(1, 64)
    both.run(0, 0)


def without_seeds(place: Place) -> None:
    made = program(place, ([], [(1, 0)], [(0, [0], 0)]))
    made.set(0, 64)
    made.run(0, 0)


WRONG: list[tuple[str, Callable[[Place], object]]] = [
    ("dtype 3 of slot 1 is unknown: 0 is float32, 1 bfloat16, 2 float16", lambda p: program(p, ([], [], []), (0, 3))),
    ("batch 1 and size -4 must not be negative", lambda p: program(p, ([], [], []), size=-4)),
    ("update 0: source 1 names slot 2, allowed are 0 to 1", lambda p: program(p, ([0, 2], [], [(1, [0], 0)]))),
    ("slot 2 does not exist: allowed are 0 to 1", lambda p: program(p, ([], [], [])).set(2, 64)),
    ("update 1 does not exist: allowed are 0 to 0", lambda p: program(p, ([], [], [])).run(1, 0)),
    ("slot 0 has no pointer: call set first", lambda p: program(p, ([0], [], [(1, [0], 0)])).run(0, 0)),
    ("the update draws normals and the program has no seeds: call seeds first", without_seeds),
    ("slot 1 is written over a source whose elements have another size", bound_over_another_width),
    ("the coefficient table is a null pointer", lambda p: program(p, ([0], [], [(1, [0], 0)]), table=0)),
    ("the table of draws is a null pointer", lambda p: program(p, ([], [(1, 0)], [(1, [0], 0)]), draws=0)),
    (
        "update 0 has 9 rows, a kernel takes at most 8",
        lambda p: program(p, ([0], [], [(i, [0], 0) for i in range(1, 10)]), (0,) * 10),
    ),
    (
        "update 0 has 65 sources, a kernel takes at most 64",
        lambda p: program(p, (range(65), [], [(0, list(range(65)), 0)]), (0,) * 65),
    ),
    (
        "update 0 has 65 draws, a kernel takes at most 64",
        lambda p: program(p, ([], [(1, i) for i in range(65)], [(0, list(range(65)), 0)])),
    ),
    (
        "update 0 has 9 mids, a kernel takes at most 8",
        lambda p: program(p, ([0], [], [(1, [0], 0)]), mids=[[("clip", [0], 0, -1, -1)] * 9]),
    ),
    (
        "update 0: mid 0 blends by source 1, allowed are 0 to 0",
        lambda p: program(p, ([0], [], [(1, [0], 0)]), mids=[[("blend", [0], 0, 0, 1)]]),
    ),
    (
        "update 0: mid 0 has the op 'round': there are clip and blend",
        lambda p: program(p, ([0], [], [(1, [0], 0)]), mids=[[("round", [0], 0, -1, -1)]]),
    ),
    ("stride -1 must not be negative", lambda p: program(p, ([0], [], [(1, [0], 0)]), stride=-1)),
    ("update 0 has 600 terms, a kernel takes at most 512", lambda p: program(p, ([0], [], [(1, [0] * 600, 0)]))),
]


@pytest.mark.parametrize(("text", "call"), WRONG, ids=[text for text, _ in WRONG])
def test_errors_say_what_is_wrong(place: Place, text: str, call: Callable[[Place], object]) -> None:
    with pytest.raises(ValueError) as error:
        call(place)
    assert str(error.value) == text


@pytest.mark.gpu
def test_a_captured_launch_follows_its_tables() -> None:
    place = Place(pytest.importorskip("fastsolve._cuda"), "cuda")
    problem = Problem(Case("captured", 1003, "f", "f", ((0, 1),), A_DRAW), device="cuda")
    launch, graph = Launch(place, problem), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    launch.table[2:] = torch.tensor((3.0, -0.5))
    launch.seeds[0] = 8
    graph.replay()
    z = torch.from_numpy(philox.normals(np.uint64([8]), 1003, *A_DRAW[0][::-1]))
    assert_bits_equal(problem.outs[0], 3 * problem.sources[0].cpu() + -0.5 * z)
