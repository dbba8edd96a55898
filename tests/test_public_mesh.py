"""A mesh that others made and a package ships: the nut among PyVista's examples."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from rad3d import Inspector, Scan
from rad3d.downloads import UnreachableError, pip_download
from rad3d.io import read_scan
from rad3d.settings import EncoderSettings, Settings, ViewSettings

WHEEL = "pyvista==0.49.1"
NUT_SHA256 = "51df5ca42ddbac9123e59678d532557278b11dee915274c98ea8897acc604c0a"
SETTINGS = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))


@pytest.fixture(scope="module")
def nut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it is in the wheel."""
    scratch = tmp_path_factory.mktemp("pyvista")
    try:
        wheel = pip_download(WHEEL, scratch)
    except UnreachableError as error:
        pytest.skip(f"{WHEEL} cannot be had here: {error}")
    content = zipfile.ZipFile(wheel).read("pyvista/examples/nut.ply")
    assert hashlib.sha256(content).hexdigest() == NUT_SHA256
    file = scratch / "nut.ply"
    file.write_bytes(content)
    return file


def printed(scan: Scan, name: str, seed: int) -> Scan:
    """The nut with a finer mesh, as a process with a little smooth variation would make it."""
    mesh = trimesh.Trimesh(scan.vertices_mm, scan.faces, process=True)
    mesh = mesh.subdivide_to_size(1.0)
    rng = np.random.default_rng(seed)
    wave = sum(np.sin(mesh.vertices @ rng.normal(0, 0.1, 3) + rng.uniform(0, 6)) for _ in range(3))
    vertices = mesh.vertices + 0.02 * np.asarray(wave)[:, None] * mesh.vertex_normals
    return Scan(name, vertices_mm=vertices, faces=np.asarray(mesh.faces))


def test_the_nut_is_read_as_another_reader_reads_it(nut: Path) -> None:
    scan = read_scan(nut)
    loaded = trimesh.load(nut, process=False)
    np.testing.assert_array_equal(scan.vertices_mm, loaded.vertices)
    np.testing.assert_array_equal(scan.faces, loaded.faces)
    assert scan.surface.areas_mm2.sum() == pytest.approx(loaded.area, rel=1e-4)


def test_a_dent_in_the_nut_is_found_where_it_is(nut: Path) -> None:
    scan = read_scan(nut)
    inspector = Inspector.fit([printed(scan, f"good_{seed}", seed) for seed in (1, 2, 3)], SETTINGS, part="nut")
    plain = printed(scan, "dented", 4)
    mesh = trimesh.Trimesh(plain.vertices_mm, plain.faces, process=False)
    flat = mesh.triangles_center[np.argmax(mesh.triangles_center @ np.array([0.0, 1.0, 0.0]))]
    depth = np.exp(-(np.linalg.norm(plain.vertices_mm - flat, axis=1) ** 2) / (2 * 1.5**2))
    dented = replace(plain, vertices_mm=plain.vertices_mm - 0.8 * depth[:, None] * mesh.vertex_normals)

    result = inspector.inspect(dented)
    assert result.verdict == "fail"
    assert np.linalg.norm(np.array(result.defects[0].centroid_mm) - flat) < 2.0
    assert inspector.inspect(printed(scan, "good_5", 5)).score < result.score / 2
