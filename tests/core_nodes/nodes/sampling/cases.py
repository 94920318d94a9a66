"""What to run: nodes with settings, the extreme ones of their widgets among them.

`comfyui.json` has the numbers that ComfyUI 0.33 gives for each of them with the same model, by the cases' names.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]
Case = tuple[str, Settings]

FLOW: list[Case] = [("ModelSamplingSD3", {"shift": 3.0})]
V: list[Case] = [("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False})]
KARRAS = [14.614642, 6.0, 2.3, 0.7, 0.0291675, 0.0]
FLOWING = [1.0, 0.9, 0.6, 0.2, 0.0]


def name_of(node: str, settings: Settings) -> str:
    return " ".join([node, *(f"{key}={value}" for key, value in settings.items())])


def _each(node: str, **alternatives: list[Any]) -> list[Case]:
    """The first of each setting, and each other one with the rest as it is."""
    usual = {key: values[0] for key, values in alternatives.items()}
    others = [{**usual, key: value} for key, values in alternatives.items() for value in values[1:]]
    return [(node, usual), *((node, settings) for settings in others)]


_BOUNDS: dict[str, list[Any]] = {"sigma_max": [14.614642, 5000.0], "sigma_min": [0.0291675, 14.0]}

SCHEDULES: list[Case] = [
    *_each(
        "BasicScheduler",
        scheduler=["normal", "karras", "ddim_uniform", "beta", "simple", "linear_quadratic"],
        steps=[7, 1],
        denoise=[1.0, 0.5, 0.0],
    ),
    ("BasicScheduler", {"scheduler": "ddim_uniform", "steps": 33, "denoise": 1.0}),
    *_each("KarrasScheduler", steps=[5, 1], **_BOUNDS, rho=[7.0, 0.1, 100.0]),
    *_each("ExponentialScheduler", steps=[5, 1], **_BOUNDS),
    *_each("PolyexponentialScheduler", steps=[5, 1], **_BOUNDS, rho=[1.0, 0.0, 100.0]),
    *_each("LaplaceScheduler", steps=[5, 1], **_BOUNDS, mu=[0.0, -10.0, 10.0], beta=[0.5, 0.0, 10.0]),
    *_each("VPScheduler", steps=[5, 1], beta_d=[19.9, 0.0], beta_min=[0.1, 0.0], eps_s=[0.001, 0.0, 1.0]),
    *_each("BetaSamplingScheduler", steps=[5, 1], alpha=[0.6, 50.0, 0.01], beta=[0.6, 50.0, 0.01]),
    *_each("SDTurboScheduler", steps=[4, 1, 10], denoise=[1.0, 0.5, 0.1, 0.0]),
    *_each(
        "AlignYourStepsScheduler", model_type=["SD1", "SDXL", "SVD"], steps=[10, 1, 13], denoise=[1.0, 0.3]
    ),
    *_each("OptimalStepsScheduler", model_type=["FLUX", "Wan", "Chroma"], steps=[20, 3], denoise=[1.0, 0.3]),
    *_each("GITSScheduler", coeff=[1.2, 0.8, 1.5], steps=[6, 2, 25], denoise=[1.0, 0.5, 0.0]),
]
WITH_MODEL = ("BasicScheduler", "BetaSamplingScheduler", "SDTurboScheduler")

LEVELS: list[Case] = [
    *_each(
        "ModelSamplingDiscrete",
        sampling=["eps", "v_prediction", "lcm", "x0", "img_to_img", "img_to_img_flow"],
        zsnr=[False, True],
    ),
    ("ModelSamplingDiscrete", {"sampling": "lcm", "zsnr": True}),
    *_each(
        "ModelSamplingContinuousEDM",
        sampling=["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"],
        sigma_max=[120.0, 1000.0],
        sigma_min=[0.002, 0.5],
    ),
    *_each(
        "ModelSamplingContinuousV",
        sampling=["v_prediction"],
        sigma_max=[500.0, 1000.0],
        sigma_min=[0.03, 0.5],
    ),
    *_each("ModelSamplingStableCascade", shift=[2.0, 0.0, 1.0, 100.0]),
    *_each("ModelSamplingSD3", shift=[3.0, 1.0, 100.0]),
    *_each("ModelSamplingAuraFlow", shift=[1.73, 100.0]),
    *_each(
        "ModelSamplingFlux",
        max_shift=[1.15, 3.0],
        base_shift=[0.5, 0.0],
        width=[1024, 16, 4096],
        height=[1024, 512],
    ),
    *_each("ModelNoiseScale", noise_scale=[2.0, 0.0, 64.0]),
]
"""ModelNoiseScale is given a flow model."""

_NOISY: dict[str, list[Any]] = {"eta": [1.0, 0.0, 100.0], "s_noise": [1.0, 0.0, 100.0]}

SAMPLERS: list[Case] = [
    *_each("SamplerEulerAncestral", **_NOISY),
    *_each("SamplerEulerAncestralCFGPP", eta=[1.0, 0.0], s_noise=[1.0, 10.0]),
    *_each("SamplerEulerCFGpp", version=["regular", "alternative"]),
    *_each("SamplerLMS", order=[4, 1, 100]),
    *_each("SamplerDPMPP_2S_Ancestral", **_NOISY),
    *_each("SamplerDPMPP_SDE", **_NOISY, r=[0.5, 1.0, 3.0], noise_device=["cpu", "gpu"]),
    *_each("SamplerDPMPP_2M_SDE", solver_type=["midpoint", "heun"], **_NOISY, noise_device=["cpu", "gpu"]),
    *_each("SamplerDPMPP_3M_SDE", **_NOISY, noise_device=["cpu", "gpu"]),
    *_each(
        "SamplerDPMAdaptative",
        order=[3, 2],
        rtol=[0.05, 1.0],
        atol=[0.0078, 1.0],
        h_init=[0.05, 100.0],
        pcoeff=[0.0, 0.3],
        icoeff=[1.0, 0.5],
        dcoeff=[0.0, 0.1],
        accept_safety=[0.81, 0.5],
        eta=[0.0, 1.0],
        s_noise=[1.0],
    ),
    *_each(
        "SamplerER_SDE",
        solver_type=["ER-SDE", "Reverse-time SDE", "ODE"],
        max_stage=[3, 1, 2],
        eta=[1.0, 0.0, 10.0],
        s_noise=[1.0, 0.0],
    ),
    *_each(
        "SamplerSASolver",
        eta=[1.0, 0.0, 10.0],
        sde_start_percent=[0.2, 0.0],
        sde_end_percent=[0.8, 1.0],
        s_noise=[1.0, 0.0],
        predictor_order=[3, 1, 6],
        corrector_order=[4, 0, 6],
        use_pece=[False, True],
        simple_order_2=[False],
    ),
    (
        "SamplerSASolver",
        {
            "eta": 1.0,
            "sde_start_percent": 0.2,
            "sde_end_percent": 0.8,
            "s_noise": 1.0,
            "predictor_order": 2,
            "corrector_order": 2,
            "use_pece": False,
            "simple_order_2": True,
        },
    ),
    *_each("SamplerSEEDS2", solver_type=["phi_1", "phi_2"], **_NOISY, r=[0.5, 1.0]),
    *_each("SamplerLCM", s_noise=[1.0, 0.0, 64.0], s_noise_end=[1.0, 0.0], noise_clip_std=[0.0, 1.0]),
    *_each(
        "SamplerLCMUpscale",
        scale_ratio=[1.5, 0.1, 1.0],
        scale_steps=[-1, 0, 2, 1000],
        upscale_method=["bislerp", "nearest-exact", "bilinear", "area", "bicubic"],
    ),
]
SAMPLERS_WITH_MODEL = ("SamplerSASolver",)

_LOWER = {"cfg": 1.0, "start_percent": 0.3, "end_percent": 0.7}
_TWO = ("DualCFGGuider", {"cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": "regular"})

GUIDED: dict[str, Settings] = {
    **{
        f"rescale {kind} {multiplier} {cfg}": {
            "patches": [*patches, ("RescaleCFG", {"multiplier": multiplier})],
            "cfg": cfg,
            "sigmas": FLOWING if patches is FLOW else KARRAS,
        }
        for kind, patches in (("eps", []), ("v", V), ("flow", FLOW))
        for multiplier, cfg in ((0.7, 4.0), (1.0, 30.0), (0.0, 4.0))
    },
    **{
        f"differential {kind} {strength}": {
            "patches": [*patches, ("DifferentialDiffusion", {"strength": strength})],
            "sigmas": FLOWING if patches is FLOW else KARRAS,
            "noise_mask": "ramp",
        }
        for kind, patches in (("eps", []), ("flow", FLOW))
        for strength in (1.0, 0.3, 0.0)
    },
    "differential to a level above 0": {
        "patches": [("DifferentialDiffusion", {"strength": 1.0})],
        "sigmas": KARRAS[:4],
        "noise_mask": "ramp",
    },
    "override": {"patches": [("CFGOverride", _LOWER)]},
    "override twice": {
        "patches": [
            ("CFGOverride", {"cfg": 1.0, "start_percent": 0.0, "end_percent": 0.6}),
            ("CFGOverride", {"cfg": 9.0, "start_percent": 0.3, "end_percent": 1.0}),
        ]
    },
    "basic": {"guider": ("BasicGuider", {})},
    "basic cfg++": {"guider": ("BasicGuider", {}), "sampler": "euler_cfg_pp"},
    "cfg 0": {"cfg": 0.0},
    "cfg 100": {"cfg": 100.0},
    "dual": {"guider": _TWO},
    "dual nested": {"guider": (_TWO[0], {**_TWO[1], "style": "nested"})},
    "dual without negative": {"guider": (_TWO[0], {**_TWO[1], "cfg_cond2_negative": 1.0})},
    "dual cfg++": {"guider": _TWO, "sampler": "euler_cfg_pp"},
    "two models": {"guider": ("DualModelGuider", {"cfg": 4.0})},
    "two models cfg 1": {"guider": ("DualModelGuider", {"cfg": 1.0})},
    "two models flow": {"guider": ("DualModelGuider", {"cfg": 4.0}), "patches": FLOW, "sigmas": FLOWING},
    "two models masked": {"guider": ("DualModelGuider", {"cfg": 4.0}), "noise_mask": "ramp"},
    "two models raised on the way": {
        "guider": ("DualModelGuider", {"cfg": 1.0}),
        "patches": [("CFGOverride", {**_LOWER, "cfg": 5.0})],
    },
    "two models lowered on the way": {
        "guider": ("DualModelGuider", {"cfg": 5.0}),
        "patches": [("CFGOverride", _LOWER)],
    },
    "two models lowered on the way cfg++": {
        "guider": ("DualModelGuider", {"cfg": 5.0}),
        "patches": [("CFGOverride", _LOWER)],
        "sampler": "euler_cfg_pp",
    },
    "one model of two": {"guider": ("DualModelGuider", {"cfg": 4.0}), "second": False},
    "area": {"positive": {"area": (8, 8, 2, 4)}},
    "area in the corner": {"positive": {"area": (8, 8, 10, 18), "strength": 0.7}},
    "area in percent": {"positive": {"area": ("percentage", 0.5, 0.5, 0.25, 0.3)}},
    "area of negative": {"negative": {"area": (12, 12, 0, 6)}},
    "area and default": {"positive": {"area": (8, 8, 2, 4)}, "default": True},
    "strength": {"positive": {"strength": 0.3}, "more": True},
    "strength 0": {"positive": {"strength": 0.0}},
    "mask": {"positive": {"mask": "ramp", "mask_strength": 0.7}, "more": True},
    "mask bounds": {"positive": {"mask": "spot", "set_area_to_bounds": True}, "more": True},
    "timestep range": {"positive": {"start_percent": 0.2, "end_percent": 0.6}, "more": True},
    "timestep range alone": {"positive": {"start_percent": 0.5}},
    "longer prompt": {"length": 154},
    "odd prompt": {"length": 120},
    "noise mask": {"noise_mask": "spot"},
    "noise mask ddim": {"noise_mask": "spot", "sampler": "ddim"},
    "batch index": {"batch_index": [5, 2], "sampler": "euler_ancestral"},
    "without noise": {"noise": ("DisableNoise", {}), "sigmas": KARRAS[2:]},
    "no sigmas": {"sigmas": []},
    "one sigma": {"sigmas": KARRAS[:1]},
    "leftover noise": {"sigmas": KARRAS[:3]},
}
"""What is not given is: no patches, a CFGGuider at 4, euler on KARRAS, noise of seed 7."""

EDITS = ("inpaint", "inpaint without a noise mask", "inpaint without a picture", "edit by words")
"""Models that are given a picture next to the noise."""
