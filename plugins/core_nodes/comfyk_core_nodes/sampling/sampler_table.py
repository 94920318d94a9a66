"""The samplers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from comfyk_core_nodes.sampling.samplers import (
    cfg_pp,
    ddpm,
    deis,
    dpm,
    dpm_solver,
    dpmpp,
    dpmpp_sde,
    er_sde,
    euler,
    gradient_estimation,
    heun,
    ipndm,
    lcm,
    lms,
    res,
    sa_solver,
    seeds,
    uni_pc,
)
from comfyk_core_nodes.sampling.samplers.steps import Args, Callback, Model


def _lowest(sigmas: Tensor) -> Tensor:
    """The last level that is not 0."""
    return sigmas[-2] if sigmas[-1] == 0 else sigmas[-1]


def dpm_fast(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """`sample_dpm_fast` with as many evaluations as there are steps."""
    if len(sigmas) <= 1:
        return x
    return dpm_solver.sample_dpm_fast(
        model, x, _lowest(sigmas), sigmas[0], len(sigmas) - 1, extra_args, callback
    )


def dpm_adaptive(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Args | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    **options: Any,
) -> Tensor:
    """`sample_dpm_adaptive` between the bounds of a schedule; its steps are its own."""
    if len(sigmas) <= 1:
        return x
    return dpm_solver.sample_dpm_adaptive(
        model, x, _lowest(sigmas), sigmas[0], extra_args, callback, **options
    )


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "euler": euler.sample_euler,
    "euler_cfg_pp": cfg_pp.sample_euler_cfg_pp,
    "euler_ancestral": euler.sample_euler_ancestral,
    "euler_ancestral_cfg_pp": cfg_pp.sample_euler_ancestral_cfg_pp,
    "heun": heun.sample_heun,
    "heunpp2": heun.sample_heunpp2,
    "exp_heun_2_x0": seeds.sample_exp_heun_2_x0,
    "exp_heun_2_x0_sde": seeds.sample_exp_heun_2_x0_sde,
    "dpm_2": dpm.sample_dpm_2,
    "dpm_2_ancestral": dpm.sample_dpm_2_ancestral,
    "lms": lms.sample_lms,
    "dpm_fast": dpm_fast,
    "dpm_adaptive": dpm_adaptive,
    "dpmpp_2s_ancestral": dpmpp.sample_dpmpp_2s_ancestral,
    "dpmpp_2s_ancestral_cfg_pp": cfg_pp.sample_dpmpp_2s_ancestral_cfg_pp,
    "dpmpp_sde": dpmpp_sde.sample_dpmpp_sde,
    "dpmpp_sde_gpu": dpmpp_sde.sample_dpmpp_sde_gpu,
    "dpmpp_2m": dpmpp.sample_dpmpp_2m,
    "dpmpp_2m_cfg_pp": cfg_pp.sample_dpmpp_2m_cfg_pp,
    "dpmpp_2m_sde": dpmpp_sde.sample_dpmpp_2m_sde,
    "dpmpp_2m_sde_gpu": dpmpp_sde.sample_dpmpp_2m_sde_gpu,
    "dpmpp_2m_sde_heun": dpmpp_sde.sample_dpmpp_2m_sde_heun,
    "dpmpp_2m_sde_heun_gpu": dpmpp_sde.sample_dpmpp_2m_sde_heun_gpu,
    "dpmpp_3m_sde": dpmpp_sde.sample_dpmpp_3m_sde,
    "dpmpp_3m_sde_gpu": dpmpp_sde.sample_dpmpp_3m_sde_gpu,
    "ddpm": ddpm.sample_ddpm,
    "lcm": lcm.sample_lcm,
    "ipndm": ipndm.sample_ipndm,
    "ipndm_v": ipndm.sample_ipndm_v,
    "deis": deis.sample_deis,
    "res_multistep": res.sample_res_multistep,
    "res_multistep_cfg_pp": res.sample_res_multistep_cfg_pp,
    "res_multistep_ancestral": res.sample_res_multistep_ancestral,
    "res_multistep_ancestral_cfg_pp": res.sample_res_multistep_ancestral_cfg_pp,
    "gradient_estimation": gradient_estimation.sample_gradient_estimation,
    "gradient_estimation_cfg_pp": gradient_estimation.sample_gradient_estimation_cfg_pp,
    "er_sde": er_sde.sample_er_sde,
    "seeds_2": seeds.sample_seeds_2,
    "seeds_3": seeds.sample_seeds_3,
    "sa_solver": sa_solver.sample_sa_solver,
    "sa_solver_pece": sa_solver.sample_sa_solver_pece,
    "ddim": euler.sample_euler,
    "uni_pc": uni_pc.sample_unipc,
    "uni_pc_bh2": uni_pc.sample_unipc_bh2,
}
