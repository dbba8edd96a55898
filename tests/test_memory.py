"""The memory keeps what it was given, reads only what is asked, and refuses strangers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rad3d.errors import MemoryFormatError, ResultError
from rad3d.memory import Memory, Provenance
from rad3d.patches import Patches, Window


def one(name, rows=2, seed=0, fingerprint="clip/448/l3"):
    rng = np.random.default_rng(seed)
    patches = Patches(
        descriptors=torch.from_numpy(rng.standard_normal((rows, 2, 4))).float(),
        features=torch.from_numpy(rng.standard_normal((rows, 2, 3, 5, 4))).float(),
        points_mm=rng.standard_normal((rows, 3, 5, 3)).astype(np.float32),
        normals=rng.standard_normal((rows, 3, 5, 3)).astype(np.float32),
        chroma=rng.random((rows, 3, 5, 2)).astype(np.float32),
        directions=rng.standard_normal((rows, 3)).astype(np.float32),
        windows=(Window(0, 0, 5, 3),) * rows,
        view_index=np.arange(rows),
    )
    origin = Provenance(name, "gear", f"{name}.ply", "00ff", "2026-01-01")
    names, pictures = [f"view_{i}" for i in range(rows)], [f"{name}{i}".encode() * i for i in range(rows)]
    return Memory.of(patches, origin, names, fingerprint, pictures)


def same(a, b):
    rows = np.arange(len(a))
    return (
        a.specimens == b.specimens
        and a.view_names == b.view_names
        and a.pictures == b.pictures
        and np.array_equal(a.specimen_index, b.specimen_index)
        and np.array_equal(a.points_mm, b.points_mm)
        and np.array_equal(a.normals, b.normals)
        and np.array_equal(a.chroma, b.chroma)
        and np.array_equal(a.directions, b.directions)
        and torch.equal(a.descriptors, b.descriptors)
        and torch.equal(a.features_of(rows), b.features_of(rows))
    )


def test_saved_and_loaded_is_the_same_and_reads_rows_in_the_order_asked(tmp_path):
    memory = Memory.merged([one("a", 2, 0), one("b", 3, 1)])
    memory.save(tmp_path / "m")
    loaded = Memory.load(tmp_path / "m", fingerprint="clip/448/l3")
    assert same(memory, loaded)
    assert not isinstance(loaded.features, torch.Tensor)
    assert torch.equal(loaded.features_of(np.array([4, 0])), memory.features[[4, 0]])
    assert loaded.features_of(np.array([1])).dtype == torch.float16


def test_remove_undoes_add(tmp_path):
    a, b, c = one("a", 2, 0), one("b", 3, 1), one("c", 1, 2)
    all_three = a.add(b).add(c)
    assert same(all_three.remove("b"), a.add(c))
    all_three.save(tmp_path / "m")
    from_disk = Memory.load(tmp_path / "m").remove("b")
    assert same(from_disk, a.add(c))
    from_disk.save(tmp_path / "m")  # over the file it was read from
    assert same(Memory.load(tmp_path / "m"), a.add(c))
    assert all_three.rows_of("b").tolist() == [False, False, True, True, True, False]


def test_the_same_specimen_twice_is_refused():
    with pytest.raises(MemoryFormatError, match="a"):
        one("a").add(one("a", seed=1))
    with pytest.raises(MemoryFormatError, match="nobody"):
        one("a").remove("nobody")


def test_another_encoder_is_refused(tmp_path):
    with pytest.raises(MemoryFormatError, match="dino"):
        one("a").add(one("b", fingerprint="dino/448/l3"))
    one("a").save(tmp_path / "m")
    with pytest.raises(MemoryFormatError, match="use that encoder, or fit again"):
        Memory.load(tmp_path / "m", fingerprint="dino/448/l3")


@pytest.mark.parametrize("damage", ["truncate", "missing", "version", "json", "another", "more views"])
def test_a_damaged_memory_is_named(tmp_path, damage):
    folder = one("a").save(tmp_path / "m")
    file, header = folder / "memory.safetensors", folder / "memory.json"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        file.unlink()
    elif damage == "version":
        header.write_text(json.dumps({**json.loads(header.read_text()), "format_version": 99}))
    elif damage == "another":
        header.write_text(json.dumps({**json.loads(header.read_text()), "fingerprint": "another/224x224"}))
    elif damage == "more views":
        one("b", rows=5).save(tmp_path / "other")
        file.write_bytes((tmp_path / "other" / "memory.safetensors").read_bytes())
    else:
        header.write_text("{")
    with pytest.raises(MemoryFormatError, match="fit again") as caught:
        Memory.load(folder)
    assert str(folder) in str(caught.value)


def test_a_full_disk_leaves_the_old_memory(tmp_path, full_disk):
    folder = one("a").save(tmp_path / "m")
    with full_disk(500), pytest.raises(ResultError, match="free disk space") as caught:
        one("b").save(folder)
    assert "too large" in caught.value.got
    assert caught.value.source == str(folder)
    assert same(Memory.load(folder), one("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_info_names_every_specimen():
    info = one("a").add(one("b", seed=1)).info()
    assert [s["specimen"] for s in info["specimens"]] == ["a", "b"]
    assert info["views"] == 4
    assert replace(one("a"), fingerprint="x").info()["fingerprint"] == "x"


def test_a_memory_without_pictures_is_read_and_joined(tmp_path):
    bare = replace(one("a", 2, 0), pictures=())
    folder = bare.save(tmp_path / "m")
    header = json.loads((folder / "memory.json").read_text())
    del header["picture_bytes"]  # as earlier versions wrote it
    (folder / "memory.json").write_text(json.dumps(header))
    assert Memory.load(folder).pictures == ()
    b = one("b", 3, 1)
    assert Memory.load(folder).add(b).pictures == (b"", b"", *b.pictures)
    assert bare.remove("a").pictures == ()
