"""Schedules by formula: the sigmas of a run, `[steps + 1]`, descending to 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.sampling.names import SCHEDULER_NAMES

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher


class BasicScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BasicScheduler",
            category="model/sampling/schedulers",
            description="A schedule of a model by its name.",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("scheduler", options=SCHEDULER_NAMES),
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Only the last share of a schedule that is so much longer; 0 gives none.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, scheduler: str, steps: int, denoise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import calculate_sigmas, for_denoise

        sampling = model.get_model_object("model_sampling")
        sigmas = for_denoise(steps, denoise, lambda count: calculate_sigmas(sampling, scheduler, count))
        # Some schedules are longer than they were asked to be.
        return io.NodeOutput(sigmas[-(steps + 1) :])


class KarrasScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KarrasScheduler",
            category="model/sampling/schedulers",
            description="The schedule of Karras et al.",
            inputs=[
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "sigma_max", default=14.614642, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.0291675, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "rho",
                    default=7.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="How the steps crowd towards the end; 1 is evenly.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, rho: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import karras

        return io.NodeOutput(karras(steps, sigma_min, sigma_max, rho))


class ExponentialScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExponentialScheduler",
            category="model/sampling/schedulers",
            description="Steps that are even in the logarithm of sigma.",
            inputs=[
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "sigma_max", default=14.614642, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.0291675, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import exponential

        return io.NodeOutput(exponential(steps, sigma_min, sigma_max))


class PolyexponentialScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PolyexponentialScheduler",
            category="model/sampling/schedulers",
            description="Steps that are even in a power of the logarithm of sigma.",
            inputs=[
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "sigma_max", default=14.614642, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.0291675, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "rho",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="How the steps crowd towards the end; 1 is evenly.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, rho: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import polyexponential

        return io.NodeOutput(polyexponential(steps, sigma_min, sigma_max, rho))


class LaplaceScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LaplaceScheduler",
            category="model/sampling/schedulers",
            description="Steps at the quantiles of a Laplace distribution.",
            inputs=[
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "sigma_max", default=14.614642, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "sigma_min", default=0.0291675, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "mu",
                    default=0.0,
                    min=-10.0,
                    max=10.0,
                    step=0.1,
                    round=False,
                    advanced=True,
                    tooltip="Where in log sigma the steps crowd.",
                ),
                io.Float.Input(
                    "beta",
                    default=0.5,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    round=False,
                    advanced=True,
                    tooltip="How wide they spread.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, mu: float, beta: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import laplace

        return io.NodeOutput(laplace(steps, sigma_min, sigma_max, mu, beta))


class VPScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VPScheduler",
            category="model/sampling/schedulers",
            description="Steps of the variance preserving diffusion.",
            inputs=[
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "beta_d", default=19.9, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "beta_min", default=0.1, min=0.0, max=5000.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input(
                    "eps_s",
                    default=0.001,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    advanced=True,
                    tooltip="The time of the last step.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, steps: int, beta_d: float, beta_min: float, eps_s: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import variance_preserving

        return io.NodeOutput(variance_preserving(steps, beta_d, beta_min, eps_s))


class BetaSamplingScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BetaSamplingScheduler",
            category="model/sampling/schedulers",
            description="Steps at the quantiles of a beta distribution.",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input(
                    "alpha", default=0.6, min=0.0, max=50.0, step=0.01, round=False, advanced=True
                ),
                io.Float.Input("beta", default=0.6, min=0.0, max=50.0, step=0.01, round=False, advanced=True),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, steps: int, alpha: float, beta: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import beta as beta_schedule

        return io.NodeOutput(beta_schedule(model.get_model_object("model_sampling"), steps, alpha, beta))


class SDTurboScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDTurboScheduler",
            category="model/sampling/schedulers",
            description="The steps that SD-Turbo was trained for.",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("steps", default=1, min=1, max=10),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is made anew.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, steps: int, denoise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.schedules import sd_turbo

        return io.NodeOutput(sd_turbo(model.get_model_object("model_sampling"), steps, denoise))


NODES = (
    BasicScheduler,
    KarrasScheduler,
    ExponentialScheduler,
    PolyexponentialScheduler,
    LaplaceScheduler,
    VPScheduler,
    BetaSamplingScheduler,
    SDTurboScheduler,
)
