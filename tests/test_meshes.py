"""Mesh files: every vertex in file order, against files written by hand and by trimesh."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from rad3d.errors import ScanError
from rad3d.meshes import read_gltf, read_obj, read_off, read_stl

FACETS = np.arange(18, dtype=np.float32).reshape(2, 3, 3) * 1.5
FACETS[1, 0] = FACETS[0, 0]  # a shared corner stays two vertices


def stl_text() -> str:
    facets = "".join(
        "facet normal 0 0 1\n outer loop\n"
        + "".join(f"  vertex {x:.6e} {y} {z}\n" for x, y, z in facet)
        + " endloop\nendfacet\n"
        for facet in FACETS
    )
    return f"solid two facets\n{facets}endsolid two facets\n"


def stl_binary(header: bytes = b"made by hand") -> bytes:
    body = b"".join(struct.pack("<3f", 0, 0, 1) + facet.tobytes() + b"\0\0" for facet in FACETS)
    return header.ljust(80, b"\0") + struct.pack("<I", len(FACETS)) + body


@pytest.mark.parametrize(
    "data",
    [
        stl_text().encode(),
        stl_text().upper().encode(),
        stl_text().encode("utf-8-sig"),
        stl_text().replace("\n", "\r").encode(),
        stl_text().replace("\n", "\r\n").encode(),
        stl_binary(),
        stl_binary(b"solid confusingly"),
    ],
)
def test_stl_has_three_vertices_per_facet_in_file_order(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.stl").write_bytes(data)
    mesh = read_stl(tmp_path / "a.stl")
    np.testing.assert_array_equal(mesh.vertices, FACETS.reshape(-1, 3))
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("data", [stl_text().encode(), stl_binary(), stl_binary(b"solid confusingly")])
def test_truncated_stl(tmp_path: Path, data: bytes) -> None:
    for length in range(1, len(data) - 20, 9):
        (tmp_path / "a.stl").write_bytes(data[:length])
        with pytest.raises(ScanError, match=r"a\.stl"):
            read_stl(tmp_path / "a.stl")


def test_a_second_solid_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.stl").write_text(stl_text() * 2)
    assert len(read_stl(tmp_path / "a.stl").vertices) == 12
    (tmp_path / "a.stl").write_text(stl_text() + stl_text()[: stl_text().rindex("facet normal")])
    with pytest.raises(ScanError, match="truncated"):
        read_stl(tmp_path / "a.stl")


def test_off_with_normals(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    rows = ["0 0 0 0 0 1", "9 0 0 0 0 1", "0 9 0 0 0 1"]
    path.write_text("NOFF\n3 1 0\n" + "\n".join(rows) + "\n3 0 1 2\n")
    mesh = read_off(path)
    assert mesh.normals is not None
    assert mesh.normals.tolist() == [[0, 0, 1]] * 3
    assert mesh.colours is None
    path.write_text("CNOFF\n3 1 0\n" + "".join(f"{row} 255 9 0 255\n" for row in rows) + "3 0 1 2\n")
    mesh = read_off(path)
    assert mesh.vertices.tolist() == [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
    assert mesh.normals is not None
    assert mesh.colours is not None
    assert mesh.colours.tolist() == [[255, 9, 0]] * 3


def test_off_with_comments_polygons_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.off"
    path.write_text(
        "COFF # square\n\n4 2 0\n# corners\n0 0 0 255 0 0 255\n1 0 0 0 255 0 255\n1 1 0 0 0 255 255\n0 1 0 9 9 9 255\n"
        "4 0 1 2 3 0.5 0.5 0.5\n3 0 2 1\n"
    )
    mesh = read_off(path)
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]
    assert mesh.colours is not None
    assert mesh.colours.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    lines = path.read_text().splitlines()
    for bad in (
        [],
        ["x"],
        lines[:1],
        lines[:3],
        lines[:6],
        lines[:8],
        ["OFF", "two 2 2"],
        ["OFF 1 1 0", "0 0 0", "3 0 0 1"],
    ):
        path.write_text("\n".join(bad))
        with pytest.raises(ScanError, match=r"a\.off"):
            read_off(path)


OBJ = """# a square with a texture seam: vertex 2 has two texture coordinates
mtllib square.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 5 5 5
vt 0 0
vt 1 0
vt 1 1
vt 0.25 0.5
usemtl painted
f 1/1 2/2 3/3
usemtl plain
f -5/1/1 -3/4/1 \\
  4/2/1
"""


def test_obj_keeps_its_v_lines_across_seams_and_unused(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(OBJ)
    (tmp_path / "square.mtl").write_text("newmtl plain\nKd 1 0 0\nnewmtl painted\nmap_Kd paint.png\n")
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(picture).save(tmp_path / "paint.png")
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]]
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.texture is not None
    np.testing.assert_array_equal(mesh.texture.images[0], picture)
    assert mesh.texture.image_index.tolist() == [0, -1]
    assert mesh.texture.corner_uv.tolist() == [[[0, 0], [1, 0], [1, 1]], [[0, 0], [0.25, 0.5], [1, 0]]]


def test_obj_without_its_material_file_is_still_a_mesh(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(OBJ)
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.texture is None
    assert mesh.faces is not None


def test_obj_negative_indices_count_back_from_their_line(tmp_path: Path) -> None:
    block = "v {0} 0 0\nv {0} 1 0\nv {0} 0 1\nf -3 -2 -1\n"
    (tmp_path / "a.obj").write_text(block.format(1) + block.format(2))
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_obj_with_tabs_notes_and_windows_lines(tmp_path: Path) -> None:
    text = "\ufeffv\t0\t0\t0\nv\t9 0 0 # right\nv  0\t9 0\nf\t1 2 \\\n3 # the only one\n"
    (tmp_path / "a.obj").write_bytes(text.replace("\n", "\r\n").encode())
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.vertices.tolist() == [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_obj_colours_of_some_vertices_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0 1 0 0\nv 9 0 0\nv 0 9 0\nf 1 2 3\n")
    mesh = read_obj(tmp_path / "a.obj")
    assert mesh.vertices.tolist() == [[0, 0, 0], [9, 0, 0], [0, 9, 0]]
    assert mesh.colours is None
    assert "colours are left out" in caplog.text


def test_obj_vertex_colours_and_points(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text("v 0 0 0 1 0 0.2\nv 1 2 3 0 1 1\n")
    cloud = read_obj(tmp_path / "a.obj")
    assert cloud.faces is None
    assert cloud.colours is not None
    assert cloud.colours.tolist() == [[255, 0, 51], [0, 255, 255]]


@pytest.mark.parametrize(
    "text",
    ["v 0 0 0\nf 1 2 3\n", "v 0 0 0\nf 0 1 1\n", "v 0 0 zero\n", "v 0 0\n", "v 0 0 0\nf a b c\n", "v 0 0 0\nv 1\n"],
)
def test_damaged_obj(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(ScanError, match=r"a\.obj"):
        read_obj(tmp_path / "a.obj")


def gltf(tmp_path: Path) -> dict[str, object]:
    """Three nodes with one mesh; the scene names the roots in another order, and node 2 hangs under node 1."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]], "<f4")  # the last is unused
    indices = np.array([0, 1, 2], "<u2")
    blob = vertices.tobytes() + indices.tobytes()
    (tmp_path / "data.bin").write_bytes(blob)
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [3, 1, 0]}],
        "nodes": [
            {"mesh": 0, "translation": [10, 0, 0], "name": "same"},
            {"mesh": 0, "rotation": [0, 0, 0.7071067811865476, 0.7071067811865476], "children": [2], "name": "same"},
            {"mesh": 0, "translation": [0, 0, 5]},
            {"mesh": 0, "scale": [-2, 2, 2]},
            {"mesh": 0, "name": "not in the scene"},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 48},
            {"buffer": 0, "byteOffset": 48, "byteLength": 6},
        ],
        "buffers": [{"uri": "data.bin", "byteLength": len(blob)}],
    }


def test_gltf_nodes_in_file_order_with_their_transforms(tmp_path: Path) -> None:
    (tmp_path / "a.gltf").write_text(json.dumps(gltf(tmp_path)))
    mesh = read_gltf(tmp_path / "a.gltf")
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9.0]])
    turned = np.stack([-v[:, 1], v[:, 0], v[:, 2]], axis=1)  # 90 degrees about z
    wanted = np.concatenate([v + np.array([10, 0, 0]), turned, turned + np.array([0, 0, 5]), v * (-2, 2, 2)])
    np.testing.assert_allclose(mesh.vertices, wanted, atol=1e-6)
    assert mesh.faces is not None
    assert mesh.faces.tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10], [14, 13, 12]]  # the mirrored one turned round


@pytest.mark.parametrize("extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression"])
def test_compressed_gltf_is_told_and_not_read_as_zeros(tmp_path: Path, extension: str) -> None:
    (tmp_path / "a.gltf").write_text(json.dumps(gltf(tmp_path) | {"extensionsRequired": [extension]}))
    with pytest.raises(ScanError, match=f"{extension}: export it without"):
        read_gltf(tmp_path / "a.gltf")


def test_glb_is_the_same_and_notices_truncation(tmp_path: Path) -> None:
    header = gltf(tmp_path)
    blob = (tmp_path / "data.bin").read_bytes() + b"\0\0"
    header["buffers"] = [{"byteLength": 54}]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    data = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(blob), len(text), 0x4E4F534A) + text
    data += struct.pack("<I4s", len(blob), b"BIN\0") + blob
    (tmp_path / "a.glb").write_bytes(data)
    (tmp_path / "a.gltf").write_text(json.dumps(gltf(tmp_path)))
    np.testing.assert_array_equal(read_gltf(tmp_path / "a.glb").vertices, read_gltf(tmp_path / "a.gltf").vertices)
    for length in (3, 15, 40, len(text), len(data) - 3):
        (tmp_path / "a.glb").write_bytes(data[:length])
        with pytest.raises(ScanError, match=r"a\.glb"):
            read_gltf(tmp_path / "a.glb")


def test_glb_colours_and_textures_of_several_meshes(tmp_path: Path) -> None:
    plain, painted, coloured = (trimesh.creation.box((1, 2, 3)) for _ in range(3))
    colours = np.random.default_rng(0).integers(0, 256, (8, 4), dtype=np.uint8)
    colours[:, 3] = 255
    coloured.visual.vertex_colors = colours
    picture = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    uv = np.linspace(0, 1, 16).reshape(8, 2)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(picture))
    painted.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    scene = trimesh.Scene([plain, painted, coloured])
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    mesh = read_gltf(tmp_path / "a.glb")
    assert mesh.vertices.shape == (24, 3)
    assert mesh.colours is not None
    np.testing.assert_array_equal(mesh.colours[16:], colours[:, :3])
    assert (mesh.colours[:16] == 200).all()
    assert mesh.texture is not None
    assert mesh.texture.image_index.tolist() == [-1] * 12 + [0] * 12 + [-1] * 12
    np.testing.assert_array_equal(mesh.texture.images[0], picture)
    np.testing.assert_allclose(mesh.texture.corner_uv[12:24], uv[painted.faces], atol=1e-6)
