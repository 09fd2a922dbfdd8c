"""ComfyUI's way to a sampling function, twice: a stand-in written from its contract, and the real one, of a checkout at COMFYUI_PATH.

Both sample N(MEAN, STD^2) by its exact denoiser, by the model's path: VE for "eps", flow matching for "flow".
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

MEAN, STD, SHAPE = 0.3, 0.5, (2, 4, 8, 8)
Options = dict[str, Any]


def denoised(x: Tensor, sigma: Tensor, flow: bool) -> Tensor:
    """E[x0 | x]."""
    sigma = sigma.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    alpha = 1.0 - sigma if flow else torch.ones_like(sigma)
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


class CONST:
    """What marks ComfyUI's flow models, by its name."""


class _Law:
    """A model_sampling: sigmas as Stable Diffusion has them, and what is done before and after sampling."""

    sigmas = (
        (1 / torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0) - 1)
        .sqrt()
        .float()
    )

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0).view(sigma.shape)

    def begin(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        top = sigma >= self.sigmas[-1] * (1 - 1e-5)
        return noise * (torch.sqrt(1 + sigma**2) if top else sigma) + latent

    def end(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x


class _Flow(_Law, CONST):
    sigmas = 3.0 * torch.arange(1, 1001) / 1000 / (1 + 2.0 * torch.arange(1, 1001) / 1000)

    def timestep(self, sigma: Tensor) -> Tensor:
        return 1000 * sigma

    def begin(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def end(self, sigma: Tensor, x: Tensor) -> Tensor:
        return x / (1 - sigma)


class _EDM(_Law):
    """A continuous clock, log sigma / 4."""

    sigmas = torch.linspace(-6.0, 4.5, 1000).exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()


LAWS: dict[str, type[_Law]] = {"eps": _Law, "flow": _Flow, "edm": _EDM}


class StandIn:
    """A guider with its model, and what ComfyUI does around the sampling function."""

    def __init__(self, kind: str, look: Callable[[Tensor, Options], None] | None = None) -> None:
        self.sampling, self.calls, self._look = LAWS[kind](), list[float](), look
        self.model_patcher = SimpleNamespace(get_model_object={"model_sampling": self.sampling}.__getitem__)
        self.flow = kind == "flow"
        self.inner_model = SimpleNamespace(model_sampling=self.sampling)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Options, seed: int | None) -> Tensor:
        assert sigma.shape == (len(x),)
        self.calls.append(float(sigma[0]))
        if self._look is not None:
            self._look(sigma, model_options)
        d, u = denoised(x, sigma, self.flow), denoised(0.9 * x, sigma, self.flow)
        for function in model_options.get("sampler_post_cfg_function", []):
            d = function({"denoised": d, "uncond_denoised": u})
        return d

    def sample(
        self,
        function: Callable[..., Tensor],
        sigmas: Tensor,
        noise: Tensor,
        *,
        latent: Tensor | None = None,
        mask: Tensor | None = None,
        seed: int = 7,
        callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
        model_options: Options | None = None,
        **options: object,
    ) -> Tensor:
        """noise: standard normals. mask: 1 is painted."""
        latent = torch.zeros_like(noise) if latent is None else latent
        extra = {
            "model_options": {"transformer_options": {"sample_sigmas": sigmas}, **(model_options or {})},
            "seed": seed,
            "denoise_mask": mask,
        }
        told = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], len(sigmas) - 1)
        with torch.inference_mode():  # as ComfyUI executes nodes
            x = self.sampling.begin(sigmas[0], noise, latent)
            inpaint = _Inpaint(self, noise, latent)
            out = function(inpaint, x, sigmas, extra_args=extra, callback=told, disable=True, **options)
            return self.sampling.end(sigmas[-1], out)


class _Inpaint:
    """The model that a sampling function is given: it blends what is known into x before the call, and into x0 after it."""

    def __init__(self, guider: StandIn, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.noise, self.latent = guider, noise, latent

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: Options, seed: int
    ) -> Tensor:
        guider = self.inner_model
        if denoise_mask is None:
            return guider(x, sigma, model_options, seed)
        level = sigma.reshape(-1, *[1] * (x.dim() - 1))
        known = level * self.noise + ((1 - level) if guider.flow else 1) * self.latent
        d = guider(x * denoise_mask + known * (1 - denoise_mask), sigma, model_options, seed)
        return d * denoise_mask + self.latent * (1 - denoise_mask)


def checkout() -> Path | None:
    """Where the real one is, or None."""
    given = os.environ.get("COMFYUI_PATH")
    return Path(given) if given else None


class _Empty(ModuleType):
    """An import that sampling does not need."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name)

    def __call__(self, *args: object) -> None: ...


@contextlib.contextmanager
def imported(path: Path) -> Iterator[None]:
    """ComfyUI's modules, on the CPU, without torchvision; out of sys.modules again afterwards."""
    before, argv = set(sys.modules), sys.argv
    sys.argv = [argv[0], "--cpu"]
    sys.path.insert(0, str(path))
    for name in ("torchvision", "torchvision.transforms") if importlib.util.find_spec("torchvision") is None else ():
        if name not in sys.modules:
            module = _Empty(name)
            module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
            sys.modules[name] = module
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.sample")
        importlib.import_module("comfy.model_base")
        yield
    finally:
        sys.argv = argv
        sys.path.remove(str(path))
        for name in set(sys.modules) - before:
            if name.split(".")[0] in {"torchvision", "comfy", "node_helpers", "nodes", "utils"}:
                del sys.modules[name]


class Real:
    """A model of ComfyUI whose network is the exact denoiser, sampled through its own KSAMPLER and CFGGuider."""

    def __init__(self, kind: str, look: Callable[[Tensor, Options], None] | None = None) -> None:
        base, patcher = importlib.import_module("comfy.model_base"), importlib.import_module("comfy.model_patcher")
        latents = importlib.import_module("comfy.latent_formats")
        flow, types = kind == "flow", base.ModelType
        settings = {"shift": 3.0} if flow else {"sigma_min": 0.0025, "sigma_max": 90.0171} if kind == "edm" else {}
        config = SimpleNamespace(
            unet_config={"disable_unet_model_creation": True},
            latent_format=latents.LatentFormat(),
            manual_cast_dtype=None,
            custom_operations=None,
            memory_usage_factor=1.0,
            sampling_settings=settings,
        )
        model = base.BaseModel(config, {"flow": types.FLOW, "edm": types.EDM, "eps": types.EPS}[kind])
        self.sampling, self.calls = model.model_sampling, list[float]()
        calls, law = self.calls, model.model_sampling

        class Network(torch.nn.Module):
            dtype = torch.float32

            def forward(
                self, x: Tensor, t: Tensor, context: Tensor, transformer_options: Options, **kwargs: object
            ) -> Tensor:
                sigma = transformer_options["sigmas"]  # t of a table is rounded
                calls.append(float(sigma[0]))
                if look is not None:
                    look(sigma, {"transformer_options": transformer_options})
                sigma = sigma.repeat(len(x) // len(sigma))  # both prompts may come in one batch
                level = sigma.reshape(-1, *[1] * (x.dim() - 1))
                state = x if flow else x * (level**2 + law.sigma_data**2).sqrt()
                d = denoised(state * context[:, :, :, None], sigma, flow)
                if kind == "edm":
                    s, c = law.sigma_data, level**2 + law.sigma_data**2
                    return (d - state * s**2 / c) * c.sqrt() / (level * s)
                return (state - d) / level

        model.diffusion_model = Network()
        self.patcher = patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

    def sample(
        self,
        function: Callable[..., Tensor],
        sigmas: Tensor,
        noise: Tensor,
        *,
        latent: Tensor | None = None,
        mask: Tensor | None = None,
        seed: int = 7,
        callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
        model_options: Options | None = None,
        cfg: float = 1.0,
        **options: object,
    ) -> Tensor:
        """As `StandIn.sample`. cfg: the guidance scale; the negative prompt makes the network see 0.9 x."""
        samplers, sample = importlib.import_module("comfy.samplers"), importlib.import_module("comfy.sample")
        positive, negative = ([[torch.full((1, 1, 1), value), {}]] for value in (1.0, 0.9))
        with torch.inference_mode():
            return sample.sample_custom(
                self.patcher,
                noise,
                cfg,
                samplers.KSAMPLER(function, options),
                sigmas,
                positive,
                negative,
                torch.zeros_like(noise) if latent is None else latent,
                noise_mask=mask,
                callback=callback,
                disable_pbar=True,
                seed=seed,
            )
