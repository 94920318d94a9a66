"""Inputs that several nodes of sampling have."""

from __future__ import annotations

from comfyk import io


def eta(
    most: float = 100.0,
    *,
    advanced: bool = True,
    tooltip: str = "How much of the noise is made anew in each step; 0 takes none.",
) -> io.Float.Input:
    """How random a sampler is."""
    return io.Float.Input(
        "eta",
        default=1.0,
        min=0.0,
        max=most,
        step=0.01,
        round=False,
        advanced=advanced or None,
        tooltip=tooltip,
    )


def s_noise(most: float = 100.0, *, advanced: bool = True) -> io.Float.Input:
    """A factor on the noise that a sampler adds."""
    return io.Float.Input(
        "s_noise",
        default=1.0,
        min=0.0,
        max=most,
        step=0.01,
        round=False,
        advanced=advanced or None,
        tooltip="A factor on the noise.",
    )


def cfg(
    name: str = "cfg",
    default: float = 8.0,
    tooltip: str = "How strictly the prompts are followed. 1 leaves the negative one out.",
) -> io.Float.Input:
    """A scale of classifier-free guidance."""
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)
