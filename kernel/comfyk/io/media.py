"""The io types of sound, video, vector graphics, layered pictures and everything 3D."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from comfyk.io.base import ComfyTypeIO, comfytype


@comfytype(io_type="AUDIO")
class Audio(ComfyTypeIO):
    class AudioDict(TypedDict):
        waveform: Any
        """A float tensor `[B, channels, samples]`, values -1 to 1."""
        sample_rate: int
        """Samples a second."""

    Type = AudioDict


@comfytype(io_type="AUDIO_ENCODER")
class AudioEncoder(ComfyTypeIO):
    pass


@comfytype(io_type="AUDIO_ENCODER_OUTPUT")
class AudioEncoderOutput(ComfyTypeIO):
    pass


@comfytype(io_type="VIDEO")
class Video(ComfyTypeIO):
    pass


@comfytype(io_type="SVG")
class SVG(ComfyTypeIO):
    pass


@comfytype(io_type="LAYERS")
class Layers(ComfyTypeIO):
    """A picture as a stack of layers."""

    BlendMode = Literal[
        "normal", "multiply", "screen", "overlay", "darken", "lighten", "color-dodge", "color-burn",
        "hard-light", "soft-light", "difference", "exclusion", "linear-dodge", "linear-burn", "vivid-light",
        "pin-light", "linear-light", "hard-mix", "subtract", "divide", "grain-extract", "grain-merge",
        "hue", "saturation", "color", "luminosity",
    ]  # fmt: skip

    class LayerItem(TypedDict):
        image: Any
        type: Literal["raster"]
        z_index: int
        x: NotRequired[int]
        y: NotRequired[int]
        w: NotRequired[int]
        h: NotRequired[int]
        mask: NotRequired[Any]
        name: NotRequired[str]
        opacity: NotRequired[float]
        blend_mode: NotRequired[str]
        visible: NotRequired[bool]
        flip_h: NotRequired[bool]
        flip_v: NotRequired[bool]
        rotation: NotRequired[float]

    class Document(TypedDict):
        version: int
        canvas: NotRequired[tuple[int, int]]
        layers: list[Any]

    Type = Document


@comfytype(io_type="VOXEL")
class Voxel(ComfyTypeIO):
    pass


@comfytype(io_type="MESH")
class Mesh(ComfyTypeIO):
    pass


@comfytype(io_type="SPLAT")
class Splat(ComfyTypeIO):
    """3D Gaussians."""


@comfytype(io_type="FILE_3D")
class File3DAny(ComfyTypeIO):
    """A 3D file of any format."""


@comfytype(io_type="FILE_3D_GLB")
class File3DGLB(ComfyTypeIO):
    """glTF in one binary file."""


@comfytype(io_type="FILE_3D_GLTF")
class File3DGLTF(ComfyTypeIO):
    """glTF as JSON that refers to other files."""


@comfytype(io_type="FILE_3D_FBX")
class File3DFBX(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_OBJ")
class File3DOBJ(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_STL")
class File3DSTL(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_USDZ")
class File3DUSDZ(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_PLY")
class File3DPLY(ComfyTypeIO):
    """A point cloud or 3D Gaussians."""


@comfytype(io_type="FILE_3D_SPLAT")
class File3DSPLAT(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_SPZ")
class File3DSPZ(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_KSPLAT")
class File3DKSPLAT(ComfyTypeIO):
    pass


@comfytype(io_type="FILE_3D_SPLAT_ANY")
class File3DSplatAny(ComfyTypeIO):
    """3D Gaussians in any of the formats for them."""


@comfytype(io_type="FILE_3D_POINT_CLOUD_ANY")
class File3DPointCloudAny(ComfyTypeIO):
    """A point cloud in any of the formats for one."""


@comfytype(io_type="LOAD3D_CAMERA")
class Load3DCamera(ComfyTypeIO):
    """Right-handed, Y up, looking down -Z; lengths in scene units."""

    class CameraInfo(TypedDict):
        position: dict[str, float | int]
        target: dict[str, float | int]
        zoom: float | int
        cameraType: str
        """`perspective` or `orthographic`."""
        quaternion: NotRequired[dict[str, float | int]]
        fov: NotRequired[float | int]
        """Vertical, in degrees; perspective only."""
        aspect: NotRequired[float | int]
        near: NotRequired[float | int]
        far: NotRequired[float | int]
        frustum: NotRequired[dict[str, float | int]]
        """`left`, `right`, `top`, `bottom`; orthographic only."""

    Type = CameraInfo


@comfytype(io_type="LOAD3D_MODEL_INFO")
class Load3DModelInfo(ComfyTypeIO):
    """Where each model of a scene stands: right-handed, Y up, world space."""

    class Model3DTransform(TypedDict):
        position: dict[str, float | int]
        quaternion: dict[str, float | int]
        scale: dict[str, float | int]

    Type = list[Model3DTransform]


@comfytype(io_type="LOAD_3D")
class Load3D(ComfyTypeIO):
    """What the 3D viewer gives: the files that it rendered, and how it looked at the scene."""

    class Model3DDict(TypedDict):
        image: str
        mask: str
        normal: str
        camera_info: dict[str, Any]
        recording: NotRequired[str]
        model_3d_info: NotRequired[list[Any]]

    Type = Model3DDict


@comfytype(io_type="LOAD_3D_ANIMATION")
class Load3DAnimation(Load3D):
    pass
