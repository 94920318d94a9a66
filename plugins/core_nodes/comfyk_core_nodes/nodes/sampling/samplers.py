"""Samplers as objects, by name or with their options: those that solve the ODE, and ancestral ones."""

from __future__ import annotations

from comfyk import io

from comfyk_core_nodes.nodes.sampling import widgets
from comfyk_core_nodes.sampling.names import SAMPLER_NAMES

_NEVER = 2.57
"""The controller of dpm_adaptive makes no step longer by more than this, 1 + pi / 2."""


class KSamplerSelect(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSamplerSelect",
            category="model/sampling/samplers",
            description="A sampler by its name.",
            inputs=[io.Combo.Input("sampler_name", options=SAMPLER_NAMES)],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sampler_name: str) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import sampler_object

        return io.NodeOutput(sampler_object(sampler_name))


class SamplerEulerAncestral(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerEulerAncestral",
            category="model/sampling/samplers",
            description="Euler steps with new noise after each.",
            inputs=[
                widgets.eta(),
                widgets.s_noise(),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, s_noise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        return io.NodeOutput(ksampler("euler_ancestral", {"eta": eta, "s_noise": s_noise}))


class SamplerEulerAncestralCFGPP(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerEulerAncestralCFGPP",
            display_name="SamplerEulerAncestralCFG++",
            category="model/sampling/samplers",
            description="Euler steps with new noise after each, by CFG++.",
            inputs=[
                widgets.eta(1.0, advanced=False),
                widgets.s_noise(10.0, advanced=False),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, s_noise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        return io.NodeOutput(ksampler("euler_ancestral_cfg_pp", {"eta": eta, "s_noise": s_noise}))


class SamplerEulerCFGpp(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_advanced_samplers"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerEulerCFGpp",
            display_name="SamplerEulerCFG++",
            category="experimental",
            description="Euler steps by CFG++, in one of two versions.",
            is_experimental=True,
            inputs=[io.Combo.Input("version", options=("regular", "alternative"), advanced=True)],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, version: str) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import KSAMPLER, ksampler
        from comfyk_core_nodes.sampling.samplers.cfg_pp import sample_euler_pp

        return io.NodeOutput(
            KSAMPLER(sample_euler_pp) if version == "alternative" else ksampler("euler_cfg_pp")
        )


class SamplerLMS(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerLMS",
            category="model/sampling/samplers",
            description="Linear multistep sampling.",
            inputs=[
                io.Int.Input(
                    "order",
                    default=4,
                    min=1,
                    max=100,
                    advanced=True,
                    tooltip="How many steps are looked back on.",
                )
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, order: int) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        return io.NodeOutput(ksampler("lms", {"order": order}))


class SamplerDPMPP_2S_Ancestral(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerDPMPP_2S_Ancestral",
            category="model/sampling/samplers",
            description="DPM-Solver++(2S) with new noise after each step.",
            inputs=[
                widgets.eta(advanced=False),
                widgets.s_noise(advanced=False),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, eta: float, s_noise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        return io.NodeOutput(ksampler("dpmpp_2s_ancestral", {"eta": eta, "s_noise": s_noise}))


class SamplerDPMAdaptative(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_custom_sampler"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerDPMAdaptative",
            category="model/sampling/samplers",
            description="DPM-Solver with steps as large as the tolerated error allows.",
            inputs=[
                io.Int.Input("order", default=3, min=2, max=3, advanced=True),
                io.Float.Input(
                    "rtol",
                    default=0.05,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The tolerated error, relative to the latent.",
                ),
                io.Float.Input(
                    "atol",
                    default=0.0078,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The tolerated error, absolute.",
                ),
                io.Float.Input(
                    "h_init",
                    default=0.05,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The first step, in log sigma.",
                ),
                io.Float.Input(
                    "pcoeff",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The controller: how the last error counts.",
                ),
                io.Float.Input(
                    "icoeff",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The controller: how the sum of errors counts.",
                ),
                io.Float.Input(
                    "dcoeff",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="The controller: how the change of errors counts.",
                ),
                io.Float.Input(
                    "accept_safety",
                    default=0.81,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="Steps are repeated when the controller would make them shorter than this.",
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="How much of the noise is made anew in each step; 0 takes none.",
                ),
                widgets.s_noise(),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(
        cls,
        order: int,
        rtol: float,
        atol: float,
        h_init: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        accept_safety: float,
        eta: float,
        s_noise: float,
    ) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.run import ksampler

        if h_init == 0:
            raise ValueError("with an h_init of 0 no step is ever taken; set it higher, 0.05 is usual")
        if rtol == 0 and atol == 0:
            raise ValueError("no step is without any error; set rtol or atol above 0")
        if accept_safety >= _NEVER:
            raise ValueError(
                f"with an accept_safety of {accept_safety} no step is ever accepted; set it below {_NEVER}"
            )
        options = {
            "order": order,
            "rtol": rtol,
            "atol": atol,
            "h_init": h_init,
            "pcoeff": pcoeff,
            "icoeff": icoeff,
            "dcoeff": dcoeff,
            "accept_safety": accept_safety,
            "eta": eta,
            "s_noise": s_noise,
        }
        return io.NodeOutput(ksampler("dpm_adaptive", options))


NODES = (
    KSamplerSelect,
    SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP,
    SamplerEulerCFGpp,
    SamplerLMS,
    SamplerDPMPP_2S_Ancestral,
    SamplerDPMAdaptative,
)
