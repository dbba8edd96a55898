"""Made specimens are what they say: closed, reproducible, labelled where they differ, captured as by a sensor."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trimesh
from PIL import Image as PilImage
from scipy.spatial import cKDTree

from rad3d.datasets import load_samples, machine_elements
from rad3d.datasets.machine_capture import IMAGING
from rad3d.datasets.machine_defects import base
from rad3d.datasets.machine_elements import DEMO_DEFECTS, KINDS, SPLIT, Capture, Specimen, make_capture, make_specimen
from rad3d.datasets.machine_mesh import distance_to_surface, mesh_of
from rad3d.datasets.machine_parts import BUILDERS, nominal
from rad3d.datasets.machine_specimen import LAYER_JITTER_MM, TOLERANCE_MM, VARIATION_MM
from rad3d.datasets.sample import Choice
from rad3d.errors import DatasetError
from rad3d.geometry import rotation_about, transform_points
from rad3d.ply import read_ply

PAIRS = [
    ("hole", "scratch"),
    ("cut", "mark"),
    ("crack", "bulge"),
    ("burr", "under_extrusion"),
    ("missing_feature", "warp"),
]


def test_split_has_every_part_once_and_the_demo_parts_are_dev() -> None:
    assert sorted(SPLIT["dev"] + SPLIT["test"]) == sorted(BUILDERS)
    assert {"spur_gear", "flange", "bracket"} <= set(SPLIT["dev"])
    assert len(SPLIT["test"]) >= 5


@pytest.fixture(scope="module", params=list(enumerate(PAIRS)), ids=["+".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> tuple[Specimen, Specimen]:
    """A specimen with two defects and its good twin."""
    number, kinds = request.param
    part = ("spur_gear", "flange", "bracket")[number % 3]
    return make_specimen(part, number, kinds, sizes_mm=(1.5, 10.0)), make_specimen(part, number)


def _exact_distance(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """To the nearest of all triangles that can be it, one point after the other."""
    triangles = vertices[faces]
    centres = triangles.mean(axis=1)
    reach = np.linalg.norm(triangles - centres[:, None], axis=2).max()
    tree, found = cKDTree(centres), []
    for point in points:
        near = triangles[tree.query_ball_point(point, tree.query(point)[0] + 2 * reach)]
        closest = trimesh.triangles.closest_point(near, np.broadcast_to(point, (len(near), 3)))
        found.append(np.linalg.norm(closest - point, axis=1).min())
    return np.array(found)


def test_mesh_is_closed_one_piece_and_finely_divided(pair: tuple[Specimen, Specimen]) -> None:
    for specimen in pair:
        mesh = trimesh.Trimesh(specimen.scan.vertices_mm, specimen.scan.faces, process=False)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0
        assert mesh.body_count == 1
        assert 20_000 < len(mesh.vertices) < 90_000
        edges = mesh.edges_unique_length
        assert 0.3 < np.median(edges) < 0.55
        assert edges.max() < 1.2  # a warp stretches what was at most 0.7


def test_labels_cover_exactly_what_differs_from_the_good_twin(pair: tuple[Specimen, Specimen]) -> None:
    made, good = pair
    assert not good.vertex_instance.any()
    assert good.instances == ()
    vertices, label = made.scan.vertices_mm, made.vertex_instance
    kinds = {instance.id: instance.kind for instance in made.instances}
    marks = [number for number, kind in kinds.items() if kind == "mark"]
    solid = (label > 0) & ~np.isin(label, marks)
    rng = np.random.default_rng(0)
    labelled = rng.permutation(np.flatnonzero(solid))[:80]
    near = np.zeros(len(vertices), bool)
    for instance in made.instances:
        near |= np.linalg.norm(vertices - instance.centroid_mm, axis=1) < instance.size_mm + 2
    unlabelled = np.concatenate(
        [rng.permutation(np.flatnonzero(near & ~solid))[:80], rng.permutation(np.flatnonzero(~solid))[:20]]
    )
    faces = good.scan.faces
    assert faces is not None
    if len(labelled):
        assert _exact_distance(vertices[labelled], good.scan.vertices_mm, faces).min() > TOLERANCE_MM
    # elsewhere the meshes differ only by where vertices sample the layers
    assert _exact_distance(vertices[unlabelled], good.scan.vertices_mm, faces).max() < TOLERANCE_MM + 1e-6


def test_every_instance_is_labelled_measured_and_in_range(pair: tuple[Specimen, Specimen]) -> None:
    made, _ = pair
    assert made.scan.faces is not None
    assert [instance.id for instance in made.instances] == [1, 2]
    assert set(np.unique(made.vertex_instance)) == {0, 1, 2}
    triangles = made.scan.vertices_mm[made.scan.faces]
    for instance in made.instances:
        mine = (made.vertex_instance[made.scan.faces] == instance.id).any(axis=1)
        assert instance.area_mm2 == pytest.approx(trimesh.triangles.area(triangles[mine]).sum())
        box = triangles[mine].reshape(-1, 3)
        assert (box.min(axis=0) <= instance.centroid_mm).all()
        assert (box.max(axis=0) >= instance.centroid_mm).all()
        assert 1.0 < instance.size_mm < 12.0
        assert np.array_equal(made.face_instance == instance.id, mine)


def test_mark_changes_colour_and_nothing_else() -> None:
    made, good = make_specimen("flange", 3, ["mark"]), make_specimen("flange", 3)
    assert made.scan.colours is not None
    assert good.scan.colours is not None
    assert good.scan.faces is not None
    plain = good.scan.colours.astype(int)
    assert np.ptp(plain, axis=0).max() < 20
    away = np.abs(made.scan.colours - np.median(plain, axis=0)).max(axis=1)
    assert away[made.vertex_instance > 0].min() > 12
    assert away[made.vertex_instance == 0].max() < 45
    seen = np.flatnonzero(made.vertex_instance)[:100]
    distance = _exact_distance(made.scan.vertices_mm[seen], good.scan.vertices_mm, good.scan.faces)
    assert distance.max() < 2 * LAYER_JITTER_MM


def test_grooves_are_as_narrow_and_deep_as_real_ones() -> None:
    for kind, deepest in (("scratch", 0.45), ("crack", 1.15)):
        made, good = make_specimen("bracket", 5, [kind]), make_specimen("bracket", 5)
        assert good.scan.faces is not None
        points = made.scan.vertices_mm[made.vertex_instance > 0]
        depth = distance_to_surface(points, good.scan.vertices_mm, good.scan.faces)
        assert 0.25 < depth.max() < deepest
        instance = made.instances[0]
        # walls and floor of a groove of length l: l * (width + 2 * depth), its ends aside
        assert instance.area_mm2 < (instance.size_mm + 1) * (0.55 + 2.4 * depth.max())


def test_demo_defects_have_demo_sizes_and_fit_on_one_specimen() -> None:
    instances = make_specimen("spur_gear", 40, DEMO_DEFECTS).instances
    assert tuple(instance.kind for instance in instances) == DEMO_DEFECTS
    assert all(1.0 < instance.size_mm < 7.5 for instance in instances)
    for one in instances:
        for other in instances[: one.id - 1]:
            assert np.linalg.norm(np.subtract(one.centroid_mm, other.centroid_mm)) > (one.size_mm + other.size_mm) / 4


@pytest.mark.parametrize("part", sorted(BUILDERS))
def test_symmetries_map_the_part_onto_itself_and_others_do_not(part: str) -> None:
    solid, symmetries = nominal(part).solid, nominal(part).symmetries
    vertices, faces, _ = mesh_of(solid)
    assert np.array_equal(symmetries[0], np.eye(4))
    # middles of walls: vertices and flat tops may slide along their own plane
    walls = np.flatnonzero(np.abs(trimesh.Trimesh(vertices, faces, process=False).face_normals[:, 2]) < 0.99)
    some = vertices[faces][np.random.default_rng(0).permutation(walls)[:30]].mean(axis=1)
    for pose in symmetries:
        assert _exact_distance(transform_points(pose, some), vertices, faces).max() < 1e-3
        assert (solid ^ solid.transform(pose[:3])).volume() == pytest.approx(solid.volume(), rel=1e-4)
    half_a_step = rotation_about(np.array([0.0, 0, 1]), np.pi / 60)
    assert _exact_distance(transform_points(half_a_step, some), vertices, faces).max() > 0.3
    for order in (2, 3, 4, 5, 6, 8, 10, 12, 20, 24):  # no rotation about the axis is forgotten
        turn = rotation_about(np.array([0.0, 0, 1]), 2 * np.pi / order)
        fits = (solid ^ solid.transform(turn[:3])).volume() > (1 - 1e-4) * solid.volume()
        assert fits == any(np.allclose(turn, pose, atol=1e-9) for pose in symmetries)


def test_good_specimens_vary_smoothly_and_little() -> None:
    on = base("flange")
    for seed in range(3):
        moved = make_specimen("flange", seed).scan.vertices_mm - on.vertices
        scale = 1e-3 * np.linalg.norm(on.vertices, axis=1).max()
        assert 0.02 < np.linalg.norm(moved, axis=1).max() < VARIATION_MM + LAYER_JITTER_MM + scale + 1e-3
    first, second = make_specimen("flange", 0), make_specimen("flange", 1)
    assert np.abs(first.scan.vertices_mm - second.scan.vertices_mm).max() > 0.02


def test_same_arguments_same_bytes_and_random_pose_is_only_a_pose() -> None:
    first, again = (make_specimen("bracket", 7, ["hole", "crack"]) for _ in range(2))
    assert first.scan.vertices_mm.tobytes() == again.scan.vertices_mm.tobytes()
    assert first.vertex_instance.tobytes() == again.vertex_instance.tobytes()
    assert first.instances == again.instances
    assert np.array_equal(first.part_from_scan, np.eye(4))
    posed = make_specimen("bracket", 7, ["hole", "crack"], random_pose=True)
    back = transform_points(posed.part_from_scan, posed.scan.vertices_mm)
    assert np.abs(back - first.scan.vertices_mm).max() < 1e-9
    assert np.abs(posed.scan.vertices_mm - first.scan.vertices_mm).max() > 1
    centre = transform_points(posed.part_from_scan, np.array([posed.instances[0].centroid_mm]))[0]
    assert centre == pytest.approx(first.instances[0].centroid_mm)
    assert np.array_equal(posed.vertex_instance, first.vertex_instance)


@pytest.mark.parametrize(("part", "defects"), [("teapot", ["hole"]), ("flange", ["rust"]), ("flange", ["hole"] * 12)])
def test_what_cannot_be_made_is_said(part: str, defects: list[machine_elements.DefectKind]) -> None:
    with pytest.raises(DatasetError, match="expected"):
        make_specimen(part, 0, defects, sizes_mm=(9.0, 9.2))


@pytest.fixture(scope="module")
def captured() -> tuple[Specimen, Capture]:
    """A defective specimen in a random pose, and its capture."""
    specimen = make_specimen("coupling", 1, ["hole", "mark"], sizes_mm=(4, 8), random_pose=True)
    return specimen, make_capture(specimen, 3)


def test_capture_has_the_sensors_shape_and_no_pose(captured: tuple[Specimen, Capture]) -> None:
    _, capture = captured
    assert len(capture.views) == IMAGING.views == 8
    for view, instance in zip(capture.views, capture.instances, strict=True):
        assert view.image.shape == (512, 640, 3)
        assert view.points_mm is not None
        assert view.points_mm.dtype == np.float32
        assert instance.shape == (512, 640)
        assert view.camera is None
        assert view.kind == "captured"
        assert 20 < view.image.mean() < 200
    shares = [np.ptp(np.flatnonzero(on.any(axis=1))) / 512 for on in capture.on_part]
    assert 0.3 < np.mean(shares) < 0.55


def test_organised_cloud_lies_on_part_and_table_at_the_true_pose(captured: tuple[Specimen, Capture]) -> None:
    specimen, capture = captured
    scan = specimen.scan.moved(specimen.part_from_scan)
    assert scan.faces is not None
    for view, on_part, camera in list(zip(capture.views, capture.on_part, capture.cameras, strict=True))[::3]:
        assert view.points_mm is not None
        points = transform_points(camera.part_from_camera, view.points_mm.astype(float))
        some = points[on_part & view.mask][::37]
        distance = distance_to_surface(some, scan.vertices_mm, scan.faces)
        assert 0.01 < np.median(distance) < IMAGING.depth_noise_mm
        assert np.quantile(distance, 0.99) < 5 * IMAGING.depth_noise_mm
        table = points[~on_part & view.mask][:, 2]
        assert abs(table.mean()) < 0.01
        assert 0.02 < table.std() < 2 * IMAGING.depth_noise_mm
        # pixel (x, y) sees its own point: rows are y, and the camera's axes are OpenCV's
        rows, columns = np.nonzero(view.mask)
        pixels, _ = camera.project(points[rows, columns])
        assert np.abs(pixels - np.stack([columns + 0.5, rows + 0.5], axis=1)).max() < 0.1


def test_depth_is_missing_where_a_sensor_loses_it(captured: tuple[Specimen, Capture]) -> None:
    _, capture = captured
    for view, on_part in zip(capture.views, capture.on_part, strict=True):
        assert 0.6 < view.mask[on_part].mean() < 0.97
        assert view.mask[~on_part].mean() > 0.9


def test_masks_are_the_labels_seen_at_the_true_poses(captured: tuple[Specimen, Capture]) -> None:
    specimen, capture = captured
    scan = specimen.scan.moved(specimen.part_from_scan)
    seen = 0
    for view, instance, camera in zip(capture.views, capture.instances, capture.cameras, strict=True):
        assert view.points_mm is not None
        known = view.mask & (instance > 0)
        points = transform_points(camera.part_from_camera, view.points_mm.astype(float))[known]
        for number in (1, 2):
            mine = scan.vertices_mm[specimen.vertex_instance == number]
            there = points[instance[known] == number]
            if len(there):
                gap = np.linalg.norm(there[:, None] - mine[None], axis=2).min(axis=1)
                assert np.quantile(gap, 0.98) < 0.5
                seen += 1
            pixels, _ = camera.project(mine)
            columns, rows = np.floor(pixels).astype(int).T
            if (instance == number).any():
                ys, xs = np.nonzero(instance == number)
                assert columns.min() - 2 <= xs.min()
                assert xs.max() <= columns.max() + 2
                assert rows.min() - 2 <= ys.min()
                assert ys.max() <= rows.max() + 2
    assert seen >= 6


def test_extreme_views_and_lights_are_other_ones(captured: tuple[Specimen, Capture]) -> None:
    specimen, usual = captured
    extreme = make_capture(specimen, 3, extreme=True)
    for camera in extreme.cameras:
        eye = camera.centre_mm - (0, 0, 11)
        for other in usual.cameras:
            there = other.centre_mm - (0, 0, 11)
            cosine = eye @ there / np.linalg.norm(eye) / np.linalg.norm(there)
            assert np.degrees(np.arccos(cosine)) > 24.5  # process variation moves the middle a little
    assert np.mean([v.image for v in usual.views]) != pytest.approx(np.mean([v.image for v in extreme.views]), rel=0.01)


def _write_tiny(root: Path) -> None:
    """A benchmark of one part with few specimens and views."""
    tiny, imaging = machine_elements.Plan(1, 1, (("hole", "mark"),), 0, 1, 0, 0), replace(IMAGING, views=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(machine_elements.PLANS, "small", tiny)
        patch.setattr(machine_elements, "IMAGING", imaging)
        patch.setattr("rad3d.datasets.machine_capture.IMAGING", imaging)
        machine_elements.write(root, "small", parts=["bracket"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny benchmark."""
    root = tmp_path_factory.mktemp("benchmark") / "machine_elements"
    _write_tiny(root)
    return root


def _digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_written_bytes_are_reproducible(written: Path, tmp_path: Path) -> None:
    _write_tiny(tmp_path / "again")
    assert _digests(tmp_path / "again") == _digests(written)


def test_a_defective_specimen_is_judged_on_all_its_views(written: Path) -> None:
    """Only those that show its defect would tell a method that there is one."""
    samples = {sample.specimen: sample for sample in load_samples("machine_elements", written, Choice())}
    holed = samples["bracket_002"]
    assert (holed.label, holed.split) == (1, "test")
    raw = written / "captures/raw/bracket_C002_Hole/Nano"
    assert [files.image.name for files in holed.views] == sorted(path.name for path in (raw / "images").iterdir())
    for files, labels in zip(holed.views, holed.load_view_labels(), strict=True):
        marked = (raw / "binary_masks" / files.image.name).exists()
        assert files.clean != marked
        assert labels is not None
        assert labels.mask.any() == marked
    assert {sample.split for sample in samples.values() if not sample.label} == {"train"}


def test_written_layouts_hold_the_same_views_and_no_truth(written: Path) -> None:
    raw = written / "captures/raw/bracket_C002_Hole/Nano"
    mvtec = written / "captures/mvtec/bracket/test/hole"
    assert len(list((raw / "images").iterdir())) == 2
    shown = [n for n in range(2) if (raw / f"binary_masks/bracket_C002_Hole_Nano_{n:03d}_image.png").exists()]
    assert shown  # of the two views, at least one shows a defect
    assert sorted(path.stem for path in (mvtec / "rgb").iterdir()) == [f"{4 + n:03d}" for n in shown]
    truth = json.loads((written / "truth/bracket.json").read_text())["specimens"]["bracket_002"]
    cameras = truth["captures"]["part_from_camera"]
    for number in shown:
        stem = f"bracket_C002_Hole_Nano_{number:03d}"
        cloud = read_ply(raw / f"xyz/{stem}_cloud.ply")
        xyz = tifffile.imread(mvtec / f"xyz/{4 + number:03d}.tiff")
        assert xyz.shape == (512, 640, 3)
        organised = cloud.vertices.reshape(512, 640, 3)
        missing = np.isnan(organised).any(axis=-1)
        assert missing.any()
        assert not xyz[missing].any()
        assert np.array_equal(xyz[~missing], organised[~missing].astype(np.float32))
        assert 250 < np.median(xyz[~missing][:, 2]) < 450
        height = transform_points(np.array(cameras[number]), organised[~missing].astype(float))[:, 2]
        assert -0.5 < height.min()
        union = np.asarray(PilImage.open(mvtec / f"ground_truth/{4 + number:03d}.png")) > 0
        parts = [np.asarray(PilImage.open(p)) > 0 for p in (raw / "defect_masks").glob(f"{stem}_image_*_defect_*.png")]
        assert np.array_equal(union, np.any(parts, axis=0))
    text = (written / "machine_elements.json").read_text()
    assert "part_from" not in text
    assert [path.name for path in written.rglob("*.json")] != []
    assert {path.parent.name for path in written.rglob("*.json")} == {"truth", written.name}


def test_written_meshes_and_clouds_carry_labels_and_poses(written: Path) -> None:
    truth = json.loads((written / "truth/bracket.json").read_text())["specimens"]
    assert np.allclose(truth["bracket_000"]["part_from_scan"], np.eye(4))
    assert not np.allclose(truth["bracket_001"]["part_from_scan"], np.eye(4))
    on = base("bracket")
    for name, folder in (("bracket_000", "train"), ("bracket_001", "test/good"), ("bracket_002", "test/hole")):
        pose = np.array(truth[name]["part_from_scan"])
        for track, spread in (("meshes", 0.2), ("clouds", 0.35)):
            ply = read_ply(written / track / "bracket" / folder / f"{name}.ply")
            assert ply.colours is not None
            placed = transform_points(pose, ply.vertices)
            assert np.median(distance_to_surface(placed[::50], on.vertices, on.faces)) < spread
            labels = written / track / "bracket/test/gt" / f"{name}.txt"
            if folder == "test/hole":
                values = np.loadtxt(labels, dtype=int)
                assert len(values) == len(ply.vertices)
                assert set(np.unique(values)) == {0, 1, 2}
            else:
                assert not labels.exists()
    mesh = trimesh.load(written / "meshes/bracket/nominal.stl")
    assert mesh.volume == pytest.approx(nominal("bracket").solid.volume(), rel=1e-4)


def test_kinds_fit_on_test_parts_too() -> None:
    assert set(KINDS) == {kind for pair in PAIRS for kind in pair}
    made = make_specimen("lever", 90, PAIRS[0], sizes_mm=(1.5, 10.0))
    assert {instance.kind for instance in made.instances} == set(PAIRS[0])


def test_unknown_size_or_part_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="small, full"):
        machine_elements.write(tmp_path / "x", "medium")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="teapot"):
        machine_elements.write(tmp_path / "x", parts=["teapot"])
    assert not (tmp_path / "x").exists()
