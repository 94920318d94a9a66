"""`python -m training vae|denoiser|export|evaluate|all --work DIR`: what is cut off is gone on with."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from training import denoiser, evaluate, vae
from training.export import export


@click.command()
@click.argument("part", type=click.Choice(["vae", "denoiser", "export", "evaluate", "all"]))
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where what is learned is kept.")
@click.option("--threads", default=2, show_default=True)
@click.option("--vae-steps", default=vae.STEPS, show_default=True)
@click.option("--steps", default=denoiser.STEPS, show_default=True, help="Of the denoiser.")
def main(part: str, work: Path, threads: int, vae_steps: int, steps: int) -> None:
    """Train the demo model from pictures that are drawn here."""
    torch.set_num_threads(threads)
    if part in ("vae", "all"):
        vae.train(work, vae_steps)
    if part in ("denoiser", "all"):
        denoiser.train(work, steps)
    if part in ("export", "all"):
        export(work, work / "comfyk-demo.safetensors")
    if part in ("evaluate", "all"):
        for name, share in evaluate.evaluate(work).items():
            click.echo(f"{name}: {share:.0%}")


main()
