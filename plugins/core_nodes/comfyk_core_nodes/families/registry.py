"""All families there are, the built-in ones and those of plugins, and which of them a file is of. No torch here.

Plugins add theirs in the hook `comfyk_register_model_families`, which is called once for an app.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from comfyk import current_app

from comfyk_core_nodes.families.built_in import built_in
from comfyk_core_nodes.families.family import Family, Layout, ModelConfig, Sizes, TextChain, Weights

if TYPE_CHECKING:
    from comfyk import App

    from comfyk_core_nodes.weights.state_dict import StateDict

log = logging.getLogger(__name__)

T = TypeVar("T")


class Families:
    """Families in the order that they are asked in: the first that knows a file has it."""

    def __init__(self, families: Iterable[Family] = ()) -> None:
        self._families: list[Family] = []
        self.add(*families)

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families)

    def add(self, *families: Family) -> None:
        """Add families, in this order before those that are there. Raises ValueError for a name that is taken."""
        taken = {family.name for family in self._families}
        for family in families:
            if family.name in taken:
                raise ValueError(f"there is a family {family.name!r} already; give yours another name")
            taken.add(family.name)
        self._families[:0] = families

    @property
    def files(self) -> list[str]:
        """What files of all of them are called, as patterns."""
        return [pattern for family in self._families for pattern in family.files]

    @property
    def layouts(self) -> list[Layout]:
        return list(dict.fromkeys(family.layout for family in self._families))

    @property
    def text_chains(self) -> list[TextChain]:
        return [family.text for family in self._families if family.text is not None]

    def find_network(self, weights: Weights, alone: bool = False) -> tuple[Layout, StateDict] | None:
        """The diffusion model among a file's weights, under its own names; None where there is none.

        With `alone` also one that another program named, in a file of its own.
        """
        for layout in self.layouts:
            prefix = _ask(layout.prefix, weights)
            if prefix is not None:
                size = len(prefix)
                return layout, {key[size:]: value for key, value in weights.items() if key.startswith(prefix)}
        for layout in self.layouts if alone else ():
            converted = _ask(layout.converted, weights)
            if converted is not None:
                return layout, converted
        return None

    def config(
        self, layout: Layout, sizes: Sizes, network: Weights, file: Weights, metadata: Mapping[str, str]
    ) -> ModelConfig | None:
        """What a network of these sizes is, and how it was trained; None where no family has such.

        `network` has the network's weights under their own names; `file` the whole file's, where marks may stand
        beside the networks.
        """
        own = (family for family in self._families if family.layout is layout)
        family = next((family for family in own if family.matches(sizes)), None)
        if family is None:
            return None
        config = ModelConfig(
            family,
            sizes,
            family.latent_format(),
            family.prediction,
            dict(family.sampling_defaults),
            self.describe_prompt,
        )
        family.read_marks(config, network, file, metadata)
        return config

    def tell_text_encoder(self, weights: Weights) -> tuple[TextChain, str, StateDict] | None:
        """The text encoder in a file of its own: a chain that knows it, its key and its weights."""
        asked: list[Any] = []
        for chain in self.text_chains:
            if chain.tell in asked:
                continue
            asked.append(chain.tell)
            told = _ask(chain.tell, weights)
            if told is not None:
                return chain, *told
        return None

    def text_chain_of(self, keys: Collection[str]) -> TextChain | None:
        """The text chain of the first family that has just these encoders."""
        chains = self.text_chains
        return next((chain for chain in chains if {key for key, _ in chain.places} == set(keys)), None)

    def describe_prompt(self, channels: int) -> str:
        """A prompt's channels, with the family whose text encoders give as many: `768 channels (SD 1.x)`."""
        names = (chain.known_as for chain in self.text_chains if chain.width == channels and chain.known_as)
        name = next(names, None)
        return f"{channels} channels" if name is None else f"{channels} channels ({name})"

    def checkpoints(self) -> str:
        """What single-file checkpoints may be of, for messages."""
        return "a checkpoint of " + ", or of ".join(layout.title for layout in self.layouts)

    def networks(self) -> str:
        """What files of a network alone may hold, for messages."""
        return ", or ".join(f"a {layout.network} of {layout.title}" for layout in self.layouts)


def _ask(function: Callable[[Weights], T | None], weights: Weights) -> T | None:
    """What the function of a family says of a file; None where it fails, so that the others are asked."""
    try:
        return function(weights)
    except Exception:
        log.exception(
            "%s of a family of models failed; it counts as not knowing the file", function.__qualname__
        )
        return None


_of_apps: WeakKeyDictionary[App, Families] = WeakKeyDictionary()


@cache
def _outside_of_apps() -> Families:
    return Families(built_in())


def model_families() -> Families:
    """The families of the app that runs this code; the built-in ones outside of an app."""
    try:
        app: Any = current_app()
    except RuntimeError:
        return _outside_of_apps()
    known = _of_apps.get(app)
    if known is None:
        known = _of_apps[app] = Families(built_in())
        app.hook.comfyk_register_model_families(families=known)
    return known


def describe_prompt(channels: int) -> str:
    """`Families.describe_prompt` of the running app."""
    return model_families().describe_prompt(channels)
