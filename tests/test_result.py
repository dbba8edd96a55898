"""Results on disk: what is written is read back, older ones are read, damaged ones are named."""

import json
import platform
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from rad3d.errors import ResultError, ScanError
from rad3d.geometry import random_rotation, translation
from rad3d.ply import read_ply
from rad3d.result import Defect, Inspection, PatchPair, PointScores, ViewScores, find_results, load_result, stamp

SCHEMA = json.loads(files("rad3d").joinpath("report.schema.json").read_text())
SINCE_2 = ("part_from_scan", "good_scores", "registration", "evidence")
SINCE_3 = ("date", "versions")
DEFECT_SINCE_2 = "kind deviation_mm volume_mm3 geometry_share agreement views_seen p_value".split()


@pytest.fixture
def inspection():
    """Synthetic: a triangle in inches with one defect and one view."""
    score = np.array([0.5, np.nan, 3.0], np.float32)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (4, 5, 3), np.uint8)
    return Inspection(
        specimen="one",
        source="one.stl",
        unit="inch",
        verdict="fail",
        reason="1 defect above the threshold",
        score=3.0,
        threshold=1.5,
        point_threshold=1.0,
        coverage=1.0,
        coverage_total=float("nan"),
        false_reject={"asked": 0.05, "guaranteed": None, "n_good": 2, "method": "extrapolated"},
        settings={},
        fingerprint="f",
        timings_s={"encoding": 0.1},
        defects=(
            Defect(1, (1.0, 2.0, 3.0), (2.0, 3.0, 4.0), (0.0, 0.0, 1.0), 2.5, (2.0, 1.0, float("nan")), 3.0, 2.0),
        ),
        vertices_mm=np.array([[0, 0, 0], [254, 0, 0], [0, 127, 0]], float),
        faces=np.array([[0, 1, 2]]),
        points=PointScores(
            score, score, score / 3, np.array([2, 0, 1], np.int32), -score, 2 * score, np.array([1, 0, 0], np.int32)
        ),
        views=(ViewScores("v", picture, np.full((4, 5), 2.0, np.float32), np.eye(4)),),
        part_from_scan=translation((1.0, 1.0, 1.0)) @ random_rotation(rng),
        good_scores=np.array([0.7, 1.2]),
        registration=(
            {
                "view": "v",
                "fitness": 0.9,
                "rmse_mm": float("nan"),
                "overlap": 0.8,
                "margin": 1.0,
                "free_directions": ["all"],
                "trusted": False,
                "reason": "too few points",
            },
        ),
        date="2026-03-01T09:30:00+00:00",
        versions={"rad3d": "0.1.0", "python": "3.12.1"},
        evidence=(PatchPair(1, "v", "good", "w", 0.25, picture[:4, :4], picture[:4, 1:5]),),
    )


def rewritten(folder, change):
    report = json.loads((folder / "report.json").read_text())
    change(report)
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def of_version_1(report):
    """The report as the first version wrote it."""
    report["schema_version"] = 1
    for name in SINCE_2 + SINCE_3:
        del report[name]
    for defect in report["defects"]:
        for name in DEFECT_SINCE_2:
            del defect[name]


def test_reads_back_what_it_wrote(inspection, tmp_path):
    again = load_result(inspection.save(tmp_path / "out"))
    assert again.report() == inspection.report()
    jsonschema.validate(again.report(), SCHEMA)
    np.testing.assert_array_equal(again.part_from_scan, inspection.part_from_scan)
    np.testing.assert_array_equal(again.good_scores, inspection.good_scores)
    np.testing.assert_array_equal(again.evidence[0].image, inspection.evidence[0].image)
    np.testing.assert_array_equal(again.evidence[0].good_image, inspection.evidence[0].good_image)
    np.testing.assert_allclose(again.vertices_mm, inspection.vertices_mm, atol=1e-4)
    np.testing.assert_array_equal(again.points.anomaly_score, inspection.points.anomaly_score)


def test_a_scan_that_was_registered_as_a_whole_names_no_view(inspection, tmp_path):
    whole = replace(inspection, registration=({**inspection.registration[0], "view": None},))
    assert load_result(whole.save(tmp_path / "out")).registration[0]["view"] is None


@pytest.mark.parametrize("name", ["../../escaped", "..", "a/b", "a\\b", ""])
def test_a_views_name_leads_out_of_no_folder(inspection, tmp_path, name):
    with pytest.raises(ScanError, match="plain name"):
        replace(inspection.views[0], name=name)
    inspection.save(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    report["views"][0]["name"] = name
    (tmp_path / "out" / "report.json").write_text(json.dumps(report))
    with pytest.raises(ScanError, match="plain name"):
        load_result(tmp_path / "out")


def test_not_registered_has_no_pose(inspection, tmp_path):
    bare = replace(inspection, part_from_scan=None, good_scores=None, defects=(), views=())
    jsonschema.validate(bare.report(), SCHEMA)
    again = load_result(bare.save(tmp_path / "out"))
    assert again.part_from_scan is None
    assert again.good_scores is None


def test_evidence_without_a_remembered_picture(inspection, tmp_path):
    alone = replace(inspection, evidence=(replace(inspection.evidence[0], good_image=None),))
    (pair,) = load_result(alone.save(tmp_path / "out")).evidence
    assert pair.good_image is None
    np.testing.assert_array_equal(pair.image, inspection.evidence[0].image)


def test_a_result_of_the_first_version_is_read(inspection, tmp_path):
    old = load_result(rewritten(inspection.save(tmp_path / "out"), of_version_1))
    assert old.part_from_scan is None
    assert old.good_scores is None
    assert old.evidence == ()
    assert old.defects[0].area_mm2 == 2.5
    jsonschema.validate(old.report(), SCHEMA)  # written again, it is of this version
    assert old.defects[0].kind is None
    later = SINCE_2 + SINCE_3
    same = {name: value for name, value in inspection.report().items() if name not in later}
    assert {name: value for name, value in old.report().items() if name not in later} == same


def test_a_result_of_the_second_version_is_read(inspection, tmp_path):
    def of_version_2(report):
        report["schema_version"] = 2
        for name in SINCE_3:
            del report[name]

    old = load_result(rewritten(inspection.save(tmp_path / "out"), of_version_2))
    assert old.date is None
    assert old.versions is None
    jsonschema.validate(old.report(), SCHEMA)
    assert old.report() == {**inspection.report(), "date": None, "versions": None}


def test_a_stamp_is_of_now_and_of_this_installation():
    before = datetime.now(UTC).replace(microsecond=0)
    made = stamp()
    assert before <= datetime.fromisoformat(made["date"]) <= datetime.now(UTC)
    assert made["versions"]["numpy"] == np.__version__
    assert made["versions"]["python"] == platform.python_version()
    assert list(made["versions"]) == ["rad3d", "torch", "timm", "numpy", "python"]


@pytest.mark.parametrize("version", [0, 99, None, "2"])
def test_another_version_is_named(inspection, tmp_path, version):
    folder = rewritten(inspection.save(tmp_path / "out"), lambda report: report.update(schema_version=version))
    with pytest.raises(ResultError, match=f"schema_version 1, 2 or 3, got {version}"):
        load_result(folder)


@pytest.mark.parametrize("gone", ["report.json", "scored.ply", "views/v.png", "maps/v.tiff", "evidence/1.png"])
def test_a_missing_file_is_named(inspection, tmp_path, gone):
    folder = inspection.save(tmp_path / "out")
    (folder / gone).unlink()
    with pytest.raises(ValueError, match=gone.split("/")[-1]) as told:
        load_result(folder)
    assert told.value.remedy


@pytest.mark.parametrize("name", ["specimen", "defects", "good_scores"])
def test_a_report_without_a_field_is_damaged(inspection, tmp_path, name):
    folder = rewritten(inspection.save(tmp_path / "out"), lambda report: report.pop(name))
    with pytest.raises(ResultError, match="complete result"):
        load_result(folder)


def test_a_report_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ResultError, match="schema_version"):
        load_result(tmp_path)


def test_a_result_does_not_need_its_scan(inspection, tmp_path):
    assert load_result(replace(inspection, source="gone/away.stl").save(tmp_path / "out")).source == "gone/away.stl"


def test_meshlab_finds_the_score_as_quality(inspection, tmp_path):
    fields = read_ply(inspection.save(tmp_path / "out") / "scored.ply").fields
    np.testing.assert_array_equal(fields["quality"], np.array([0.5, -1.0, 3.0], np.float32))  # NaN would crash it
    np.testing.assert_array_equal(fields["anomaly_score"], inspection.points.anomaly_score)


def test_found_among_folders_and_globs(inspection, tmp_path):
    for name in ("a", "b"):
        inspection.save(tmp_path / name)
    assert find_results([tmp_path, tmp_path / "b"]) == [tmp_path / "a", tmp_path / "b"]
    assert find_results([f"{tmp_path}/[b]"]) == [tmp_path / "b"]
    with pytest.raises(ResultError, match="none"):
        find_results([tmp_path / "c"])
