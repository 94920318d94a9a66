"""What a family of diffusion models is: one registration that says all there is to know. No torch is imported here.

A `Family` has a `Layout`, how its network's weights are named in files, which several families may share, and a
`TextChain`, what its prompts go through. `ModelConfig` is what one file was found to be. What needs torch stands
behind functions, which are called when a file of the family is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from comfyk_core_nodes.families.lora_keys import plain_lora_keys

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from comfyk_core_nodes.latents.format import LatentFormat
    from comfyk_core_nodes.text.clip import CLIP
    from comfyk_core_nodes.text.lora_keys import KeyMap
    from comfyk_core_nodes.weights.state_dict import StateDict

Weights = Mapping[str, "Tensor"]
Sizes = dict[str, Any]


def _no_conversion(weights: Weights) -> StateDict | None:
    return None


def _no_marks(config: ModelConfig, network: Weights, file: Weights, metadata: Mapping[str, str]) -> None:
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the weights of one kind of network are named in files, and how its sizes are read from them."""

    title: str
    """Whose, for messages: `Stable Diffusion 1.x, 2.x or SDXL`."""
    network: str
    """What the network is, for messages: `UNet`."""
    prefix: Callable[[Weights], str | None]
    """What stands before the network's own names in a file, perhaps nothing; None where there is no such network."""
    sizes: Callable[[Weights], Sizes | None]
    """The numbers that the network is built from, given its weights under their own names; None where they are not
    all there. It may raise KeyError, IndexError, ZeroDivisionError or ValueError where they contradict each other."""
    converted: Callable[[Weights], StateDict | None] = _no_conversion
    """The weights in a file of the network alone that another program named, under their own names; None for
    something else."""


@dataclass(frozen=True, slots=True, eq=False)
class TextChain:
    """The text encoders of a family: where they are in files, and what a prompt becomes."""

    places: tuple[tuple[str, str], ...]
    """Which encoder (`clip_l`) is behind which prefix in a single-file checkpoint. A key may have several places."""
    read: Callable[[Weights], StateDict | None]
    """The encoder in weights without a prefix, under its own names; None where there is none."""
    tell: Callable[[Weights], tuple[str, StateDict] | None]
    """The key and the weights of the encoder in a file of its own; None for something else."""
    build: Callable[[Mapping[str, StateDict], Sequence[str]], CLIP]
    """The encoders with their tokenizers, of the weights by key, and the folders with embeddings. Raises ValueError
    where weights are missing or do not fit."""
    width: int | None = None
    """Channels of a prompt, where they tell the family."""
    known_as: str = ""
    """The family in a word or two, for messages about prompts of this width."""

    def in_checkpoint(self, weights: Weights) -> dict[str, StateDict]:
        """The encoders of a single-file checkpoint, by their keys."""
        from comfyk_core_nodes.weights.state_dict import with_prefix

        found: dict[str, StateDict] = {}
        for key, prefix in self.places:
            # The second as this program's own saving nodes and a few others write them.
            for before in (prefix, f"{key}.transformer."):
                own = self.read(with_prefix(weights, before))
                if own is not None:
                    found[key] = own
                    break
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """A family of models. `docs/families.md` shows how a plugin adds one."""

    name: str
    """A key, not for people: letters, digits, underscores."""
    title: str
    """For people, as it stands in a sentence: `the SDXL refiner`."""
    layout: Layout
    matches: Callable[[Mapping[str, Any]], bool]
    """Whether a network of these sizes is of this family; families that share a layout are asked one by one."""
    model: Callable[[ModelConfig, Any], Any]
    """The `BaseModel` for a config, on a device (`meta`: without weights). Raises ValueError where the sizes do not
    fit together."""
    latent_format: Callable[[], LatentFormat]
    text: TextChain | None = None
    """None where the family takes no prompt."""
    prediction: str = "eps"
    """What the network predicts, with its kind of noise levels: a key of `base_model.PREDICTIONS`."""
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of the noise levels that differ from those of their class (`sampling.model_sampling`): `shift` ..."""
    read_marks: Callable[[ModelConfig, Weights, Weights, Mapping[str, str]], None] = _no_marks
    """What sizes do not say: change the config by the network's weights, the file's, and its metadata."""
    lora_keys: Callable[[nn.Module], KeyMap] = plain_lora_keys
    """Under which names LoRA files speak of the weights of a `BaseModel`."""
    memory_factor: float = 1.0
    """How much memory a forward pass takes, against Stable Diffusion 1.x on a latent of the same size."""
    dtypes: tuple[str, ...] = ("fp16", "bf16", "fp32")
    """What the network computes well in, best first (`weights.dtypes.DTYPES`)."""
    clip_vision_prefix: str | None = None
    """Where checkpoints keep a CLIP vision model, if they have one."""
    files: tuple[str, ...] = ()
    """What its published files are called, as patterns (`*sd_xl*`): the web UI's templates that run are told by it."""


@dataclass
class ModelConfig:
    """What a file was found to be. The attribute names are the field's."""

    family: Family
    unet_config: Sizes
    latent_format: LatentFormat
    prediction: str = "eps"
    sampling_settings: dict[str, Any] = field(default_factory=dict)
    describe_prompt: Callable[[int], str] = "{} channels".format
    """The channels of a prompt in words, with the family that has as many."""

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def title(self) -> str:
        return self.family.title

    @property
    def memory_usage_factor(self) -> float:
        return self.family.memory_factor

    @property
    def supported_inference_dtypes(self) -> tuple[torch.dtype, ...]:
        from comfyk_core_nodes.weights.dtypes import DTYPES

        return tuple(DTYPES[name] for name in self.family.dtypes)
