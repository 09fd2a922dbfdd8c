"""What only a GPU can show: its bits are the CPU's, its graphs last, and nothing that goes wrong in one spoils what comes after.

`test_graph` has the graphs' rules, on a GPU too. Every test here needs one and is skipped, with the reason, elsewhere.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fused_runs
from bits import assert_bits_equal
from fastsolve import APG, Denoiser, Guidance, Sampler, Stepper, executors, make_plan, philox
from fastsolve.executors import Setting
from fastsolve.program import Launch, Mid, Program, Row, Slot
from updates import blend, clip, placed

pytestmark = pytest.mark.gpu

MILLION = 2**20 + 3  # with a tail that is no multiple of 4 or 16
SEEDS = np.array([2**64 - 1, 2**63 + 12345, 7], np.uint64)
KINDS = {"s": "state", "r": "raw", "i": "input"}
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def setting(device: str, shape: tuple[int, ...], raw: torch.dtype = F32, given: torch.dtype = F32) -> Setting:
    return Setting(shape, torch.zeros(1, device=device).device, F32, given, raw, F32, False)


@pytest.fixture(params=["fused", "cuda"])
def executor(request: pytest.FixtureRequest) -> str:
    try:
        executors.choose(request.param, setting("cuda", (1, 4)))
    except ValueError as error:
        pytest.skip(str(error))
    return str(request.param)


def updated(
    executor: str,
    where: Setting,
    sources: Sequence[Tensor],
    kinds: str,
    rows: Sequence[Sequence[int]],
    draws: Sequence[tuple[int, int]],
    mids: Sequence[Mid] = (),
    of_each: bool = False,
    factor: float = 1,
    captured: bool = False,
) -> list[Tensor]:
    """The outs of one launch, on its device. kinds: a letter per source and per out, of `KINDS`.

    of_each: every sample has a table of its own. factor: of all numbers; captured: in a graph, which replays what had other numbers.
    """
    first = len(sources)
    mids, start = placed(mids, 0)
    offsets = np.cumsum([start] + [len(row) for row in rows]).tolist()
    table = np.random.default_rng(5).uniform(-2, 2, (where.batch, offsets[-1]) if of_each else offsets[-1])
    summed = tuple(Row(first + r, tuple(row), offsets[r]) for r, row in enumerate(rows))
    launch = Launch(tuple(range(first)), tuple(draws), summed, mids)
    outs = [
        torch.full(where.shape, torch.nan, dtype=where.dtype_of(KINDS[k]), device=where.device) for k in kinds[first:]
    ]
    program = Program(tuple(Slot(KINDS[k]) for k in kinds), launch, (), factor * table, np.zeros(0), 0)
    first_program = replace(program, table=table) if captured else program
    # An executor may keep addresses only: sources of the device live in this list.
    tensors: list[Tensor | None] = [*(s.to(where.device) for s in sources), *outs]
    backend = executors.backend(executor, first_program, where, tensors)
    backend.seed(SEEDS[: where.batch])
    backend.launch(0)
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            backend.launch(0)
        backend.load(program)
        graph.replay()
    return outs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [1, 63, 4099, MILLION])
def test_normals_are_the_definition(executor: str, batch: int, size: int) -> None:
    draws = [(1, 5), (0, 2**31 - 1)]
    got = updated(executor, setting("cuda", (batch, size)), [], "ss", [(0,), (1,)], draws)
    scale = np.random.default_rng(5).uniform(-2, 2, 2).astype(np.float32)
    for out, c, (stream, number) in zip(got, scale, draws, strict=True):
        assert_bits_equal(out, c * philox.normals(SEEDS[:batch], size, number, stream))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [1, 63, 4099, MILLION])
@pytest.mark.parametrize("raw", [F32, BF16, F16], ids=str)
def test_updates_have_the_bits_of_the_cpu(executor: str, raw: torch.dtype, size: int, batch: int) -> None:
    """Two rows, of which one is the model's input, over four sources and two draws; the native executor, and eager torch."""
    generator = torch.Generator().manual_seed(1)
    sources = [torch.randn(batch, size, generator=generator).to(d) for d in (F32, raw, F32, raw)]
    rows, draws = [(0, 1, 2, 3, 4, 5), (3, 0, 1, 4)], [(1, 7), (1, 8)]
    got = updated(executor, setting("cuda", (batch, size), raw, raw), sources, "srsrsi", rows, draws)
    for judge in ("native", "eager"):
        want = updated(judge, setting("cpu", (batch, size), raw, raw), sources, "srsrsi", rows, draws)
        for a, b in zip(got, want, strict=True):
            assert_bits_equal(a, b)


@pytest.mark.parametrize("draws", [[], [(1, 7)]], ids=["no draw", "a draw"])
def test_elements_beyond_two_to_the_31(executor: str, draws: list[tuple[int, int]]) -> None:
    """The beginning, the edge and the end of a sample whose elements are not counted in 31 bits."""
    size, seed = 2**31 + 4099, int(SEEDS[0])
    if torch.cuda.mem_get_info()[0] < 2**34:
        pytest.skip("needs 16 GiB")
    where = setting("cuda", (1, size), BF16, BF16)
    x = torch.empty(where.shape, dtype=BF16, device=where.device).normal_()
    (out,) = updated(executor, where, [x], "ri", [range(1 + len(draws))], draws)
    assert not out.isnan().any()
    c = np.random.default_rng(5).uniform(-2, 2, 1 + len(draws)).astype(np.float32)
    for low in (0, 2**31 - 2**12, size // 4 * 4 - 2**12):
        high = min(low + 2**13, size)
        want = c[0] * x[0, low:high].float().cpu().numpy()
        group = np.arange(low // 4, -(-high // 4), dtype=np.uint64)
        for stream, number in draws:
            words = philox.philox4x32((group, 0, number, stream), (seed & 0xFFFFFFFF, seed >> 32))
            z = np.stack(philox.box_muller(*words[:2]) + philox.box_muller(*words[2:]), axis=-1)
            want = want + c[1] * z.reshape(-1)[: high - low]
        assert_bits_equal(out[0, low:high], torch.from_numpy(want).to(BF16))


@pytest.mark.parametrize("of_each", [False, True], ids=["one table", "a table each"])
@pytest.mark.parametrize("size", [1, 63, 4096, MILLION])
def test_mids_have_the_bits_of_the_cpu(executor: str, size: int, of_each: bool) -> None:
    """A clip, a blend by a mask of its result, and a row that takes the draw as it is; then the same with other numbers in a graph."""
    generator = torch.Generator().manual_seed(1)
    sources = [torch.randn(3, size, generator=generator).to(d) for d in (F32, BF16, F32, BF16)]
    sources[0].view(-1)[:3] = torch.tensor([torch.inf, -torch.inf, -0.0])
    rows, draws = [(0, 6, 4, 5), (6, 1)], [(1, 7)]
    mids = (clip(0, 1, 3), blend(2, 0, 5, 4))
    given = (sources, "srsrsi", rows, draws, mids, of_each)
    for factor in (1, -0.5):
        got = updated(executor, setting("cuda", (3, size), BF16, F16), *given, factor, factor < 0)
        for judge in ("native", "eager"):
            want = updated(judge, setting("cpu", (3, size), BF16, F16), *given, factor)
            for a, b in zip(got, want, strict=True):
                assert_bits_equal(*(torch.where(t.isnan(), torch.nan, t) for t in (a, b)))


@pytest.mark.parametrize("name", fused_runs.RUNS)
def test_runs_have_the_bits_of_the_cpu(executor: str, name: str) -> None:
    assert_bits_equal(fused_runs.run(name, executor, "cuda"), fused_runs.run(name, "eager"))


def halves(x: Tensor, t: Tensor) -> Tensor:
    return x * 0.5 - t.reshape(-1, *[1] * (x.dim() - 1)) * 0.125


def made(model: Callable[..., Tensor] = halves, shape: tuple[int, ...] = (2, 3, 5), **kwargs: object) -> Sampler:
    usual: dict[str, object] = {"solver": "dpmpp_2m_sde", "steps": 4, "device": "cuda", "graph": "require"}
    return Sampler(model, shape, schedule="vp", prediction="eps", **{**usual, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "seeds3", "unipc"])
def test_a_loop_of_somebody_else_has_the_bits_of_the_cpu_and_waits_for_nothing(
    executor: str, solver: str, dtype: torch.dtype
) -> None:
    plan = make_plan(solver, schedule="vp", prediction="eps", steps=4)
    start = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)

    def walked(device: str, name: str, strict: str = "default") -> Tensor:
        run, x = Stepper(plan, start.shape, device=device, dtype=dtype, executor=name).begin(7), start.to(device)
        for _ in range(plan.nfe):
            torch.cuda.set_sync_debug_mode(strict)
            try:
                x = run.step(x * 0.5, x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return x

    walked("cuda", executor)  # compiles
    assert_bits_equal(walked("cuda", executor, "error"), walked("cpu", "native"))


def test_a_loop_on_another_device_than_the_current_one(executor: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    plan, start = make_plan("seeds3", schedule="vp", prediction="eps", steps=4), torch.ones(2, 3, 5)

    def walked(device: str, name: str) -> Tensor:
        run, x = Stepper(plan, start.shape, device=device, executor=name).begin(7), start.to(device)
        for _ in range(plan.nfe):
            x = run.step(x * 0.5, x)
        return x

    assert torch.cuda.current_device() == 0
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        assert_bits_equal(walked(device, executor), walked("cpu", "native"))


def test_a_run_that_is_still_queued_keeps_its_seeds(executor: str) -> None:
    plan = make_plan("dpmpp_2m_sde", schedule="vp", prediction="eps", steps=4)
    stepper, start = Stepper(plan, (2, 3, 5), device="cuda", executor=executor), torch.ones(2, 3, 5, device="cuda")

    def walked(seed: int, pause: int = 0) -> Tensor:
        run, x = stepper.begin(seed), start
        torch.cuda._sleep(pause)
        for _ in range(plan.nfe):
            x = run.step(x * 0.5, x)
        return x

    expected = walked(7)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        out = walked(7, pause=100_000_000)
    walked(8)  # on another stream, which does not wait
    torch.cuda.synchronize()
    assert_bits_equal(out, expected)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun", "seeds3", "dpmpp_3m_sde", "unipc"])
def test_graph_and_launches_have_the_bits_of_eager(executor: str, solver: str) -> None:
    samplers = [
        made(solver=solver, executor=executor),
        made(solver=solver, executor=executor, graph="off"),
        made(solver=solver, executor="eager", graph="off"),
    ]
    for seed in (3, [2**63 + 7, -1], 3):
        replayed, launched, eager = (sampler(seed=seed) for sampler in samplers)
        assert_bits_equal(replayed, launched)
        assert_bits_equal(replayed, eager)
    assert "1 captured" in str(samplers[0])


def resident() -> int:
    """Bytes of the process in the host's memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_ten_thousand_replays_take_no_memory() -> None:
    sampler = made()
    expected = sampler(seed=0)

    def replays(count: int) -> tuple[int, int, int]:
        for seed in range(count):
            last = sampler(seed=seed)
        torch.cuda.synchronize()
        assert last.isfinite().all()
        gc.collect()
        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), resident()

    before = replays(1000)
    after = replays(10000)
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 2**23  # 840 bytes a replay
    assert_bits_equal(sampler(seed=0), expected)


def test_close_gives_the_memory_back() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    sampler = made(lambda x, t: halves(x, t).sin().cos(), (4, 2**20))
    sampler(seed=1)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before[0] >= 4 * 2**20 * 4
    sampler.close()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.memory_reserved() <= before[1]


def synchronises(x: Tensor, t: Tensor) -> Tensor:
    noise = torch.randn_like(x)  # torch's generator is captured too
    return x * 0.5 if float(noise.sum()) > -1e30 else x


def spoilt() -> None:
    """A capture that fails."""
    with pytest.raises(RuntimeError, match="not permitted"):
        made(synchronises)()


def test_after_an_error_of_the_model_in_a_good_capture_its_memory_goes_once() -> None:
    def fails(x: Tensor, t: Tensor) -> Tensor:
        y = x * 0.5
        if torch.cuda.is_current_stream_capturing():
            raise ValueError("of the model")
        return y

    with pytest.raises(RuntimeError, match="ValueError: of the model"):
        made(fails)()
    gc.collect()  # the graph that nobody holds
    torch.cuda.empty_cache()
    made()(seed=1)


def test_a_graph_outlives_the_workspaces_of_torch() -> None:
    """torch's compiler clears those of cuBLAS before it records graphs."""
    deep = torch.randn(2**14, 64, device="cuda") / 2**7

    def model(x: Tensor, t: Tensor) -> Tensor:
        return x.repeat(1, 2**14 // x.shape[1]) @ deep  # few rows and columns, summed in parts

    sampler = made(model, (8, 64))
    sampler(seed=1)
    expected = sampler(seed=1)
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = [torch.full((2**20,), float("nan"), device="cuda") for _ in range(64)]
    assert_bits_equal(sampler(seed=1), expected)
    assert all(bool(other.isnan().all()) for other in others)


def test_after_a_failed_capture_torch_draws_as_before() -> None:
    torch.cuda.manual_seed(5)
    expected = [torch.randn(1000, device="cuda") for _ in range(2)]
    spoilt()
    torch.cuda.manual_seed(5)
    for want in expected:
        assert_bits_equal(torch.randn(1000, device="cuda"), want)


def test_after_a_failed_capture_memory_of_other_streams_is_given_back() -> None:
    spoilt()
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    for number in range(20):
        with torch.cuda.stream(side):
            lent = torch.full((2**24,), float(number), device="cuda")
        here.wait_stream(side)
        largest = lent.amax()
        lent.record_stream(here)
        del lent
        assert largest.item() == number
        if number == 4:
            torch.cuda.synchronize()
            reserved = torch.cuda.memory_reserved()
    assert torch.cuda.memory_reserved() <= reserved + 2**26  # one of them more at most


def test_after_a_failed_capture_others_succeed() -> None:
    before = made()
    expected = [before(seed=seed) for seed in range(3)]
    spoilt()
    after = made()
    for seed, want in enumerate(expected):
        assert_bits_equal(before(seed=seed), want)
        assert_bits_equal(after(seed=seed), want)
        assert_bits_equal(after(seed=seed), want)


def test_after_a_failed_capture_auto_runs_launch_by_launch_in_any_stream() -> None:
    sampler = made(synchronises, graph="auto", solver="ddim")
    with torch.cuda.stream(torch.cuda.Stream()):
        results = [sampler(seed=3) for _ in range(3)]
        for result in results:
            assert_bits_equal(result, results[0])
    assert "launch by launch" in str(sampler)


@pytest.mark.parametrize("shared", [True, False], ids=["one sampler", "a sampler each"])
def test_threads_with_streams_of_their_own(shared: bool) -> None:
    shape = (4, 2**16)
    plain = made(shape=shape, graph="off")
    expected = [plain(seed=seed) for seed in range(4)]
    one, wrong = made(shape=shape), list[str]()

    def work(first: int) -> None:
        try:
            sampler = one if shared else made(shape=shape)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                for turn, seed in itertools.product(range(30), (first, first + 1)):
                    got = sampler(seed=seed)
                    if not torch.equal(got, expected[seed]):
                        wrong.append(f"seed {seed} in turn {turn}")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("guidance", [Guidance(3.0, rescale=0.7), Guidance(3.0, apg=APG(0.2, -0.5, 40.0))], ids=str)
@pytest.mark.parametrize("size", [63, 4096, 2**18])
def test_guidance_by_sums_has_its_bits_in_every_batch_and_graph(executor: str, size: int, guidance: Guidance) -> None:
    """And at most twice the error of plain torch."""

    def model(x: Tensor, t: Tensor, y: float) -> Tensor:
        return x * 0.625 - x.flip(-1) * y + 0.25 * y

    def run(batch: int, executor: str, graph: str, dtype: torch.dtype = F32) -> Tensor:
        denoiser = Denoiser(model, "flow", "flow", null={"y": 0.0}, device="cuda")
        usual = {"solver": "dpmpp_2m", "steps": 4, "guidance": guidance, "executor": executor, "dtype": dtype}
        sampler = Sampler(denoiser, (batch, size), graph=graph, **usual)
        return [sampler(seed=3, model_kwargs={"y": 0.5}) for _ in range(3)][-1]  # with a graph, a replay

    got = run(3, executor, "require")
    assert_bits_equal(got, run(3, executor, "off"))
    assert_bits_equal(got[:1], run(1, executor, "require"))
    plain, exact = (run(3, "eager", "off", dtype).double() for dtype in (F32, torch.float64))
    assert (got.double() - exact).abs().max() <= 2 * (plain - exact).abs().max()


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(5, 5, device="cuda")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.inner(x)) * t[:, None, None]


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_models(mode: str) -> None:
    """A graph of a compiled model; one that records graphs of its own runs launch by launch and is told to reuse its output."""
    net = Net()
    compiled = torch.compile(net, mode=mode)

    def model(x: Tensor, t: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(x, t)

    graph = mode == "default"
    given = compiled if graph else Denoiser(model, "vp", "eps", device="cuda", reuses_output=True)
    kwargs = {"solver": "dpmpp_2m", "steps": 4, "device": "cuda"}
    bare = {"schedule": "vp", "prediction": "eps"} if graph else {}
    sampler = Sampler(given, (2, 3, 5), **kwargs, **bare, graph="require" if graph else "off")  # type: ignore[arg-type]
    plain = Sampler(net, (2, 3, 5), **kwargs, schedule="vp", prediction="eps", graph="off")  # type: ignore[arg-type]
    for seed in range(5):
        torch.testing.assert_close(sampler(seed=seed), plain(seed=seed), rtol=1e-4, atol=1e-4)
    if graph:
        assert "1 captured" in str(sampler)
        assert_bits_equal(sampler(seed=1), Sampler(compiled, (2, 3, 5), **kwargs, **bare, graph="off")(seed=1))  # type: ignore[arg-type]
