"""Loaders on small files written in each set's exact layout, traps included, and the linter that reports the traps."""

import builtins
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rad3d import cli
from rad3d.datasets import DATASETS, dataset_info, dataset_root, load_samples
from rad3d.datasets.check import TRAPS, check, corrupts, detect
from rad3d.datasets.sample import Choice, is_soft, read_mask, read_specimen_map
from rad3d.errors import DatasetError
from rad3d.ply import write_ply

H, W = 24, 32  # never square: swapped sizes must fail


def picture(path, size_hw=(H, W), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size_hw, 3), np.uint8)).save(path)


def mask(path, box=(5, 5, 9, 11), size_hw=(H, W), value=255):
    """A defect in rows box[0]:box[2], columns box[1]:box[3]; box None marks nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size_hw, np.uint8)
    if box is not None:
        pixels[box[0] : box[2], box[1] : box[3]] = value
    Image.fromarray(pixels).save(path)


def pixel_grid(size_hw=(H, W), depth_mm=300.0):
    """Positions (h, w, 3) of a tilted plane seen by a pinhole camera, in mm."""
    rows, columns = np.indices(size_hw) + 0.5
    z = depth_mm + 0.5 * rows
    focal = 1.2 * size_hw[1]
    return np.stack([(columns - size_hw[1] / 2) / focal * z, (rows - size_hw[0] / 2) / focal * z, z], -1).astype("f4")


def xyz(path, unit=0.001, missing=0.0, size_hw=(H, W), mm=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    points = (pixel_grid(size_hw) if mm is None else mm) * np.float32(unit)
    points[:3] = missing
    tifffile.imwrite(path, points, photometric="rgb")


def organised_ply(path, size_hw=(H, W), missing=np.nan, keep=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    points = pixel_grid(size_hw)
    points[:3] = missing
    write_ply(path, points.reshape(-1, 3)[:keep])


def mvtec_part(folder, gt="gt", unit=0.001, validation=True, with_xyz=True):
    """One part: 5 train, 2 validation, test/good 2, test/hole 2 (one mask with two regions)."""
    number = 0
    for group, count in (("train/good", 5), ("validation/good", 2), ("test/good", 2), ("test/hole", 2)):
        if group.startswith("validation") and not validation:
            continue
        for i in range(count):
            number += 1
            picture(folder / group / "rgb" / f"{i:03d}.png", seed=number)
            if with_xyz:
                xyz(folder / group / "xyz" / f"{i:03d}.tiff", unit)
            mask(folder / group / gt / f"{i:03d}.png", (2, 3, 6, 10) if "hole" in group else None)
    pixels = np.zeros((H, W), np.uint8)
    pixels[2:4, 3:5], pixels[15:20, 20:30] = 254, 253
    Image.fromarray(pixels).save(folder / "test/hole" / gt / "001.png")


def pcd(path, points):
    """PCD 0.7 as Real3D-AD has it: binary, x y z float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(points)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA binary\n"
    )
    path.write_bytes(header.encode() + np.asarray(points, "<f4").tobytes())


def blob(n=200, size=30.0, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)) * size


# --- where a set is


def test_every_name_has_a_loader_and_its_description():
    for name in DATASETS:
        info = dataset_info(name)
        assert info.name == name
        assert all((info.title, info.source, info.licence, info.size, info.layout))


def test_an_absent_set_says_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("RAD3D_DATA", raising=False)
    with pytest.raises(DatasetError, match=r"RAD3D_DATA.*mvtec\.com.*CC BY-NC-SA.*12 GB"):
        dataset_root("mvtec3d")
    with pytest.raises(DatasetError, match="no such folder"):
        dataset_root("adam3d", tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"one of adam3d.*folder"):
        dataset_root("imagenet")
    monkeypatch.setenv("RAD3D_DATA", str(tmp_path))
    (tmp_path / "real3d").mkdir()
    assert dataset_root("real3d") == tmp_path / "real3d"
    assert dataset_root("real3d", tmp_path) == tmp_path  # --root wins


# --- MVTec 3D-AD


def test_mvtec3d_lists_splits_labels_and_types(tmp_path):
    mvtec_part(tmp_path / "bagel")
    mvtec_part(tmp_path / "tire", validation=False)
    samples = load_samples("mvtec3d", tmp_path)
    of = [s for s in samples if s.part == "bagel"]
    assert [(s.split, s.label) for s in of] == (
        [("train", 0)] * 5 + [("validation", 0)] * 2 + [("test", 0)] * 2 + [("test", 1)] * 2
    )
    assert len(samples) == 11 + 9
    assert {s.defect_type for s in of} == {"good", "hole"}
    assert len({s.specimen for s in of}) == len(of)
    assert {s.part for s in load_samples("mvtec3d", tmp_path, Choice(parts=("tire",)))} == {"tire"}
    assert {s.part for s in load_samples("mvtec3d", tmp_path / "tire")} == {"tire"}  # root = one category
    with pytest.raises(DatasetError, match=r"parts potato.*bagel, tire"):
        load_samples("mvtec3d", tmp_path, Choice(parts=("potato",)))
    with pytest.raises(DatasetError, match="train/"):
        load_samples("mvtec3d", tmp_path / "bagel" / "test")


def test_mvtec3d_metres_become_millimetres_and_zero_is_missing(tmp_path):
    mvtec_part(tmp_path / "bagel")
    (view,) = load_samples("mvtec3d", tmp_path)[0].load_scan().views
    assert view.points_mm.shape == (H, W, 3)
    assert not view.mask[:3].any()
    assert view.mask[3:].all()
    np.testing.assert_allclose(view.points_mm[3:], pixel_grid()[3:], rtol=1e-5)
    assert view.camera.intrinsics[0, 0] == pytest.approx(1.2 * W, rel=0.01)


def test_mvtec3d_masks_have_regions_and_good_ones_are_empty(tmp_path):
    mvtec_part(tmp_path / "bagel")
    samples = {s.specimen: s for s in load_samples("mvtec3d", tmp_path)}
    (labels,) = samples["test_hole_001"].load_view_labels()
    assert labels.instance.shape == (H, W)
    assert labels.types == {1: "hole", 2: "hole"}
    assert [(labels.instance == i).sum() for i in (1, 2)] == [4, 50]
    (good,) = samples["test_good_000"].load_view_labels()
    assert good.instance.shape == (H, W)
    assert not good.mask.any()


def test_mvtec3d_goes_on_without_xyz(tmp_path, caplog):
    mvtec_part(tmp_path / "tire", with_xyz=False)
    samples = load_samples("mvtec3d", tmp_path)
    assert "11 of 11 images have no xyz" in caplog.text
    assert samples[0].load_scan().views[0].points_mm is None


def test_the_tire_subset():
    root = os.environ.get("RAD3D_TEST_TIRE")
    if not root:
        pytest.skip("RAD3D_TEST_TIRE is not set")
    samples = load_samples("mvtec3d", root)
    count = Counter((sample.split, sample.defect_type) for sample in samples)
    of_test = {"good": 6, "cut": 6, "hole": 6, "contamination": 6, "combined": 2}
    assert count == {("train", "good"): 32, **{("test", kind): n for kind, n in of_test.items()}}
    combined = next(s for s in samples if s.defect_type == "combined")
    (labels,) = combined.load_view_labels()
    assert labels.mask.shape == combined.load_scan().views[0].image.shape[:2] == (800, 600)
    assert labels.mask.any()
    assert not corrupts(check(root))


# --- 3D-ADAM in MVTec layout


@pytest.fixture
def adam(tmp_path):
    number = 0
    for part, letter in (("spurgear", "_A"), ("1m1", "")):
        folder = tmp_path / part
        for group, count in (("train/good", 10), ("validation/good", 3), ("test/crack", 3)):
            for i in range(count):
                stem, number = f"{i:03d}{letter}", number + 1
                picture(folder / group / "rgb" / f"{stem}.png", seed=number)
                xyz(folder / group / "xyz" / f"{stem}.tiff", unit=1.0)
                mask(folder / group / "ground_truth" / f"{stem}.png", None if "good" in group else (3, 4, 8, 9))
    return tmp_path


def test_adam_rad_takes_validation_as_test_good(adam):
    samples = [s for s in load_samples("adam3d", adam) if s.part == "spurgear"]
    assert [(s.split, s.label) for s in samples] == [("train", 0)] * 10 + [("test", 0)] * 3 + [("test", 1)] * 3
    assert samples[0].views[0].name == "000_A"


def test_adam_anomalib_moves_a_fifth_of_train(adam):
    choice = Choice(protocol="anomalib")
    samples = [s for s in load_samples("adam3d", adam, choice) if s.part == "1m1"]
    count = {key: sum((s.split, s.label) == key for s in samples) for key in {(s.split, s.label) for s in samples}}
    assert count == {("train", 0): 8, ("test", 0): 2, ("validation", 0): 3, ("test", 1): 3}
    assert load_samples("adam3d", adam, choice) == load_samples("adam3d", adam, choice)


def test_adam_specimen_needs_a_map_and_keeps_pieces_together(adam, tmp_path_factory):
    with pytest.raises(DatasetError, match="--specimens"):
        load_samples("adam3d", adam, Choice(protocol="specimen"))
    file = tmp_path_factory.mktemp("map") / "map.csv"
    rows = ["file,specimen"]
    for s in load_samples("adam3d", adam):
        piece = f"{s.defect_type}{int(s.views[0].name[:3]) % 3}"  # good pieces have views in train and in validation
        rows.append(f"{s.views[0].image.relative_to(adam).as_posix()},{piece}")
    file.write_text("\n".join(rows))
    samples = load_samples("adam3d", adam, Choice(protocol="specimen", specimens=file))
    of = {s.specimen: s for s in samples if s.part == "spurgear"}
    assert {name: s.split for name, s in of.items()} == {
        "good0": "train", "good1": "train", "good2": "test", "crack0": "test", "crack1": "test", "crack2": "test",
    }  # fmt: skip
    assert [len(of[f"good{i}"].views) for i in range(3)] == [5, 4, 4]
    assert all(len({v.name for v in s.views}) == len(s.views) for s in samples)
    one = load_samples("adam3d", adam / "1m1", Choice(protocol="specimen", specimens=file))  # root = one category
    assert len(one) == 6
    file.write_text("\n".join(rows[:-1]))
    with pytest.raises(DatasetError, match=r"test/crack/rgb"):
        load_samples("adam3d", adam, Choice(protocol="specimen", specimens=file))


def test_a_specimen_map_of_another_form_is_refused(tmp_path):
    (tmp_path / "map.csv").write_text("a,b,c\n")
    with pytest.raises(DatasetError, match="file,specimen"):
        read_specimen_map(tmp_path / "map.csv")


def test_adam_tiffs_that_are_no_xyz_leave_the_image(adam, caplog):
    depth = np.repeat(np.linspace(0, 1, H * W, dtype="f4").reshape(H, W, 1), 3, axis=2)
    tifffile.imwrite(adam / "1m1/train/good/xyz/000.tiff", depth, photometric="rgb")
    sample = load_samples("adam3d", adam, Choice(parts=("1m1",)))[0]
    assert sample.load_scan().views[0].points_mm is None
    assert "identical channels" in caplog.text


# --- 3D-ADAM raw


def adam_specimen(root, folder, sensor="MechMind-Nano", tag="Nano", views=2, types=("hole",), missing=np.nan, seed=0):
    where = root / folder / sensor
    for i in range(views):
        stem = f"{folder}_{tag}_{i:03d}"
        picture(where / "images" / f"{stem}_image.png", seed=seed * 100 + i)
        organised_ply(where / "xyz" / f"{stem}_cloud.ply", missing=missing)
        if not folder.endswith("Good"):
            for n, kind in enumerate(types):
                mask(where / "defect_masks" / f"{stem}_image_{kind}_defect_{n + 3}.png", (4 + 9 * n, 4, 8 + 9 * n, 9))
            mask(where / "binary_masks" / f"{stem}_image.png", (4, 4, 8, 9))


@pytest.fixture
def raw(tmp_path):
    for i, name in enumerate(("1M2_A_Good", "1M2_B_Good", "1M2_C1_Good", "1M2_D_Hole", "1M2_E_Over_Extrusion")):
        adam_specimen(tmp_path, name, types=("hole", "over_extrusion") if "Hole" in name else ("bulge",), seed=i)
    return tmp_path


def test_raw_one_folder_is_one_specimen_split_by_specimen(raw):
    samples = load_samples("adam3d", raw)
    assert [(s.specimen, s.part, s.split, s.label, s.defect_type) for s in samples] == [
        ("1M2_A_Good", "1M2", "train", 0, "good"),
        ("1M2_B_Good", "1M2", "train", 0, "good"),
        ("1M2_C1_Good", "1M2", "test", 0, "good"),
        ("1M2_D_Hole", "1M2", "test", 1, "hole"),
        ("1M2_E_Over_Extrusion", "1M2", "test", 1, "over_extrusion"),
    ]
    scan = samples[0].load_scan()
    assert scan.specimen == "1M2_A_Good"
    assert [v.name for v in scan.views] == [v.name for v in samples[0].views]
    np.testing.assert_allclose(scan.views[1].points_mm[3:], pixel_grid()[3:], rtol=1e-5)
    assert not scan.views[0].mask[:3].any()


def test_raw_types_and_instances_come_from_mask_names(raw):
    """By folder name every defect of 1M2_D_Hole would be a hole, and of 1M2_E one of over-extrusion."""
    samples = {s.specimen: s for s in load_samples("adam3d", raw)}
    labels = samples["1M2_D_Hole"].load_view_labels()
    assert len(labels) == 2
    assert sorted(labels[0].types.values()) == ["hole", "over_extrusion"]
    by_type = {kind: (labels[0].instance == i).sum() for i, kind in labels[0].types.items()}
    assert by_type == {"hole": 20, "over_extrusion": 20}
    assert list(samples["1M2_E_Over_Extrusion"].load_view_labels()[0].types.values()) == ["bulge"]
    assert not samples["1M2_C1_Good"].load_view_labels()[1].mask.any()


def test_raw_irregular_names_are_paired_by_number(raw):
    where = raw / "1M2_C1_Good" / "MechMind-Nano"
    picture(where / "images" / "1M2_C1_Good_Nano_Good_Nano_010_image.png")
    organised_ply(where / "xyz" / "1M2_C1_Good_Nano_010_cloud.ply")
    sample = next(s for s in load_samples("adam3d", raw) if s.specimen == "1M2_C1_Good")
    odd = next(v for v in sample.views if "010" in v.name)
    assert odd.cloud.name == "1M2_C1_Good_Nano_010_cloud.ply"
    assert {v.name: v.points_mm is not None for v in sample.load_scan().views}[odd.name]


def test_raw_unlabelled_defective_views_are_not_called_good(raw):
    for path in (raw / "1M2_D_Hole").rglob("*_000_image*.png"):
        if path.parent.name != "images":
            path.unlink()
    sample = next(s for s in load_samples("adam3d", raw) if s.specimen == "1M2_D_Hole")
    labels = sample.load_view_labels()
    assert labels[0] is None
    assert labels[1].mask.any()


def test_raw_sensors(raw):
    adam_specimen(raw, "1M2_A_Good", "Zed", "Zed", seed=90)
    adam_specimen(raw, "1M2_B_Good", "Zed", "Zed", seed=91)
    adam_specimen(raw, "1M2_A_Good", "RealSense", "RS", seed=92)
    organised_ply(raw / "1M2_A_Good/Zed/xyz/1M2_A_Good_Zed_000_cloud.ply", keep=500)  # not organised
    assert len(load_samples("adam3d", raw)) == 5  # Nano unless asked otherwise
    zed = load_samples("adam3d", raw, Choice(sensor="zed"))
    assert [s.specimen for s in zed] == ["1M2_A_Good", "1M2_B_Good"]
    assert [v.points_mm is None for v in zed[0].load_scan().views] == [True, False]
    with pytest.raises(DatasetError, match=r"LSRL.*MechMind-Nano, RealSense, Zed"):
        load_samples("adam3d", raw, Choice(sensor="LSRL"))
    (alone,) = load_samples("adam3d", raw, Choice(sensor="RealSense"))
    assert alone.split == "train"  # a single good specimen trains; nothing good is left to test
    for specimen, seed in (("1M2_A_Good", 93), ("1M2_D_Hole", 94)):
        adam_specimen(raw, specimen, "MechMind-LSRL", "LSRL", seed=seed)
    lsrl = load_samples("adam3d", raw, Choice(sensor="LSRL"))
    assert [(s.specimen, s.label) for s in lsrl] == [("1M2_A_Good", 0), ("1M2_D_Hole", 1)]
    assert all("MechMind-LSRL" in str(view.image) for s in lsrl for view in s.views)
    assert lsrl[1].load_view_labels()[0].mask.any()


def test_raw_part_without_good_specimens_is_left_out(raw, caplog):
    adam_specimen(raw, "9X9_A_Crack")
    assert {s.part for s in load_samples("adam3d", raw)} == {"1M2"}
    assert "9X9" in caplog.text
    with pytest.raises(DatasetError, match="good specimens"):
        load_samples("adam3d", raw, Choice(parts=("9X9",)))


def test_sets_are_listed_and_described_from_the_command_line(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["datasets", "list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(DATASETS)
    assert all("(" in line for line in listed), "licence and size"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["datasets", "info", "mvtec3d"])
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(said) == ["title", "layout", "source", "licence", "size"]
    assert "mvtec.com" in said["source"]
    assert "CC BY-NC-SA" in said["licence"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["datasets", "info", "mvtec"])
    assert "mvtec3d" in capsys.readouterr().err


# --- clouds


@pytest.fixture
def real3d(tmp_path):
    part = tmp_path / "airplane"
    for name in ("1_prototype", "2_template"):
        pcd(part / "train" / f"{name}.pcd", blob(seed=len(name)))
    pcd(part / "test" / "10_good.pcd", blob(150, seed=2))
    points = blob(100, seed=3).astype("f4")
    pcd(part / "test" / "11_sink_cut.pcd", points)
    pcd(part / "test" / "1_prototype_temp.pcd", points)  # the authors' preprocessing leaves such files
    order = np.random.default_rng(0).permutation(100)[:80]  # another order, and not all of them
    rows = np.column_stack([points[order], np.arange(80) < 7])
    (part / "gt").mkdir()
    np.savetxt(part / "gt" / "11_sink_cut.txt", rows)
    return tmp_path


def test_real3d_scores_the_points_of_its_labels(real3d):
    samples = load_samples("real3d", real3d)
    assert [(s.specimen, s.split, s.label, s.defect_type) for s in samples] == [
        ("1_prototype", "train", 0, "good"),
        ("2_template", "train", 0, "good"),
        ("10_good", "test", 0, "good"),
        ("11_sink_cut", "test", 1, "sink"),
    ]
    scan, labels = samples[3].load_scan(), samples[3].load_point_labels()
    table = np.loadtxt(real3d / "airplane/gt/11_sink_cut.txt")
    np.testing.assert_allclose(scan.vertices_mm, table[:, :3])
    np.testing.assert_array_equal(labels.points_mm, scan.vertices_mm)
    assert (labels.instance > 0).sum() == 7
    assert len(samples[2].load_point_labels().instance) == 150


def test_labels_that_say_no_more_than_defective_are_told_apart_by_place(real3d):
    """Two patches 6 mm apart on a scan with points every millimetre: PRO counts each as a region of its own."""
    table = np.loadtxt(real3d / "airplane/gt/11_sink_cut.txt")
    x, y = np.meshgrid(np.arange(10.0), np.arange(8.0))
    table[:, :3] = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    table[:, 3] = ((x < 3) | (x > 7)).ravel() & (y < 4).ravel()
    np.savetxt(real3d / "airplane/gt/11_sink_cut.txt", table)
    instance = load_samples("real3d", real3d)[3].load_point_labels().instance
    assert sorted(np.bincount(instance)[1:]) == [8, 12]


def test_real3d_lists_a_defective_scan_whose_labels_are_missing(real3d):
    (real3d / "airplane/gt/11_sink_cut.txt").unlink()
    sample = load_samples("real3d", real3d)[3]
    assert sample.label == 1
    assert sample.load_point_labels() is None
    assert len(sample.load_scan().vertices_mm) == 100


def test_shapenet_anomaly_commas_positives_and_scale(tmp_path):
    part = tmp_path / "dataset" / "pcd" / "cap3"
    shape = blob(60, size=0.3, seed=1)
    pcd(part / "train" / "cap3_template0.pcd", shape)
    pcd(part / "test" / "cap3_positive0.pcd", shape)
    pcd(part / "test" / "cap3_bulge10.pcd", shape)
    (part / "GT").mkdir()
    np.savetxt(part / "GT" / "cap3_bulge10.txt", np.column_stack([shape, np.arange(60) < 5]), delimiter=",")
    samples = load_samples("shapenet_anomaly", tmp_path)
    assert [(s.specimen, s.label, s.defect_type) for s in samples] == [
        ("cap3_template0", 0, "good"),
        ("cap3_bulge10", 1, "bulge"),
        ("cap3_positive0", 0, "good"),
    ]
    np.testing.assert_allclose(samples[1].load_scan().vertices_mm, shape * 100, rtol=1e-5)
    np.testing.assert_allclose(samples[0].load_scan().vertices_mm, shape * 100, rtol=1e-5)
    assert (samples[1].load_point_labels().instance > 0).sum() == 5


# --- a folder of one's own


def cloud_file(path, seed=0, n=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ply(path, blob(n, seed=seed))


def test_folder_of_files_without_a_manifest(tmp_path):
    for i in range(3):
        cloud_file(tmp_path / "good" / f"{i}.ply", i)
    cloud_file(tmp_path / "test" / "good" / "0.ply", 7)  # the same stem as in good/
    cloud_file(tmp_path / "test" / "dent" / "a.ply", 8)
    np.savetxt(tmp_path / "test" / "dent" / "a.txt", (np.arange(50) < 4) * 2, fmt="%d")
    cloud_file(tmp_path / "test" / "dent" / "b.ply", 9)
    cloud_file(tmp_path / "nominal.ply", 1)
    samples = load_samples("folder", tmp_path)
    assert [(s.specimen, s.split, s.label, s.defect_type) for s in samples] == [
        ("good__0", "train", 0, "good"),
        ("1", "train", 0, "good"),
        ("2", "train", 0, "good"),
        ("a", "test", 1, "dent"),
        ("b", "test", 1, "dent"),
        ("test__good__0", "test", 0, "good"),
    ]
    assert {s.nominal for s in samples} == {tmp_path / "nominal.ply"}
    a, b, good = samples[3:]
    assert a.load_point_labels().instance.sum() == 8
    assert a.load_scan().specimen == "a"
    assert b.load_point_labels() is None
    assert not good.load_point_labels().instance.any()


def test_folder_flat_test_scans_are_told_apart_by_labels(tmp_path):
    cloud_file(tmp_path / "train" / "0.ply")
    for i, name in enumerate(("a", "b", "c")):
        cloud_file(tmp_path / "test" / f"{name}.ply", 5 + i)
    with pytest.raises(DatasetError, match=r"test/good.*test/<defect>"):
        load_samples("folder", tmp_path)
    np.save(tmp_path / "test" / "b.npy", np.arange(50) % 2)
    (tmp_path / "test" / "labels").mkdir()
    np.savetxt(
        tmp_path / "test" / "labels" / "c.csv", np.column_stack([blob(50, seed=7)[::-1], np.ones(50)]), delimiter=","
    )
    samples = {s.specimen: s for s in load_samples("folder", tmp_path)}
    assert {name: s.label for name, s in samples.items()} == {"0": 0, "a": 0, "b": 1, "c": 1}
    assert samples["b"].load_point_labels().instance.sum() == 25
    assert samples["c"].load_point_labels().instance.all()  # rows x y z label, in another order


def test_folder_labels_of_another_length_are_refused(tmp_path):
    cloud_file(tmp_path / "train" / "0.ply")
    cloud_file(tmp_path / "test" / "dent" / "a.ply")
    np.savetxt(tmp_path / "test" / "dent" / "a.txt", np.ones(49))
    sample = load_samples("folder", tmp_path)[1]
    with pytest.raises(DatasetError, match=r"a\.txt.*each of 50 vertices.*49"):
        sample.load_point_labels()


def test_folder_of_captured_specimens_in_several_parts(tmp_path):
    for part in ("gear", "rack"):
        for name in ("train/p1", "train/p2", "test/good/p3", "test/scratch/p4"):
            for i in range(2):
                picture(tmp_path / part / name / "images" / f"v{i}.png", seed=len(name) + i)
                organised_ply(tmp_path / part / name / "xyz" / f"v{i}.ply")
        mask(tmp_path / part / "test/scratch/p4/masks/v0_1.png", (1, 1, 4, 4))
        mask(tmp_path / part / "test/scratch/p4/masks/v0_2.png", (10, 10, 14, 14))
    samples = load_samples("folder", tmp_path)
    assert [(s.part, s.specimen, s.split, s.label) for s in samples[:4]] == [
        ("gear", "p1", "train", 0), ("gear", "p2", "train", 0), ("gear", "p3", "test", 0), ("gear", "p4", "test", 1),
    ]  # fmt: skip
    assert len(samples) == 8
    labels = samples[3].load_view_labels()
    assert labels[0].instance.max() == 2
    assert labels[1] is None
    assert [v.name for v in samples[3].load_scan().views] == ["v0", "v1"]


def test_folder_without_good_scans_says_so(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="good scans"):
        load_samples("folder", tmp_path)
    with pytest.raises(DatasetError, match=r"train/ or good/"):
        load_samples("folder", tmp_path / "train")


# --- laziness


def test_listing_14000_views_takes_seconds_and_reads_no_image(tmp_path, monkeypatch):
    import time

    for s in range(440):
        folder = tmp_path / f"1M{s % 20}_{'ABCD'[s % 4]}{s}_{'Good' if s < 220 else 'Hole'}" / "MechMind-Nano"
        for kind, suffix in (("images", "image.png"), ("xyz", "cloud.ply")):
            (folder / kind).mkdir(parents=True)
            for i in range(32):
                (folder / kind / f"{folder.parent.name}_Nano_{i:03d}_{suffix}").touch()
    real_open = builtins.open

    def no_open(file, *args, **kwargs):
        assert not str(file).endswith((".png", ".ply")), file
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", no_open)
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: pytest.fail(f"opened {self}"))
    start = time.perf_counter()
    samples = load_samples("adam3d", tmp_path)
    assert time.perf_counter() - start < 10
    assert sum(len(s.views) for s in samples) == 14080
    assert all(v.cloud is not None for s in samples for v in s.views)


def test_reading_a_set_on_a_read_only_disk(tmp_path):
    mvtec_part(tmp_path / "bagel")
    before = sorted(tmp_path.rglob("*"))
    for folder in [p for p in before if p.is_dir()]:
        folder.chmod(0o555)
    try:
        for sample in load_samples("mvtec3d", tmp_path):
            sample.load_scan()
            sample.load_view_labels()
        check(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        for folder in [p for p in before if p.is_dir()]:
            folder.chmod(0o755)


# --- masks


def test_soft_masks_are_cut_at_half(tmp_path):
    ramp = np.tile(np.arange(0, 256, 8, np.uint8), (4, 1))
    Image.fromarray(ramp).save(tmp_path / "soft.png")
    assert is_soft(ramp)
    np.testing.assert_array_equal(read_mask(tmp_path / "soft.png"), (ramp > 127).astype(int))
    hard = np.array([[0, 1, 253], [254, 255, 0]], np.uint8)  # values that tell types
    Image.fromarray(hard).save(tmp_path / "hard.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "hard.png"), hard)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_any_image_mode(tmp_path, mode):
    marked = np.zeros((4, 6), bool)
    marked[1:3, 2:5] = True
    if mode == "I;16":
        image = Image.fromarray((marked * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((marked * 255).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png") > 0, marked)


# --- the linter: a clean set has no corrupting finding, and each planted trap is found where it was planted


def traps(root, **options):
    return {finding.trap: finding.files for finding in check(root, **options)}


def test_check_is_silent_on_clean_sets(tmp_path):
    mvtec_part(tmp_path / "mvtec" / "bagel")
    assert check(tmp_path / "mvtec") == []
    for i, name in enumerate(("1M2_A_Good", "1M2_B_Good", "1M2_C1_Good", "1M2_D_Hole")):
        adam_specimen(tmp_path / "raw", name, seed=i)
    assert check(tmp_path / "raw") == []


def test_check_finds_out_what_it_is_given(tmp_path, real3d):
    mvtec_part(tmp_path / "m" / "bagel")
    mvtec_part(tmp_path / "a" / "1m1", gt="ground_truth", unit=1.0)
    adam_specimen(tmp_path / "raw", "1M2_A_Good")
    pcd(tmp_path / "s" / "cap0" / "train" / "cap0_template0.pcd", blob())
    (tmp_path / "s" / "cap0" / "test").mkdir()
    (tmp_path / "s" / "cap0" / "GT").mkdir()
    cloud_file(tmp_path / "own" / "good" / "0.ply")
    found = [detect(tmp_path / n) for n in ("m", "a", "raw", "s", "own")]
    assert found == ["mvtec3d", "adam3d", "adam3d", "shapenet_anomaly", "folder"]
    assert detect(real3d) == "real3d"
    with pytest.raises(DatasetError, match="no such folder"):
        check(tmp_path / "nothing")


@pytest.fixture
def mvtec(tmp_path):
    mvtec_part(tmp_path / "bagel")
    return tmp_path


def hole(root, kind, stem, suffix="png"):
    return root / "bagel/test/hole" / kind / f"{stem}.{suffix}"


def flat_depth(root):
    path = hole(root, "xyz", "000", "tiff")
    depth = np.repeat(np.linspace(0, 1, H * W, dtype="f4").reshape(H, W, 1), 3, axis=2)
    tifffile.imwrite(path, depth, photometric="rgb")
    return "tiff is not xyz", path


def no_mask(root):
    hole(root, "gt", "000").unlink()
    return "defective without mask", hole(root, "rgb", "000")


def empty_mask(root):
    mask(hole(root, "gt", "000"), None)
    return "empty mask", hole(root, "gt", "000")


def other_mask_size(root):
    mask(hole(root, "gt", "000"), size_hw=(W, H))  # swapped
    return "mask of another size", hole(root, "gt", "000")


def other_cloud_size(root):
    xyz(hole(root, "xyz", "001", "tiff"), size_hw=(W, H))
    return "image and cloud differ in size", hole(root, "xyz", "001", "tiff")


def same_file(root):
    image = root / "bagel/train/good/rgb/002.png"
    (root / "bagel/test/good/rgb/000.png").write_bytes(image.read_bytes())
    return "specimen on both sides", root / "bagel/test/good/rgb/000.png"


def good_with_mask(root):
    mask(root / "bagel/test/good/gt/001.png")
    return "good with mask", root / "bagel/test/good/gt/001.png"


def mixed_habits(root):
    xyz(hole(root, "xyz", "000", "tiff"), missing=np.nan)
    return "missing pixels are 0 and NaN", hole(root, "xyz", "000", "tiff")


def wrong_unit(root):
    xyz(hole(root, "xyz", "000", "tiff"), unit=1.0)  # millimetres in a set of metres: 300 m away
    return "unit looks wrong", hole(root, "xyz", "000", "tiff")


def damaged_image(root):
    path = hole(root, "rgb", "000")
    path.write_bytes(path.read_bytes()[:300])
    return "damaged file", path


def damaged_cloud(root):
    path = hole(root, "xyz", "000", "tiff")
    path.write_bytes(path.read_bytes()[:300])
    return "damaged file", path


def soft_mask(root):
    pixels = np.zeros((H, W), np.uint8)
    pixels[4, :30] = np.arange(0, 240, 8)
    Image.fromarray(pixels).save(hole(root, "gt", "000"))
    return "soft mask", hole(root, "gt", "000")


def no_cloud(root):
    hole(root, "xyz", "000", "tiff").unlink()
    return "no cloud", hole(root, "rgb", "000")


def one_class(root):
    shutil.rmtree(root / "bagel/test/good")
    return "one class only", "bagel"


def empty_class(root):
    """As a copy that was broken off leaves it: a mask, and a place for images."""
    (root / "bagel/test/cut/rgb").mkdir(parents=True)
    mask(root / "bagel/test/cut/gt/000.png")
    return "empty class", root / "bagel/test/cut"


PLANTS = [
    flat_depth, no_mask, empty_mask, other_mask_size, other_cloud_size, same_file, good_with_mask, mixed_habits,
    wrong_unit, damaged_image, damaged_cloud, soft_mask, no_cloud, one_class, empty_class,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
def test_check_finds_the_planted_trap_and_nothing_else(mvtec, plant):
    trap, where = plant(mvtec)
    (finding,) = check(mvtec)
    assert (finding.trap, finding.count, finding.files) == (trap, 1, (str(where),))
    assert corrupts([finding]) == (TRAPS[trap][0] == "corrupts")


def test_every_trap_is_planted_somewhere(mvtec, tmp_path_factory):
    planted = set()
    for plant in PLANTS:
        root = tmp_path_factory.mktemp("plant")
        mvtec_part(root / "bagel")
        planted.add(plant(root)[0])
    assert planted | {"name does not parse"} == set(TRAPS)


def test_check_raw_names_that_do_not_parse(raw):
    (raw / "notes").mkdir()
    nano = raw / "1M2_D_Hole" / "MechMind-Nano"
    picture(nano / "images" / "overview_image.png", seed=77)
    mask(nano / "defect_masks" / "1M2_D_Hole_Nano_099_image_hole_defect_1.png")
    assert set(traps(raw)["name does not parse"]) == {
        str(raw / "notes"),
        str(nano / "images" / "overview_image.png"),
        str(nano / "defect_masks" / "1M2_D_Hole_Nano_099_image_hole_defect_1.png"),
    }


def test_check_raw_defective_views_without_mask_and_good_with(raw):
    for path in (raw / "1M2_D_Hole").rglob("*_001_image*.png"):
        if path.parent.name != "images":
            path.unlink()
    mask(raw / "1M2_A_Good/MechMind-Nano/defect_masks/1M2_A_Good_Nano_000_image_cut_defect_1.png")
    found = traps(raw)
    assert [Path(f).name for f in found["defective without mask"]] == ["1M2_D_Hole_Nano_001_image.png"]
    assert [Path(f).name for f in found["good with mask"]] == ["1M2_A_Good_Nano_000_image_cut_defect_1.png"]


def test_check_finds_pieces_on_both_sides_by_the_map(adam, tmp_path_factory):
    file = tmp_path_factory.mktemp("map") / "map.csv"
    file.write_text(
        "1m1/train/good/rgb/000.png,p1\n1m1/validation/good/rgb/001.png,p1\n1m1/train/good/rgb/002.png,p2\n"
    )
    found = traps(adam, specimens=file)
    assert found["specimen on both sides"] == (str(adam / "1m1/validation/good/rgb/001.png"),)
    assert "specimen on both sides" not in traps(adam)


def test_an_empty_class_is_warned_of_when_loading(mvtec, tmp_path, caplog):
    _, where = empty_class(mvtec)
    load_samples("mvtec3d", mvtec)
    assert f"{where}: no images" in caplog.text
    cloud_file(tmp_path / "own/train/a.ply")
    cloud_file(tmp_path / "own/test/good/b.ply", 1)
    (tmp_path / "own/test/dent").mkdir()
    load_samples("folder", tmp_path / "own")
    assert f"{tmp_path / 'own/test/dent'}: no scans" in caplog.text
    assert traps(tmp_path / "own")["empty class"] == (str(tmp_path / "own/test/dent"),)


@pytest.fixture
def elements(tmp_path):
    """Two tracks of machine elements, with one part."""
    root = tmp_path / "elements"
    mvtec_part(root / "captures/mvtec/bagel", unit=1.0)  # the same in another layout, which is not read
    groups = {"bagel_C000_Good": "train/good", "bagel_C001_Good": "validation/good", "bagel_C002_Hole": "test/hole"}
    for seed, name in enumerate(groups):
        adam_specimen(root / "captures/raw", name, sensor="Nano", seed=seed)
    rows = [f"bagel/{group}/rgb/{8 * i:03d}.png,bagel_{i:03d}\n" for i, group in enumerate(groups.values())]
    (root / "truth").mkdir(parents=True)
    (root / "truth/captures_specimens.csv").write_text("".join(rows))
    (root / "machine_elements.json").write_text("{}")
    for number, name in enumerate(("train/a", "test/good/b", "test/hole/c")):
        cloud_file(root / f"clouds/bagel/{name}.ply", number)
    (root / "clouds/bagel/test/gt").mkdir()
    np.savetxt(root / "clouds/bagel/test/gt/c.txt", np.arange(50) < 4, fmt="%d")
    return root


def test_check_reads_every_track(elements):
    assert check(elements) == []
    path = elements / "clouds/bagel/test/hole/c.ply"
    path.write_bytes(path.read_bytes()[:-99])
    assert traps(elements) == {"damaged file": (str(path),)}


def run(*arguments):
    """The exit code of `rad3d ARGUMENTS`."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    return done.value.code


def test_check_from_the_command_line(adam, mvtec, tmp_path_factory, capsys):
    shutil.rmtree(adam / "bagel")
    file = tmp_path_factory.mktemp("map") / "map.csv"
    file.write_text("1m1/train/good/rgb/000.png,p1\n1m1/validation/good/rgb/001.png,p1\n")
    assert run("datasets", "check", adam) == 0
    assert capsys.readouterr().out == "nothing found\n"
    assert run("datasets", "check", adam, "--specimens", file) == 1
    said = "corrupts: specimen on both sides (1): the same piece, or the same file, trains and tests\n    "
    assert said in capsys.readouterr().out
    assert run("datasets", "check", adam, "--dataset", "mvtec3d") == 1  # which has another unit
    assert "unit looks wrong" in capsys.readouterr().out
    assert run("datasets", "check", adam, "--dataset", "imagenet") == 2
    assert run("datasets", "check", adam / "nothing") == 2


def test_check_clouds(real3d):
    assert check(real3d) == []
    labels = real3d / "airplane/gt/11_sink_cut.txt"
    table = np.loadtxt(labels)
    np.savetxt(labels, table * [1, 1, 1, 0])
    assert traps(real3d) == {"empty mask": (str(labels),)}
    labels.unlink()
    scan = str(real3d / "airplane/test/11_sink_cut.pcd")
    assert traps(real3d) == {"defective without mask": (scan,)}
    pcd(real3d / "airplane/test/10_good.pcd", blob(size=0.01))
    assert traps(real3d)["unit looks wrong"] == (str(real3d / "airplane/test/10_good.pcd"),)


def test_samples_are_values(mvtec):
    one, other = load_samples("mvtec3d", mvtec)[0], load_samples("mvtec3d", mvtec)[0]
    assert one == other
    assert one != replace(one, split="test")
