"""Samplers as objects with their options: those that solve an SDE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyk import io

from comfyk_core_nodes.nodes.sampling import widgets

if TYPE_CHECKING:
    from comfyk_core_nodes.memory.patcher import ModelPatcher


def _by_device(name: str, noise_device: str) -> str:
    """The sampler of that name which draws its noise there."""
    return name if noise_device == "cpu" else f"{name}_gpu"


class SamplerDPMPP_SDE(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerDPMPP_SDE",
            category="model/sampling/samplers",
            description="DPM-Solver++ for the SDE.",
            inputs=[
                widgets.eta(),
                widgets.s_noise(),
                io.Float.Input(
                    "r",
                    default=0.5,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="Where in a step the model is asked a second time.",
                ),
                io.Combo.Input(
                    "noise_device",
                    options=("gpu", "cpu"),
                    advanced=True,
                    tooltip="Where the noise is drawn. The same seed gives other noise on a GPU.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, s_noise: float, r: float, noise_device: str) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        if r == 0:
            raise ValueError(
                "at an r of 0 the model is asked twice about the same; set it higher, 0.5 is usual"
            )
        options = {"eta": eta, "s_noise": s_noise, "r": r}
        return io.NodeOutput(ksampler(_by_device("dpmpp_sde", noise_device), options))


class SamplerDPMPP_2M_SDE(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerDPMPP_2M_SDE",
            category="model/sampling/samplers",
            description="DPM-Solver++(2M) for the SDE.",
            inputs=[
                io.Combo.Input("solver_type", options=("midpoint", "heun")),
                widgets.eta(),
                widgets.s_noise(),
                io.Combo.Input(
                    "noise_device",
                    options=("gpu", "cpu"),
                    advanced=True,
                    tooltip="Where the noise is drawn. The same seed gives other noise on a GPU.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, solver_type: str, eta: float, s_noise: float, noise_device: str) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        options = {"eta": eta, "s_noise": s_noise, "solver_type": solver_type}
        return io.NodeOutput(ksampler(_by_device("dpmpp_2m_sde", noise_device), options))


class SamplerDPMPP_3M_SDE(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerDPMPP_3M_SDE",
            category="model/sampling/samplers",
            description="DPM-Solver++(3M) for the SDE.",
            inputs=[
                widgets.eta(),
                widgets.s_noise(),
                io.Combo.Input(
                    "noise_device",
                    options=("gpu", "cpu"),
                    advanced=True,
                    tooltip="Where the noise is drawn. The same seed gives other noise on a GPU.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, s_noise: float, noise_device: str) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        options = {"eta": eta, "s_noise": s_noise}
        return io.NodeOutput(ksampler(_by_device("dpmpp_3m_sde", noise_device), options))


class SamplerER_SDE(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerER_SDE",
            category="model/sampling/samplers",
            description="ER-SDE-Solver: an SDE with any amount of noise.",
            inputs=[
                io.Combo.Input("solver_type", options=("ER-SDE", "Reverse-time SDE", "ODE")),
                io.Int.Input(
                    "max_stage",
                    default=3,
                    min=1,
                    max=3,
                    advanced=True,
                    tooltip="How many steps are looked back on.",
                ),
                widgets.eta(
                    10.0, tooltip="How random the steps are; 0 takes no noise. Large values may go wrong."
                ),
                widgets.s_noise(),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, solver_type: str, max_stage: int, eta: float, s_noise: float) -> io.NodeOutput:
        from functools import partial

        from comfyk_core_nodes.sampling.run import ksampler
        from comfyk_core_nodes.sampling.samplers.er_sde import er_sde_noise, no_noise, reverse_time_noise

        if solver_type == "ODE" or eta == 0:
            scaler, s_noise = no_noise, 0.0
        else:
            scaler = partial(er_sde_noise if solver_type == "ER-SDE" else reverse_time_noise, eta=eta)
        options = {"s_noise": s_noise, "noise_scaler": scaler, "max_stage": max_stage}
        return io.NodeOutput(ksampler("er_sde", options))


class SamplerSASolver(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerSASolver",
            category="model/sampling/samplers",
            description="SA-Solver: predictor and corrector, with noise during a part of the sampling.",
            search_aliases=["sde"],
            inputs=[
                io.Model.Input("model"),
                widgets.eta(10.0),
                io.Float.Input(
                    "sde_start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where noise begins; 0 is the first step.",
                ),
                io.Float.Input(
                    "sde_end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    advanced=True,
                    tooltip="Where noise ends; 1 is the last step.",
                ),
                widgets.s_noise(),
                io.Int.Input("predictor_order", default=3, min=1, max=6, advanced=True),
                io.Int.Input(
                    "corrector_order",
                    default=4,
                    min=0,
                    max=6,
                    advanced=True,
                    tooltip="0 leaves corrections out.",
                ),
                io.Boolean.Input(
                    "use_pece", advanced=True, tooltip="Ask the model again after each correction."
                ),
                io.Boolean.Input("simple_order_2", advanced=True, tooltip="Simpler weights at order 2."),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        eta: float,
        sde_start_percent: float,
        sde_end_percent: float,
        s_noise: float,
        predictor_order: int,
        corrector_order: int,
        use_pece: bool,
        simple_order_2: bool,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler
        from comfyk_core_nodes.sampling.samplers.sa_solver import tau_interval

        sampling = model.get_model_object("model_sampling")
        start, end = (sampling.percent_to_sigma(percent) for percent in (sde_start_percent, sde_end_percent))
        options = {
            "tau_func": tau_interval(start, end, eta),
            "s_noise": s_noise,
            "predictor_order": predictor_order,
            "corrector_order": corrector_order,
            "use_pece": use_pece,
            "simple_order_2": simple_order_2,
        }
        return io.NodeOutput(ksampler("sa_solver", options))


class SamplerSEEDS2(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerSEEDS2",
            category="model/sampling/samplers",
            description=(
                "SEEDS-2. With phi_2 and r at 1 it is exp_heun_2_x0 (eta 0) or exp_heun_2_x0_sde (eta 1)."
            ),
            search_aliases=["sde", "exp heun"],
            inputs=[
                io.Combo.Input("solver_type", options=("phi_1", "phi_2")),
                widgets.eta(tooltip="How random the steps are."),
                widgets.s_noise(),
                io.Float.Input(
                    "r",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="Where in a step the model is asked a second time.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, solver_type: str, eta: float, s_noise: float, r: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        options = {"eta": eta, "s_noise": s_noise, "r": r, "solver_type": solver_type}
        return io.NodeOutput(ksampler("seeds_2", options))


NODES = (
    SamplerDPMPP_SDE,
    SamplerDPMPP_2M_SDE,
    SamplerDPMPP_3M_SDE,
    SamplerER_SDE,
    SamplerSASolver,
    SamplerSEEDS2,
)
