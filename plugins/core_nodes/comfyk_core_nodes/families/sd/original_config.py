"""The configuration files of the original repositories (CompVis, Stability), for those who keep one by a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from comfyk_core_nodes.memory.patcher import ModelPatcher
from comfyk_core_nodes.sampling.model_sampling import ModelSamplingDiscrete, model_sampling
from comfyk_core_nodes.sampling.prediction import V_PREDICTION
from comfyk_core_nodes.text.clip import CLIP
from comfyk_core_nodes.weights.files import ModelFileError


def apply_config(
    path: Path, model: ModelPatcher | None, clip: CLIP | None
) -> tuple[ModelPatcher | None, CLIP | None]:
    """What a configuration says and a checkpoint does not: `parameterization: v`, and the text encoder's `layer_idx`.

    Raises ModelFileError for a file that is no such configuration.
    """
    expected = "a configuration with model.params"
    try:
        parameters: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["params"]
        text = (parameters.get("cond_stage_config") or {}).get("params") or {}
        layer = text.get("layer_idx")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(path, expected, f"something else ({type(error).__name__})") from error
    if model is not None and parameters.get("parameterization") == "v":
        config = model.model.model_config
        model = model.clone()
        model.add_object_patch("model_sampling", model_sampling(ModelSamplingDiscrete, V_PREDICTION, config))
    if clip is not None and isinstance(layer, int):
        clip.clip_layer(layer)
    return model, clip
