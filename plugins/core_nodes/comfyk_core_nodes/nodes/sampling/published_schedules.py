"""Schedules from published tables: the sigmas of a run, `[steps + 1]`, descending to 0."""

from __future__ import annotations

from comfyk import io


def _denoise() -> io.Float.Input:
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Only the last share of the steps; 0 gives none.",
    )


class AlignYourStepsScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_align_your_steps"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AlignYourStepsScheduler",
            category="model/sampling/schedulers",
            description="Steps that were optimised for a family of models (Align Your Steps).",
            search_aliases=["AYS scheduler"],
            inputs=[
                io.Combo.Input("model_type", options=("SD1", "SDXL", "SVD")),
                io.Int.Input("steps", default=10, min=1, max=10000),
                _denoise(),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model_type: str, steps: int, denoise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.noise_tables import align_your_steps

        return io.NodeOutput(align_your_steps(model_type, steps, denoise))


class GITSScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_gits"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GITSScheduler",
            category="model/sampling/schedulers",
            description="Steps by the curvature of the sampling (GITS).",
            inputs=[
                io.Float.Input(
                    "coeff",
                    default=1.2,
                    min=0.8,
                    max=1.5,
                    step=0.05,
                    advanced=True,
                    tooltip="Lower ones put more steps where there is much noise.",
                ),
                io.Int.Input("steps", default=10, min=2, max=1000),
                _denoise(),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, coeff: float, steps: int, denoise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.noise_tables import gits

        return io.NodeOutput(gits(round(coeff, 2), steps, denoise))


class OptimalStepsScheduler(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_optimalsteps"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OptimalStepsScheduler",
            category="model/sampling/schedulers",
            description="Steps that were optimised for a family of models (OptimalSteps).",
            inputs=[
                io.Combo.Input("model_type", options=("FLUX", "Wan", "Chroma")),
                io.Int.Input("steps", default=20, min=3, max=1000),
                _denoise(),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model_type: str, steps: int, denoise: float) -> io.NodeOutput:
        from comfyk_core_nodes.sampling.noise_tables import optimal_steps

        return io.NodeOutput(optimal_steps(model_type, steps, denoise))


NODES = (
    AlignYourStepsScheduler,
    GITSScheduler,
    OptimalStepsScheduler,
)
