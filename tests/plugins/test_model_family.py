"""A family of models that an installed plugin brings: a server loads its checkpoint, and samples."""

from __future__ import annotations

import safetensors.torch
import torch

from ..core_nodes.tiny_models import make_text, prefixed

WIDTH, CHANNELS, CONTEXT = 12, 16, 64


def checkpoint() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = {
        "read.weight": (WIDTH, CHANNELS, 3, 3),
        "read.bias": (WIDTH,),
        "time.weight": (WIDTH, 1),
        "time.bias": (WIDTH,),
        "text.weight": (WIDTH, CONTEXT),
        "text.bias": (WIDTH,),
        "write.weight": (CHANNELS, WIDTH, 3, 3),
        "write.bias": (CHANNELS,),
    }
    state = {f"model.diffusion_model.{key}": torch.randn(shape) / 4 for key, shape in network.items()}
    return state | prefixed("text_encoders.clip_l.", make_text(None).state_dict())


PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a cat"}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
            "seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        },
    },
    "5": {"class_type": "SaveLatent", "inputs": {"samples": ["4", 0], "filename_prefix": "tiny"}},
}  # fmt: skip


async def test_a_server_loads_and_samples_a_model_of_a_plugins_family(
    make_server, installed, session, tmp_path, receive
):
    server = make_server(PYTHONPATH=str(installed("model_family")))
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(checkpoint(), folder / "tiny.safetensors")
    await server.start("--set", "plugins.disabled=frontend")
    async with session.ws_connect(server.url + "/ws?clientId=me") as socket:
        async with session.post(server.url + "/prompt", json={"prompt": PROMPT, "client_id": "me"}) as answer:
            assert answer.status == 200, await answer.text()
            job_id = (await answer.json())["prompt_id"]
        while True:
            async with session.get(f"{server.url}/history/{job_id}") as answer:
                if entry := (await answer.json()).get(job_id):
                    break
            await receive(socket)
    assert entry["status"]["status_str"] == "success", entry["status"]
    (saved,) = entry["outputs"]["5"]["latents"]
    made = safetensors.torch.load_file(tmp_path / "output" / saved["filename"])["latent_tensor"]
    assert made.shape == (1, CHANNELS, 8, 8) and made.isfinite().all() and made.std() > 0.1
