"""csrc/ against the definition: fastsolve.philox and updates spelled in NumPy, bit for bit, on every instruction set here."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from bits import assert_bits_equal
from fastsolve import philox
from updates import CASES, DTYPES, MID_CASES, SEEDS, STREAMED, Case, Problem, any_pattern, clip, rounding_values

_C = pytest.importorskip("fastsolve._C", reason="installed without the native module")


def instruction_sets() -> list[str]:
    best, found = _C.isa(), []
    for name in ("portable", "avx2", "avx512"):
        try:
            _C.set_isa(name)
        except ValueError:
            continue
        found.append(name)
    _C.set_isa(best)
    return found


@pytest.fixture(params=instruction_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    best = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(best)


def native_normals(seeds: np.ndarray, size: int, draw: int, stream: int, threads: int = 1) -> np.ndarray:
    """With a margin that must stay untouched."""
    out = np.full(len(seeds) * size + 16, np.nan, np.float32)
    _C.normals(out.ctypes.data, seeds.ctypes.data, len(seeds), size, draw, stream, threads)
    assert np.isnan(out[len(seeds) * size :]).all(), "wrote past the end"
    return out[: len(seeds) * size].reshape(len(seeds), size)


@pytest.mark.parametrize("size", [0, 1, 3, 63, 1000, 1023, 1024, 4099])
@pytest.mark.parametrize(("draw", "stream"), [(0, 0), (7, 1), (2**32 - 1, 2**32 - 1)])
def test_normals_are_the_definition(isa: str, size: int, draw: int, stream: int) -> None:
    assert_bits_equal(native_normals(SEEDS, size, draw, stream), philox.normals(SEEDS, size, draw, stream))


def test_a_million_normals(isa: str) -> None:
    expected = philox.normals(SEEDS[:1], 1_000_003, 3, 1)
    assert_bits_equal(native_normals(SEEDS[:1], 1_000_003, 3, 1), expected)
    assert_bits_equal(native_normals(SEEDS[:1], 1_000_003, 3, 1, threads=2), expected)


def test_normals_do_not_depend_on_the_batch(isa: str) -> None:
    alone = np.concatenate([native_normals(SEEDS[i : i + 1], 1003, 5, 1) for i in range(3)])
    assert_bits_equal(native_normals(SEEDS, 1003, 5, 1), alone)


def program_of(problem: Problem, threads: int = 1) -> object:
    case = problem.case
    table, extras = problem.table.ctypes.data, (problem.mids, problem.stride)
    made = _C.Program(problem.codes, table, [problem.update], case.batch, case.size, threads, *extras)
    made.seeds(problem.seeds.ctypes.data)
    for slot, address in enumerate(problem.addresses()):
        made.set(slot, address)
    return made


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES + MID_CASES, ids=str)
def test_update_is_the_definition(isa: str, case: Case, threads: int) -> None:
    problem = Problem(case)
    expected = problem.expected()
    program_of(problem, threads).run(0)
    for out, row in zip(problem.outs, expected, strict=True):
        assert_bits_equal(out, row)
    problem.assert_margins()


def assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal bits, and any NaN for a NaN."""
    assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (got, want)))


def check_awkward(case: Case) -> None:
    problem = Problem(case, awkward=True)
    expected = problem.expected()
    program_of(problem).run(0)
    for out, row in zip(problem.outs, expected, strict=True):
        assert_same(out, row)
    problem.assert_margins()


@pytest.mark.parametrize("case", MID_CASES, ids=str)
def test_mids_of_nan_and_infinity(isa: str, case: Case) -> None:
    check_awkward(case)


@pytest.mark.parametrize("number", range(60))
def test_any_mids(isa: str, number: int) -> None:
    rng = np.random.default_rng(number)
    pattern = any_pattern(rng, int(rng.integers(1, 6)), int(rng.integers(0, 4)))
    check_awkward(Case("y" * number, int(rng.integers(1, 2000)), batch=3, **pattern))


@pytest.mark.parametrize("bounds", [(0.5, -0.5), (np.nan, 0.5), (-0.5, np.nan), (-0.0, 0.0), (-np.inf, np.inf)])
def test_bounds_as_they_come(isa: str, bounds: tuple[float, float]) -> None:
    """Crossed, missing, of a sign that a minimum or a maximum would not keep."""
    problem = Problem(Case("bounds", 100, "f", "f", ((1,),), mids=(clip(0),)))
    problem.table[2:] = (1, *bounds, 1)
    problem.sources[0][0, :4] = torch.tensor([0.0, -0.0, torch.nan, torch.inf])
    expected = problem.expected()
    program_of(problem).run(0)
    assert_same(problem.outs[0], expected[0])


def test_table_is_read_at_every_run() -> None:
    problem = Problem(Case("table", 100, "ff", "f", ((0, 1),)))
    program = program_of(problem)
    program.run(0)
    problem.table[2:] = (3, -0.5)
    program.run(0)
    assert_bits_equal(problem.outs[0], 3 * problem.sources[0] + -0.5 * problem.sources[1])


def test_step_sets_and_runs() -> None:
    problem = Problem(Case("step", 100, "ff", "f", ((0, 1),)))
    program = program_of(problem)
    problem.sources[1] = torch.randn(1, 100)
    expected = problem.expected()
    program.step(0, 1, problem.sources[1].data_ptr())
    assert_bits_equal(problem.outs[0], expected[0])


def cast(values: torch.Tensor, letter: str) -> torch.Tensor:
    """1 * values, in the type of the letter."""
    out = torch.empty(values.shape, dtype=DTYPES[letter])
    one = np.ones(1, np.float32)
    codes = [list(DTYPES.values()).index(values.dtype), list(DTYPES).index(letter)]
    program = _C.Program(codes, one.ctypes.data, [([0], [], [(1, [0], 0)])], 1, values.numel(), 1)
    program.set(0, values.data_ptr())
    program.set(1, out.data_ptr())
    program.run(0)
    return out


@pytest.mark.parametrize("letter", ["b", "h"])
def test_all_16_bit_values_widen(isa: str, letter: str) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(DTYPES[letter])
    wide = cast(every, "f")
    assert_bits_equal(wide.isnan(), every.isnan())
    assert_bits_equal(wide.nan_to_num(0), every.float().nan_to_num(0))


@pytest.mark.parametrize("letter", ["b", "h"])
def test_rounding_to_16_bits(isa: str, letter: str) -> None:
    values = rounding_values(letter)
    assert_bits_equal(cast(values, letter), values.to(DTYPES[letter]))
    # Those whose low bits alone say NaN must not round to infinity.
    nans = torch.tensor([0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    assert cast(nans, letter).isnan().all()


def test_instruction_sets_agree_on_nan_bits() -> None:
    nans = torch.tensor([0x7FC12345, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    found = {}
    best = _C.isa()
    for name in instruction_sets():
        _C.set_isa(name)
        found[name] = torch.cat([cast(nans, letter).view(torch.int16) for letter in "bh"]).tolist()
    _C.set_isa(best)
    assert len(set(map(tuple, found.values()))) == 1, found


def test_python_threads_with_their_own_programs() -> None:
    problems = [Problem(Case(f"{'x' * i}", STREAMED, "ff", "f", ((0, 2, 1),), ((1, i),))) for i in range(1, 5)]
    expected = [problem.expected() for problem in problems]
    programs = [program_of(problem, 2) for problem in problems]
    threads = [threading.Thread(target=lambda p=program: [p.run(0) for _ in range(5)]) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem, rows in zip(problems, expected, strict=True):
        assert_bits_equal(problem.outs[0], rows[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    expected = native_normals(SEEDS, 200_000, 1, 1, threads=2)  # the parent's pool exists
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what is tested
        child = os.fork()
    if child == 0:
        same = np.array_equal(native_normals(SEEDS, 200_000, 1, 1, threads=2), expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


TABLE = np.ones(8, np.float32)


def program(
    dtypes: Sequence[int] = (0, 0),
    updates: object = (),
    batch: int = 1,
    size: int = 4,
    threads: int = 1,
    **extras: object,
) -> object:
    return _C.Program(dtypes, TABLE.ctypes.data, updates, batch, size, threads, **extras)


def bound_over_another_width() -> None:
    x = torch.zeros(4)
    both = program((1, 0), [([0], [], [(1, [0], 0)])])
    both.set(0, x.data_ptr())
    both.step(0, 1, x.data_ptr())


WRONG: list[tuple[str, Callable[[], object]]] = [
    ("dtype 3 of slot 1 is unknown: 0 is float32, 1 bfloat16, 2 float16", lambda: program((0, 3))),
    ("batch -1 and size 4 must not be negative", lambda: program(batch=-1)),
    ("threads is 0: at least 1 is needed", lambda: program(threads=0)),
    ("update 0: source 1 names slot 2, allowed are 0 to 1", lambda: program(updates=[([0, 2], [], [(1, [0], 0)])])),
    ("update 0: row 0 names slot -1, allowed are 0 to 1", lambda: program(updates=[([0], [], [(-1, [0], 0)])])),
    ("update 0: row 0 has no terms", lambda: program(updates=[([0], [], [(1, [], 0)])])),
    ("update 0: row 0 has the term 2, allowed are 0 to 1", lambda: program(updates=[([0], [(1, 0)], [(1, [2], 0)])])),
    ("update 0: row 0 has the term 0, there are none", lambda: program(updates=[([], [], [(1, [0], 0)])])),
    ("update 0: row 0 has the negative offset -1", lambda: program(updates=[([0], [], [(1, [0], -1)])])),
    (
        "update 0: row 1 writes slot 1, as an earlier row does",
        lambda: program(updates=[([0], [], [(1, [0], 0), (1, [0], 0)])]),
    ),
    (
        "mids of 2 updates, and there are 1",
        lambda: program(updates=[([0], [], [(1, [0], 0)])], mids=[[], []]),
    ),
    *(
        (f"update 0: mid 0 {text}", lambda mid=mid: program(updates=[([0], [], [(1, [0], 0)])], mids=[[mid]]))
        for mid, text in (
            (("round", [0], 0, -1, -1), "has the op 'round': there are clip and blend"),
            (("clip", [], 0, -1, -1), "has no terms"),
            (("clip", [1], 0, -1, -1), "has the term 1, allowed are 0 to 0"),
            (("clip", [0], -1, -1, -1), "has the negative offset -1"),
            (("blend", [0], 0, 0, 1), "blends by source 1, allowed are 0 to 0"),
            (("blend", [0], 0, -1, 0), "blends by source -1, allowed are 0 to 0"),
        )
    ),
    (
        "update 0: row 0 has the term 2, allowed are 0 to 1",
        lambda: program(updates=[([0], [], [(1, [2], 0)])], mids=[[("clip", [0], 0, -1, -1)]]),
    ),
    ("stride -1 must not be negative", lambda: program(stride=-1)),
    ("slot 2 does not exist: allowed are 0 to 1", lambda: program().set(2, 64)),
    ("update 0 does not exist: there are none", lambda: program().run(0)),
    ("slot 0 has no pointer: call set first", lambda: program(updates=[([0], [], [(1, [0], 0)])]).run(0)),
    (
        "the update draws normals and the program has no seeds: call seeds first",
        lambda: program(updates=[([], [(1, 0)], [(1, [0], 0)])]).step(0, 1, 64),
    ),
    ("slot 1 is written over a source whose elements have another size", bound_over_another_width),
    ("the coefficient table is a null pointer", lambda: _C.Program([0], 0, [([0], [], [(0, [0], 0)])], 1, 4, 1)),
    ("instruction set 'mmx' does not run here; those that do: ", lambda: _C.set_isa("mmx")),
]


@pytest.mark.parametrize(("text", "call"), WRONG, ids=[text for text, _ in WRONG])
def test_errors_say_what_is_wrong(text: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value).startswith(text)
