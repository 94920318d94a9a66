"""The networks against plain calculations, through files with the key names of every release."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comfyk_core_nodes.upscaling.load import load_upscale_model
from comfyk_core_nodes.upscaling.tiled import upscale_tiled
from comfyk_core_nodes.weights.files import ModelFileError
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
CHANNELS, GROWTH, BLOCKS = 8, 4, 2


def weights(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, shape in shapes.items():
        inside = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * inside**-0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


def esrgan(ups: int, unshuffle: int = 1, colours: int = 3) -> State:
    """Random weights by Real-ESRGAN's names."""
    shapes = {"conv_first": (CHANNELS, colours * unshuffle**2, 3, 3)}
    for block in range(BLOCKS):
        for dense in (1, 2, 3):
            for conv in range(1, 6):
                out = CHANNELS if conv == 5 else GROWTH
                inside = CHANNELS + (conv - 1) * GROWTH
                shapes[f"body.{block}.rdb{dense}.conv{conv}"] = (out, inside, 3, 3)
    names = ["conv_body", *(f"conv_up{n + 1}" for n in range(ups)), "conv_hr"]
    shapes.update(dict.fromkeys(names, (CHANNELS, CHANNELS, 3, 3)))
    shapes["conv_last"] = (colours, CHANNELS, 3, 3)
    return weights(shapes)


def first_release(state: State, ups: int) -> State:
    names = {"conv_first": "model.0", "conv_body": f"model.1.sub.{BLOCKS}"}
    names.update({f"conv_up{n}": f"model.{3 * n}" for n in range(1, ups + 1)})
    names.update({"conv_hr": f"model.{3 * ups + 2}", "conv_last": f"model.{3 * ups + 4}"})
    out: State = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        if name.startswith("body."):
            _, block, dense, conv = name.split(".")
            out[f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{kind}"] = value
        else:
            out[f"{names[name]}.{kind}"] = value
    return out


def second_release(state: State, ups: int) -> State:
    names = {"conv_body": "trunk_conv", "conv_hr": "HRconv"}
    names.update({f"conv_up{n}": f"upconv{n}" for n in range(1, ups + 1)})
    out: State = {}
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        name = (
            name.replace("body.", "RRDB_trunk.").replace("rdb", "RDB") if name.startswith("body.") else name
        )
        out[f"{names.get(name, name)}.{kind}"] = value
    return out


LAYOUTS: dict[str, Callable[[State, int], State]] = {
    "first": first_release,
    "second": second_release,
    "real": lambda state, ups: state,
    "parallel": lambda state, ups: {f"module.{key}": value for key, value in state.items()},
}


def naive_esrgan(state: State, x: Tensor, ups: int) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    first = h = conv(x, "conv_first")
    for block in range(BLOCKS):
        start = h
        for dense in (1, 2, 3):
            name, seen = f"body.{block}.rdb{dense}.conv", [h]
            for number in range(1, 5):
                seen.append(F.leaky_relu(conv(torch.cat(seen, 1), f"{name}{number}"), 0.2))
            h = h + 0.2 * conv(torch.cat(seen, 1), f"{name}5")
        h = start + 0.2 * h
    h = first + conv(h, "conv_body")
    for number in range(1, ups + 1):
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        h = F.leaky_relu(conv(h, f"conv_up{number}"), 0.2)
    return conv(F.leaky_relu(conv(h, "conv_hr"), 0.2), "conv_last").clamp(0, 1)


def compact(scale: int, layers: int = 3) -> State:
    shapes = {"body.0": (CHANNELS, 3, 3, 3)}
    shapes.update({f"body.{2 * n}": (CHANNELS, CHANNELS, 3, 3) for n in range(1, layers)})
    shapes[f"body.{2 * layers}"] = (3 * scale**2, CHANNELS, 3, 3)
    slopes = {f"body.{2 * n + 1}.weight": torch.rand(CHANNELS) for n in range(layers)}
    return {**weights(shapes), **slopes}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(state: Any, name: str = "up.safetensors") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file({key: value.clone() for key, value in state.items()}, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.fixture
def picture() -> Tensor:
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ups", [0, 1, 2, 3])
def test_esrgan(ups: int, layout: str, save: Callable[..., Path], picture: Tensor) -> None:
    state = esrgan(ups)
    model = load_upscale_model(save(LAYOUTS[layout](state, ups)))
    assert (model.scale, model.input_channels, model.output_channels) == (2**ups, 3, 3)
    assert torch.allclose(model(picture), naive_esrgan(state, picture, ups), atol=1e-5)


@pytest.mark.parametrize(("unshuffle", "scale"), [(2, 2), (4, 1)])
def test_real_esrgan_that_is_given_several_pixels_at_once(
    unshuffle: int, scale: int, save: Callable[..., Path], picture: Tensor
) -> None:
    state = esrgan(2, unshuffle)
    model = load_upscale_model(save({"params_ema": state}, "up.pth"))
    assert (model.scale, model.input_channels) == (scale, 3)
    expected = naive_esrgan(state, F.pixel_unshuffle(picture, unshuffle), 2)
    assert torch.allclose(model(picture), expected, atol=1e-5)
    # A size that is no multiple is filled up by mirroring, to multiples of 4 as spandrel does.
    odd = picture[..., :11, :13]
    mirrored = F.pixel_unshuffle(F.pad(odd, (0, 3, 0, 1), mode="reflect"), unshuffle)
    expected = naive_esrgan(state, mirrored, 2)[..., : 11 * scale, : 13 * scale]
    assert torch.allclose(model(odd), expected, atol=1e-5)
    assert model(picture[..., :1, :1]).shape == (2, 3, scale, scale)
    narrow = picture[..., :5, :2]
    mirrored = F.pad(F.pad(narrow, (0, 1, 0, 3), mode="reflect"), (0, 1, 0, 0), mode="replicate")
    expected = naive_esrgan(state, F.pixel_unshuffle(mirrored, unshuffle), 2)[..., : 5 * scale, : 2 * scale]
    assert torch.allclose(model(narrow), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_compact(scale: int, save: Callable[..., Path], picture: Tensor) -> None:
    state = compact(scale)
    model = load_upscale_model(save({"params": state}, "compact.pth"))
    assert (model.scale, model.input_channels) == (scale, 3)
    h = picture
    for number in range(3):
        h = F.conv2d(h, state[f"body.{2 * number}.weight"], state[f"body.{2 * number}.bias"], padding=1)
        slope = state[f"body.{2 * number + 1}.weight"].view(1, -1, 1, 1)
        h = torch.where(h > 0, h, h * slope)
    h = F.conv2d(h, state["body.6.weight"], state["body.6.bias"], padding=1)
    near = picture.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.allclose(model(picture), (F.pixel_shuffle(h, scale) + near).clamp(0, 1), atol=1e-5)


def test_half_precision_file(save: Callable[..., Path], picture: Tensor) -> None:
    state = {key: value.half() for key, value in esrgan(1).items()}
    expected = naive_esrgan({key: value.float() for key, value in state.items()}, picture, 1)
    assert torch.allclose(load_upscale_model(save(state))(picture), expected, atol=1e-5)


class TestTiles:
    def test_equal_the_whole(self, save: Callable[..., Path]) -> None:
        state = esrgan(1)
        model = load_upscale_model(save(state))
        image = torch.rand(1, 150, 200, 3, generator=torch.Generator().manual_seed(2))
        tiled = upscale_tiled(model, image, tile=96)
        whole = naive_esrgan(state, image.movedim(-1, 1), 1).movedim(1, -1)
        assert tiled.shape == (1, 300, 400, 3)
        # Tiles start at 0, 64 and 128: only where two of them meet their edges show, and little.
        error = (tiled - whole).abs()
        assert error.max() < 0.1 and error.mean() < 1e-3
        assert error[:, :126, :126].max() < 1e-4 and error[:, 194:, 194:254].max() < 1e-4
        assert torch.allclose(upscale_tiled(model, image), whole, atol=1e-5)

    def test_alpha_is_left_out_and_grey_is_refused(self, save: Callable[..., Path]) -> None:
        model = load_upscale_model(save(esrgan(0)))
        image = torch.rand(1, 16, 16, 4)
        assert torch.equal(upscale_tiled(model, image), upscale_tiled(model, image[..., :3]))
        with pytest.raises(ValueError, match="3 channels, not of 1"):
            upscale_tiled(model, image[..., :1])

    def test_smaller_ones_when_the_memory_runs_out(
        self, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The layer in front fails for tiles that are too large, as an allocation does."""
        model = load_upscale_model(save(esrgan(0)))
        image = torch.rand(1, 300, 300, 3, generator=torch.Generator().manual_seed(3))
        whole = upscale_tiled(model, image)
        sizes: list[int] = []

        def limit(_module: Any, args: tuple[Tensor]) -> None:
            sizes.append(args[0].shape[-1])
            if sizes[-1] > 200:
                raise torch.OutOfMemoryError("CUDA out of memory")

        handle = model.model.get_submodule("conv_first").register_forward_pre_hook(limit)
        assert (upscale_tiled(model, image) - whole).abs().mean() < 1e-3
        assert max(sizes[2:]) == 128 and sizes[:2] == [300, 256]
        assert "trying 128" in caplog.text
        handle.remove()

    def test_an_error_that_is_no_lack_of_memory(self, save: Callable[..., Path]) -> None:
        model = load_upscale_model(save(esrgan(0)))
        model.model.get_submodule("conv_first").register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upscale_tiled(model, torch.rand(1, 8, 8, 3))

        def always(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        model = load_upscale_model(save(esrgan(0), "other.safetensors"))
        model.model.get_submodule("conv_first").register_forward_pre_hook(always)
        with pytest.raises(torch.OutOfMemoryError):
            upscale_tiled(model, torch.rand(1, 8, 8, 3))


class TestBadFiles:
    @pytest.mark.parametrize(
        ("state", "found"),
        [
            ({"a": torch.zeros(2)}, "1 tensors of something else"),
            ({"x.lora_up.weight": torch.zeros(2, 2)}, "a LoRA"),
            (
                {"body.0.weight": torch.zeros(4, 3, 3, 3), "body.1.weight": torch.zeros(4)},
                "no square of pixels",
            ),
            ({"body.0.weight": torch.zeros(4, 0, 3, 3), "body.1.weight": torch.zeros(4)}, "fit together"),
        ],
    )
    def test_something_else(self, state: State, found: str, save: Callable[..., Path]) -> None:
        with pytest.raises(ModelFileError, match=found) as caught:
            load_upscale_model(save(state, "odd.safetensors"))
        assert str(caught.value).startswith("odd.safetensors: expected an upscale model")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_weight_is_missed(self, layout: str, save: Callable[..., Path]) -> None:
        state = LAYOUTS[layout](esrgan(2), 2)
        for key in list(state)[::3]:
            less = {name: value for name, value in state.items() if name != key}
            with pytest.raises(ModelFileError, match=r"less.safetensors: expected an upscale model"):
                load_upscale_model(save(less, "less.safetensors"))

    @pytest.mark.skipif(find_spec("spandrel") is not None, reason="spandrel is installed")
    def test_what_would_help_is_named(self, save: Callable[..., Path]) -> None:
        with pytest.raises(ModelFileError, match=r"run: pip install 'comfyk-core-nodes\[upscale\]'"):
            load_upscale_model(save({"layers.0.residual_group.blocks.0.norm1.weight": torch.zeros(2)}))

    def test_a_broken_spandrel(
        self, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "spandrel.py").write_text(
            "raise RuntimeError('operator torchvision::nms does not exist')"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "spandrel", raising=False)
        with pytest.raises(ModelFileError, match=r"torchvision::nms does not exist.*pip install"):
            load_upscale_model(save({"layers.0.residual_group.blocks.0.norm1.weight": torch.zeros(2)}))

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "sprung"),)

        path = tmp_path / "trap.pth"
        torch.save({"conv_first.weight": Trap()}, path)
        with pytest.raises(ModelFileError, match="only running code could build"):
            load_upscale_model(path)
        assert not (tmp_path / "sprung").exists()


class TestSpandrel:
    """Where the extra `upscale` is installed."""

    def test_an_architecture_that_only_spandrel_knows(
        self, save: Callable[..., Path], picture: Tensor
    ) -> None:
        spandrel = pytest.importorskip("spandrel")
        architecture = pytest.importorskip("spandrel.architectures.SPAN").SPAN
        network = architecture(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2).eval()
        state = network.state_dict()
        model = load_upscale_model(save(state))
        assert (model.scale, model.input_channels, model.output_channels) == (2, 3, 3)
        with torch.no_grad():
            expected = spandrel.ModelLoader().load_from_state_dict(dict(state))(picture)
        torch.testing.assert_close(model(picture), expected)

    def test_what_spandrel_does_not_know(self, save: Callable[..., Path]) -> None:
        pytest.importorskip("spandrel")
        with pytest.raises(
            ModelFileError, match=r"odd.safetensors: expected an upscale model that spandrel knows"
        ):
            load_upscale_model(save({"a": torch.zeros(2)}, "odd.safetensors"))
