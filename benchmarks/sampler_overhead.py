"""What sampling costs besides the network's forward passes, as a share of them, on a UNet of SD 1.5's size.

The time inside of the network is taken out of the time of whole runs, at 256x256 with guidance: everything else
(conditionings, batching, guidance, the sampler's own arithmetic and noise) is the sampler's own cost.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from benchmarks.figures import Figure

_STEPS = 2
_SAMPLERS = ("euler", "dpmpp_2m_sde")
_SD15 = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "num_heads": 8,
    "num_head_channels": -1,
}


async def measure(runs: int) -> list[Figure]:
    """One figure for each sampler, in percent. Takes 4 GB of memory."""
    import torch
    from comfyk_core_nodes.memory.patcher import ModelPatcher
    from comfyk_core_nodes.sampling.noise import prepare_noise
    from comfyk_core_nodes.sampling.run import sample

    with torch.inference_mode():
        model, spent = _model()
        cpu = torch.device("cpu")
        patcher = ModelPatcher(model, cpu, cpu)
        latent = torch.zeros(1, 4, 32, 32)
        prompts = [[[torch.randn(1, 77, 768), {}]] for _ in range(2)]
        noise = prepare_noise(latent, 1)
        shares: dict[str, list[float]] = {name: [] for name in _SAMPLERS}
        for run in range(runs + 1):
            for name in _SAMPLERS:
                spent.clear()
                started = perf_counter()
                sample(patcher, noise, _STEPS, 7.0, name, "karras", *prompts, latent, seed=1)
                own = perf_counter() - started - sum(spent)
                # The first run also finds out how the convolutions are best computed.
                if run > 0:
                    shares[name].append(100 * own / sum(spent))
    return [
        Figure(f"sampler_overhead_{name}", f"sampling with {name} besides the UNet", "%", shares[name])
        for name in _SAMPLERS
    ]


def _model() -> tuple[Any, list[float]]:
    """A model with random weights, and the list that the time of each of its forward passes goes to."""
    import torch
    from comfyk_core_nodes.families.family import ModelConfig
    from comfyk_core_nodes.families.sd.latent_formats import SD15
    from comfyk_core_nodes.families.sd.models import StableDiffusion
    from comfyk_core_nodes.families.sd.registrations import SD1

    model = StableDiffusion(ModelConfig(SD1, _SD15, SD15(), "eps"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    spent: list[float] = []
    network = model.diffusion_model
    forward = network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = perf_counter()
        out = forward(*args, **kwargs)
        spent.append(perf_counter() - started)
        return out

    network.forward = timed
    return model, spent
