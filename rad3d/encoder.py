"""A frozen vision transformer: images in, tokens of several layers out, under a fingerprint.

Layers as RAD uses them (arXiv 2601.22763): blocks 3, 6, 9, 11 of twelve, counted from 0, each passed through the
final LayerNorm. Other depths take the blocks at the same relative depth: 7, 13, 19, 23 of twenty-four.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PillowImage
from torch.overrides import TorchFunctionMode

from rad3d.arrays import Image
from rad3d.errors import SettingsError, WeightsError
from rad3d.settings import EncoderSettings
from rad3d.weights import architecture_of, is_local, source_of, verified_weights

CACHED_TOKENS = 1_200_000
"""Numbers in the tokens of one pass on a processor: what a block makes of them stays in its cache, which measured up to
a quarter faster than more."""
GPU_BATCH = 16


@dataclass(frozen=True, eq=False)
class Features:
    """Tokens of b images at l layers, float32, on the CPU, not normalised.

    Args:
        cls: class tokens (b, l, c).
        patches: patch tokens (b, l, h, w, c), row by row as in the image.
    """

    cls: torch.Tensor
    patches: torch.Tensor


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """What MRAD reads from b images, float32, on the CPU.

    Args:
        image: (b, d) unit vectors of the space that CLIP shares with text.
        patches: (b, h, w, c) value-value tokens after the final LayerNorm, unprojected, not normalised.
    """

    image: torch.Tensor
    patches: torch.Tensor


class Encoder:
    """A frozen timm ViT at one input size. Made by `Encoder.load`.

    Attributes:
        settings: as asked, with layers and precision resolved; a memory of them may be used on another device.
        patch_size: pixels along the side of a patch.
        channels: length of a token.
        grid_hw: patches down and across.
        fingerprint: what features must share to be comparable.
    """

    settings: EncoderSettings
    patch_size: int
    channels: int
    grid_hw: tuple[int, int]
    fingerprint: str

    def __init__(self, model: Any, settings: EncoderSettings, weights_sha256: str) -> None:
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.channels = int(model.embed_dim)
        self.settings = _resolved(settings, len(model.blocks), self.patch_size)
        height, width = self.settings.input_hw
        self.grid_hw = (height // self.patch_size, width // self.patch_size)
        self.fingerprint = _fingerprint(self.settings, weights_sha256)
        self._device = _device(settings)
        self._model = model
        family = model.pretrained_cfg
        self._mean = torch.tensor(family["mean"], device=self._device).view(3, 1, 1)
        self._std = torch.tensor(family["std"], device=self._device).view(3, 1, 1)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it runs."""
        return "cuda" if self._device.type == "cuda" else "cpu"

    @staticmethod
    def load(settings: EncoderSettings | None = None) -> "Encoder":
        """The encoder with its real weights, fetched on first use.

        Raises:
            SettingsError: unknown name, a layer beyond the depth, an input size the patch does not divide.
            WeightsError: weights unreachable, damaged, or for another architecture.
        """
        settings = settings or EncoderSettings()
        architecture = _architecture(settings)
        # Before the weights are fetched: a wrong setting should not cost a download.
        precision = _resolved(settings, *_depth_and_patch(architecture)).precision
        path, digest = verified_weights(settings.name)
        return Encoder(_frozen(architecture, path, digest, _device(settings), precision), settings, digest)

    def encode(self, images: np.ndarray[Any, Any] | Sequence[Image]) -> Features:
        """Tokens of images that are already as large as `settings.input_hw` (see `resize`).

        Args:
            images: (b, h, w, 3) uint8, red green blue.

        Raises:
            SettingsError: images of another size or type.
        """
        layers, count = list(self.settings.layers), len(images)
        cls = torch.empty(count, len(layers), self.channels)
        patches = torch.empty(count, len(layers), *self.grid_hw, self.channels)
        start = 0
        for batch in self._batches(images):
            with torch.inference_mode(), self._autocast():
                tokens = self._model.forward_intermediates(
                    batch, indices=layers, return_prefix_tokens=True, norm=True, stop_early=True,
                    output_fmt="NLC", intermediates_only=True,
                )  # fmt: skip
            rows = slice(start, start + len(batch))
            for layer, (patch, prefix) in enumerate(tokens):
                cls[rows, layer] = prefix[:, 0].to(cls)
                patches[rows, layer] = patch.to(patches).unflatten(1, self.grid_hw)
            start = rows.stop
        return Features(cls, patches)

    def encode_clip(self, images: np.ndarray[Any, Any] | Sequence[Image]) -> ClipFeatures:
        """MRAD's features (ICLR 2026), of images as large as `settings.input_hw`; only CLIP encoders have them.

        From the second block on a second path only gathers value-value attention; both start from block 1's output.

        Raises:
            SettingsError: no CLIP encoder, or images of another size or type.
        """
        projection = self.projection
        image, patches = [], []
        for batch in self._batches(images):
            with torch.inference_mode(), self._autocast():
                ordinary, values = _two_paths(self._model, batch)
                patches.append(self._model.norm(values)[:, 1:].float().cpu())
            with torch.inference_mode():
                # MRAD projects the class token without the final LayerNorm.
                image.append(torch.nn.functional.normalize(ordinary[:, 0].float() @ projection.T, dim=-1).cpu())
        if not image:
            return ClipFeatures(torch.zeros(0, len(projection)), torch.zeros(0, *self.grid_hw, self.channels))
        tokens = torch.cat(patches)
        return ClipFeatures(torch.cat(image), tokens.reshape(len(tokens), *self.grid_hw, self.channels))

    @property
    def projection(self) -> torch.Tensor:
        """CLIP's visual projection (d, c), on the encoder's device.

        Raises:
            SettingsError: no CLIP encoder.
        """
        head = self._model.head
        if not isinstance(head, torch.nn.Linear) or not isinstance(self._model.norm_pre, torch.nn.LayerNorm):
            raise SettingsError(
                f"encoder {self.settings.name!r}",
                expected="a CLIP encoder (clip-b16-q8, clip-l336)",
                got="one without a visual projection",
                remedy="choose a CLIP encoder for MRAD",
            )
        return head.weight.detach()

    def _batches(self, images: np.ndarray[Any, Any] | Sequence[Image]) -> Iterator[torch.Tensor]:
        """Normalised (b, 3, h, w) on the device, as many at a time as the settings say."""
        shape = (*self.settings.input_hw, 3)
        tokens = self.grid_hw[0] * self.grid_hw[1] * self.channels
        size = self.settings.batch or (GPU_BATCH if self.device == "cuda" else max(1, round(CACHED_TOKENS / tokens)))
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            for image in chunk:
                if image.shape != shape or image.dtype != np.uint8:
                    raise SettingsError(
                        "image",
                        expected=f"uint8 of shape {shape}",
                        got=f"{image.dtype} of shape {image.shape}",
                        remedy="resize it to the encoder's input_hw (rad3d.encoder.resize)",
                    )
            pixels = torch.from_numpy(np.stack(list(chunk))).to(self._device).permute(0, 3, 1, 2)
            yield (pixels.float() / 255.0 - self._mean) / self._std

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.settings.precision == "bfloat16")


def _two_paths(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (b, 1 + n, c) after the last block: the ordinary ones, and those that gathered value-value attention."""
    attend = torch.nn.functional.scaled_dot_product_attention
    x = model.patch_embed(pixels)
    grid, (rows, columns) = x.shape[1:3], model.patch_embed.grid_size
    # Bilinear as in MRAD's code, where timm's own positions (`encode`) are bicubic.
    at_patches = model.pos_embed[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    at_patches = torch.nn.functional.interpolate(at_patches, size=grid, mode="bilinear", align_corners=False)
    positions = torch.cat([model.pos_embed[:, :1], at_patches.flatten(2).transpose(1, 2)], dim=1)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1) + positions
    ordinary = values = model.blocks[0](model.norm_pre(x))
    for block in model.blocks[1:]:
        attention = block.attn
        # (3, b, heads, n, c / heads)
        q, k, v = (
            attention.qkv(block.norm1(ordinary)).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )
        values = values + attention.proj(attend(v, v, v).transpose(1, 2).flatten(2))
        ordinary = ordinary + attention.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        ordinary = ordinary + block.mlp(block.norm2(ordinary))
    return ordinary, values


def resize(image: Image, size_hw: tuple[int, int]) -> Image:
    """The image at another size, bicubic with antialiasing; keeping the aspect is the caller's duty.

    >>> resize(np.zeros((600, 800, 3), np.uint8), (448, 336)).shape
    (448, 336, 3)
    """
    height, width = size_hw
    return np.asarray(PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BICUBIC))


def rad_input(image: Image, resize: int = 512, crop: int = 448) -> Image:
    """RAD's input: squashed to a square (torchvision's Resize: bilinear, antialiased), then its centre.

    >>> rad_input(np.zeros((600, 800, 3), np.uint8)).shape
    (448, 448, 3)
    """
    square = PillowImage.fromarray(image).resize((resize, resize), PillowImage.Resampling.BILINEAR)
    start = round((resize - crop) / 2)
    return np.asarray(square.crop((start, start, start + crop, start + crop)))


def has_fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 matrices natively; elsewhere it is slower than float32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return any(bool(able.get(unit)) for unit in ("amx_bf16", "avx512_bf16", "bf16"))


class _WithoutRandomNumbers(TorchFunctionMode):
    """Leaves parameters unfilled: every one is loaded anyway, and drawing 86 million numbers takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_}:
            return args[0]
        return func(*args, **(kwargs or {}))


@lru_cache(maxsize=2)
def _frozen(architecture: str, path: Path, digest: str, device: torch.device, precision: str) -> Any:
    """A ViT with the weights of that digest; several encoders may share it, since nothing changes it."""
    model = _vit(architecture)
    _load_strictly(model, path)
    if precision == "bfloat16":  # what autocast would do at every pass, with the same numbers
        for module in (model.patch_embed.proj, *model.blocks.modules()):
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.to(torch.bfloat16)
    return model.to(device).eval().requires_grad_(False)


def patch_size(settings: EncoderSettings) -> int:
    """Pixels along the side of an encoder's patch, without its weights.

    >>> patch_size(EncoderSettings("dinov2-s"))
    14
    """
    return _depth_and_patch(_architecture(settings))[1]


def _architecture(settings: EncoderSettings) -> str:
    local = is_local(settings.name)
    return architecture_of(Path(settings.name)) if local else source_of(settings.name).timm_name


@lru_cache
def _depth_and_patch(architecture: str) -> tuple[int, int]:
    """Blocks of an architecture, and pixels along its patch."""
    with torch.device("meta"):
        model = _vit(architecture)
    return len(model.blocks), int(model.patch_embed.patch_size[0])


def _vit(architecture: str) -> Any:
    """An empty timm ViT whose positions follow the size of the input."""
    import timm

    try:
        with _WithoutRandomNumbers():
            model = timm.create_model(architecture, pretrained=False, dynamic_img_size=True)
    except (RuntimeError, TypeError) as error:
        raise _no_vit(architecture) from error
    # Without class token or final norm there is no descriptor and nothing to pass the layers through.
    if getattr(model, "cls_token", None) is None or not isinstance(getattr(model, "norm", None), torch.nn.LayerNorm):
        raise _no_vit(architecture)
    return model


def _no_vit(architecture: str) -> SettingsError:
    return SettingsError(
        f"encoder {architecture!r}",
        expected="a vision transformer of timm with a class token and a final LayerNorm",
        got="another architecture",
        remedy="see `rad3d weights list`",
    )


def _load_strictly(model: Any, path: Path) -> None:
    """Weights into a model, every one of them: a missing one would stay random."""
    from safetensors.torch import load_file

    # Hub files may still carry their first authors' names; timm keeps the renaming beside each architecture.
    state = sys.modules[type(model).__module__].checkpoint_filter_fn(load_file(path), model)
    if "head.bias" in model.state_dict():
        state.setdefault("head.bias", torch.zeros_like(model.head.bias))  # CLIP's projection has none
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in shapes if name not in state]
    unexpected = [name for name, tensor in state.items() if tensor.shape != shapes.get(name)]
    if missing or unexpected:
        raise WeightsError(
            path,
            expected=f"exactly the weights of {model.pretrained_cfg['architecture']}",
            got=f"{len(missing)} missing {missing[:3]}, {len(unexpected)} unexpected or misshapen {unexpected[:3]}",
            remedy="give the checkpoint of that architecture, or correct its config.json",
        )
    model.load_state_dict(state)


def _resolved(settings: EncoderSettings, depth: int, patch_size: int) -> EncoderSettings:
    layers = tuple(settings.layers) or tuple((block + 1) * depth // 12 - 1 for block in (3, 6, 9, 11))
    if list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise SettingsError(
            "encoder.layers",
            expected=f"ascending blocks from 0 to {depth - 1}",
            got=f"{layers}",
            remedy="change the setting, or leave it empty for RAD's",
        )
    height, width = settings.input_hw
    if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        raise SettingsError(
            "encoder.input_hw",
            expected=f"multiples of the patch, {patch_size}",
            got=f"{settings.input_hw}",
            remedy=f"use {tuple(max(patch_size, round(side / patch_size) * patch_size) for side in (height, width))}",
        )
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(_device(settings).type) else "float32"
    return replace(settings, layers=layers, precision=precision)


def _device(settings: EncoderSettings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("encoder.device", expected="a CUDA device", got="none", remedy='use "auto" or "cpu"')
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def _fingerprint(settings: EncoderSettings, weights_sha256: str) -> str:
    """Readable in front, and a hash over everything that changes the numbers (not device or batch)."""
    name = Path(settings.name).name if settings.name.endswith(".safetensors") else settings.name
    size = "x".join(map(str, settings.input_hw))
    layers = ".".join(map(str, settings.layers))
    readable = f"{name}/{size}/l{layers}/{settings.precision}"
    return f"{readable}/{hashlib.sha256(f'{readable}/{weights_sha256}'.encode()).hexdigest()[:8]}"
