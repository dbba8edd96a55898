"""Evaluation from files to tables: RAD as its authors compute it, resuming, bad input, and what counts."""

import csv
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from rad3d import cli
from rad3d import evaluate as module
from rad3d.baselines import RAD_CROP, Rad, _failed
from rad3d.datasets import load_samples
from rad3d.datasets.sample import Choice, MaskFile, Sample, ViewFiles, image_size_hw
from rad3d.encoder import Encoder, rad_input
from rad3d.errors import DatasetError, ResultError, ScanError, SettingsError
from rad3d.evaluate import evaluate
from rad3d.metrics import InstanceCounts, aupro
from rad3d.ply import read_ply, write_ply
from rad3d.prediction import WHOLE, PointPrediction, Prediction, ViewPrediction
from rad3d.scoring import AUTHORS, PIXELS, PartScores, authors_mask, on_image, score_part
from rad3d.settings import EncoderSettings, RetrievalSettings, Settings
from rad3d.sheets import write_curves

H, W = 60, 80


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A tiny ViT with fixed random weights: fast, and as good as any to compare implementations with."""
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k"
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    path = tmp_path_factory.mktemp("vit") / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, metadata={"architecture": name})
    return Settings(encoder=EncoderSettings(name=str(path), layers=(0, 1)))


def write_part(folder, seed=0, good=2):
    """4 train, `good` test/good, 2 test/hole: striped pictures, the holes black."""
    rng = np.random.default_rng(seed)
    for group, count in (("train/good", 4), ("test/good", good), ("test/hole", 2)):
        for kind in ("rgb", "gt"):
            (folder / group / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            stripes = 127 + 60 * np.sin(np.arange(W) / 4 + rng.random())[None, :, None]
            image = np.clip(stripes + rng.normal(0, 8, (H, W, 3)), 0, 255).astype(np.uint8)
            mask = np.zeros((H, W), np.uint8)
            if "hole" in group:
                mask[20:34, 30 + 10 * i : 46 + 10 * i] = 255
                image[mask > 0] = 0
            Image.fromarray(image).save(folder / group / "rgb" / f"{i:03d}.png")
            Image.fromarray(mask).save(folder / group / "gt" / f"{i:03d}.png")


@pytest.fixture
def data(tmp_path):
    write_part(tmp_path / "data" / "gear", 1)
    write_part(tmp_path / "data" / "rack", 2)
    return tmp_path / "data"


def run(data, out, settings, **options):
    return evaluate("mvtec3d", out, root=data, method="rad", settings=settings, **options)


def same(a, b):
    assert a.keys() == b.keys()
    for part in a:
        np.testing.assert_array_equal([*a[part].values()], [*b[part].values()])


def test_everything_is_written_and_says_what_it_is(data, tmp_path, settings):
    result = run(data, tmp_path / "out", settings)
    out = tmp_path / "out"
    stored = json.loads((out / "results.json").read_text())
    assert stored["title"].startswith("RAD (")
    assert set(stored["parts"]) == {"gear", "rack"}
    assert stored["run"]["k_views"] == 8  # 48, but there are only 8 good images
    assert result.title.endswith(", k = 8 of 48")
    assert (out / "results.md").read_text().startswith(f"# {result.title} on mvtec3d\n")
    assert {"settings", "fingerprint", "versions", "commit", "dataset", "choice"} <= set(stored["run"])
    assert stored["published"] == {}
    for part, values in result.parts.items():
        assert stored["parts"][part]["specimen AUROC"] == values["specimen AUROC"]
        assert values["good specimens"] == values["defective specimens"] == 2
    mean = np.mean([v["specimen AP"] for v in result.parts.values()])
    assert result.mean["specimen AP"] == pytest.approx(mean, abs=1e-15)
    assert "| specimen AUROC |" in (out / "results.md").read_text()
    assert (out / "results.csv").read_text().splitlines()[0].startswith("part,good specimens")
    for figure in (out / "curves" / "gear.png", out / "curves" / "rack.png", out / "worst.png"):
        assert image_size_hw(figure)[1] > 100
    drawn = (out / "curves" / "gear.svg").read_text()
    for curve, metric in (("specimen", "AUROC"), ("specimen", "AP"), ("pixel", "AUPRO@0.3")):
        assert f"{curve}: {metric} {result.parts['gear'][f'{curve} {metric}']:.3f}" in drawn
    maps = sorted((out / "predictions").rglob("*.tiff"))
    assert len(maps) == 8
    assert (tifffile.imread(maps[0]).shape, tifffile.imread(maps[0]).dtype) == ((256, 256), np.float32)


def test_curves_are_those_of_the_figures_module(tmp_path):
    """One part with specimens and pixels, one where nothing is defined."""
    rate = np.array([0.0, 0.5, 1.0])
    curve = {"false_positive_rate": rate, "recall": rate, "precision": 1 - rate / 2, "overlap": rate}
    values = {f"{name} {metric}": 0.625 for name in ("specimen", "pixel") for metric in ("AUROC", "AP")}
    known = PartScores({**values, "pixel AUPRO@0.3": 0.5}, {"specimen": curve, "pixel": curve}, InstanceCounts(0, 0, 0))
    write_curves("RAD & more", {"a b": known, "none": PartScores({}, {}, InstanceCounts(0, 0, 0))}, tmp_path / "curves")
    (png, svg) = sorted((tmp_path / "curves").iterdir())
    assert (png.suffix, svg.suffix) == (".png", ".svg")
    assert image_size_hw(png)[1] > 1000
    drawn = svg.read_text()
    for said in ("specimen: AUROC 0.625", "pixel: AP 0.625", "pixel: AUPRO@0.3 0.500", "RAD &amp; more, a b"):
        assert said in drawn
    assert "specimen: AUPRO" not in drawn


def test_rad_equals_the_slow_reference_on_the_same_features(data, tmp_path, settings, reference):
    run(data, tmp_path / "out", settings)
    encoder = Encoder.load(replace(settings.encoder, precision="float32"))

    def features(files):
        tokens = encoder.encode(np.stack([rad_input(np.asarray(Image.open(f))) for f in files]))
        return torch.nn.functional.normalize(tokens.patches, dim=-1).numpy()

    train = sorted(data.glob("*/train/good/rgb/*.png"))
    keys = features(train)  # fewer than 48: all answer, of all parts
    for part in ("gear", "rack"):
        query = features([data / part / "test/hole/rgb/001.png"])[0]
        expected = reference.rad_score_map(reference.rad_patch_scores(query, keys, 1).mean(axis=0))
        folder = tmp_path / "out/predictions" / part / "test_hole_001"
        np.testing.assert_allclose(tifffile.imread(folder / "001.tiff"), expected, atol=1e-5)
        score = json.loads((folder / "prediction.json").read_text())["score"]
        assert score == pytest.approx(np.sort(expected.ravel())[-655:].mean(), abs=1e-5)  # int(65536 x 0.01)


def test_retrieval_other_than_the_authors_is_used_and_named(data, tmp_path, settings, reference):
    near = run(data, tmp_path / "near", settings)
    wide = run(data, tmp_path / "wide", settings, retrieval=RetrievalSettings(views_by="all", pos_radius=None))
    assert wide.title == near.title.replace(", k = 8 of 48", ", views by all, no position limit")
    assert wide.run["retrieval"] == {"views_by": "all", "k_views": 48, "pos_radius": None}
    maps = [tifffile.imread(tmp_path / name / "predictions/gear/test_hole_001/001.tiff") for name in ("near", "wide")]
    assert (maps[1] <= maps[0] + 1e-6).all()  # more patches answer
    assert (maps[1] < maps[0] - 1e-4).any()
    one = run(data, tmp_path / "one", settings, retrieval=RetrievalSettings(k_views=1))
    assert one.title.endswith(", k = 1")
    with pytest.raises(ResultError, match="another retrieval"):
        run(data, tmp_path / "one", settings)
    with pytest.raises(SettingsError, match="views_by"):
        run(data, tmp_path / "by", settings, retrieval=RetrievalSettings(views_by="viewpoint"))
    with pytest.raises(SettingsError, match="leave --retrieval"):
        evaluate("mvtec3d", tmp_path / "no", root=data, method="deviation", retrieval=RetrievalSettings(k_views=1))
    with pytest.raises(SettingsError, match="leave --retrieval"):
        module.method_named("mrad-tf", settings, object(), RetrievalSettings(k_views=1))
    with pytest.raises(SettingsError, match="k_views"):
        RetrievalSettings(k_views=0)
    shutil.rmtree(tmp_path / "wide" / "memory")  # large, and not needed for the metrics
    again = run(data, tmp_path / "wide", settings, retrieval=RetrievalSettings(views_by="all", pos_radius=None))
    assert again.title == wide.title


def test_memory_per_part_sees_its_own_part_only(data, tmp_path, settings):
    both = run(data, tmp_path / "a", settings, memory="per-part")
    alone = evaluate("mvtec3d", tmp_path / "b", root=data / "gear", method="rad", settings=settings)
    assert list(both.parts["gear"].values()) == list(alone.parts["gear"].values())


def test_a_finished_run_is_not_run_again(data, tmp_path, settings, monkeypatch):
    first = run(data, tmp_path / "out", settings)
    monkeypatch.setattr(Rad, "fit", lambda *a: pytest.fail("fitted again"))
    monkeypatch.setattr(Rad, "predict", lambda *a: pytest.fail("predicted again"))
    again = run(data, tmp_path / "out", settings)
    same(first.parts, again.parts)
    assert (again.run["k_views"], again.title) == (8, first.title)


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_a_killed_run_continues_and_ends_with_identical_numbers(data, tmp_path, settings, monkeypatch, stage):
    whole = run(data, tmp_path / "whole", settings)
    name = {"fit": "_encode", "predict": "predict"}[stage]
    original, calls = getattr(Rad, name), []

    def killed(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Rad, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "out", settings)
    done = len(list((tmp_path / "out").glob("predictions/*/*/prediction.json")))
    assert done == (3 if stage == "predict" else 0)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.startswith(".partial")]
    calls.clear()
    monkeypatch.setattr(Rad, "predict", lambda self, s: calls.append(s) or original_predict(self, s))
    original_predict = original if stage == "predict" else Rad.__dict__["predict"]
    if stage == "fit":
        monkeypatch.undo()
    result = run(data, tmp_path / "out", settings)
    assert len(calls) == (8 - done if stage == "predict" else 0)
    same(whole.parts, result.parts)


def test_another_run_does_not_mix_with_the_first(data, tmp_path, settings):
    run(data, tmp_path / "out", settings)
    begun = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**begun, "commit": "earlier"}))
    assert run(data, tmp_path / "out", settings).run["commit"] == "earlier"  # whose predictions these are
    with pytest.raises(ResultError, match="memory"):
        run(data, tmp_path / "out", settings, memory="per-part")
    with pytest.raises(ResultError, match="choice"):
        run(data, tmp_path / "out", settings, choice=Choice(parts=("gear",)))


@pytest.mark.parametrize("broken", ["train/good/rgb/001.png", "test/good/rgb/001.png", "test/hole/gt/000.png"])
def test_damaged_files_stop_the_run_or_are_counted(data, tmp_path, settings, broken):
    path = data / "gear" / broken
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((ScanError, DatasetError), match=path.name):
        run(data, tmp_path / "stop", settings)
    result = run(data, tmp_path / "skip", settings, skip_bad=True)
    assert list(result.skipped) == [str(path)]
    gear = result.parts["gear"]
    lost = (0, 0) if "train" in broken else (1, 0) if "good" in broken else (0, 1)
    assert (2 - gear["good specimens"], 2 - gear["defective specimens"]) == lost
    again = run(data, tmp_path / "skip", settings, skip_bad=True)
    same(result.parts, again.parts)
    assert list(again.skipped) == [str(path)]
    assert json.loads((tmp_path / "skip/results.json").read_text())["skipped"] == [str(path)]


def test_a_damaged_cloud_in_the_middle_of_a_set_is_named_and_counted(tmp_path, settings):
    """Images are whole; the method that crops to the part needs the clouds beside them."""
    write_part(tmp_path / "data" / "gear", 1)
    y, x = np.mgrid[:H, :W] - np.array([H, W])[:, None, None] / 2
    dome = np.sqrt(np.maximum(1 - (x / 26) ** 2 - (y / 22) ** 2, 0))
    z = np.where(dome > 0, 0.35 - 0.02 * dome, 0.0)  # in metres; 0 = missing
    cloud = np.stack([x * z / 350, y * z / 350, z], axis=2).astype(np.float32)
    for image in (tmp_path / "data").rglob("rgb/*.png"):
        path = image.parents[1] / "xyz" / f"{image.stem}.tiff"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, cloud, photometric="rgb")
    broken = tmp_path / "data/gear/test/hole/xyz/001.tiff"
    broken.write_bytes(broken.read_bytes()[:4000])
    options = {"root": tmp_path / "data", "method": "rad-roi", "settings": settings}
    with pytest.raises((ScanError, DatasetError), match=r"001\.tiff"):
        evaluate("mvtec3d", tmp_path / "stop", **options)
    result = evaluate("mvtec3d", tmp_path / "skip", skip_bad=True, **options)
    assert list(result.skipped) == [str(broken)]
    assert (result.parts["gear"]["good specimens"], result.parts["gear"]["defective specimens"]) == (2, 1)


def test_a_single_good_image_is_enough_to_compare_with_and_k_is_capped(tmp_path, settings):
    write_part(tmp_path / "data" / "gear", 1)
    for path in (tmp_path / "data/gear/train/good").rglob("*.png"):
        if path.stem != "000":
            path.unlink()
    result = run(tmp_path / "data", tmp_path / "out", settings)
    assert result.run["k_views"] == 1
    assert 0 <= result.parts["gear"]["specimen AUROC"] <= 1
    assert (result.parts["gear"]["good specimens"], result.parts["gear"]["defective specimens"]) == (2, 2)


def test_one_class_only_is_undefined(tmp_path, settings):
    write_part(tmp_path / "data" / "gear", 1)
    write_part(tmp_path / "data" / "rack", 2, good=0)
    result = run(tmp_path / "data", tmp_path / "out", settings)
    assert np.isnan(result.parts["rack"]["specimen AUROC"])
    assert result.mean["specimen AUROC"] == result.parts["gear"]["specimen AUROC"]
    assert "undefined" in (tmp_path / "out/results.csv").read_text()
    assert json.loads((tmp_path / "out/results.json").read_text())["parts"]["rack"]["specimen AUROC"] is None


def test_nothing_to_judge_is_no_table_of_zeros(tmp_path, settings):
    write_part(tmp_path / "data" / "gear", 1)
    shutil.rmtree(tmp_path / "data/gear/test")
    with pytest.raises(DatasetError, match="test samples") as caught:
        run(tmp_path / "data", tmp_path / "out", settings)
    assert caught.value.source == str(tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_published_numbers_only_beside_the_same_thing():
    parts = [str(i) for i in range(23)]
    dino = Settings(encoder=EncoderSettings("dinov3-b"))
    rad = RetrievalSettings()
    say = module._published
    assert say("adam3d", Choice(), "rad", dino, rad, parts, "unified")[f"{AUTHORS} F1-max"] == 0.325
    for dataset, choice, method, encoder, retrieval, names, scope in (
        ("mvtec3d", Choice(), "rad", dino, rad, parts, "unified"),
        ("adam3d", Choice(protocol="anomalib"), "rad", dino, rad, parts, "unified"),
        ("adam3d", Choice(), "rad-roi", dino, rad, parts, "unified"),
        ("adam3d", Choice(), "rad", Settings(), rad, parts, "unified"),
        ("adam3d", Choice(), "rad", dino, RetrievalSettings(k_views=47), parts, "unified"),
        ("adam3d", Choice(), "rad", dino, rad, parts[:5], "unified"),
        ("adam3d", Choice(), "rad", dino, rad, parts, "per-part"),
    ):
        assert say(dataset, choice, method, encoder, retrieval, names, scope) == {}


# --- what is scored


def test_the_authors_mask_is_what_their_transforms_give():
    from torchvision import transforms

    rng = np.random.default_rng(0)
    for size in ((600, 800), (1024, 1280), (333, 512)):
        mask = np.zeros(size, bool)
        for _ in range(6):
            r, c = rng.integers(0, size[0]), rng.integers(0, size[1])
            mask[r : r + rng.integers(1, 60), c : c + rng.integers(1, 60)] = True
        theirs = transforms.Compose([transforms.Resize((512, 512)), transforms.CenterCrop(448), transforms.ToTensor()])
        tensor = theirs(Image.fromarray(mask.astype(np.uint8) * 255))[None]
        expected = torch.nn.functional.interpolate(tensor, size=256, mode="nearest").bool()[0, 0].numpy()
        np.testing.assert_array_equal(authors_mask(mask), expected)


def test_a_map_lands_where_its_crop_was():
    """A ramp over the middle 7/8 comes back as the ramp of image positions; the margin was not inspected."""
    y, x = (np.indices((256, 256)) + 0.5) / 256 * 7 / 8 + 1 / 16
    placed = on_image((x + 10 * y).astype(np.float32), RAD_CROP, (96, 160))
    rows, columns = (np.arange(96) + 0.5) / 96, (np.arange(160) + 0.5) / 160
    inside = ((rows > 1 / 16) & (rows < 15 / 16))[:, None] & ((columns > 1 / 16) & (columns < 15 / 16))
    np.testing.assert_array_equal(np.isfinite(placed), inside)
    np.testing.assert_allclose(placed[inside], (columns + 10 * rows[:, None])[inside], atol=0.03)


@pytest.fixture
def images(tmp_path):
    """A good and a defective sample of 16 x 16 pixels, the defect at the border, where RAD's crop does not look."""
    samples = []
    for label in (0, 1):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / f"{label}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[8:12, 0:4] = 255
        Image.fromarray(mask).save(tmp_path / f"m{label}.png")
        masks = (MaskFile(tmp_path / f"m{label}.png", "hole"),) if label else ()
        files = (ViewFiles(str(label), tmp_path / f"{label}.png", None, masks),)
        samples.append(Sample("mvtec3d", "gear", str(label), "test", label, "hole" if label else "good", files))
    return samples


def test_a_defect_in_the_margin_counts_as_missed_and_stands_beside(images):
    rng = np.random.default_rng(0)
    maps = [rng.random((256, 256)).astype(np.float32) for _ in images]
    judged = [
        (s, lambda m=m: Prediction(0.5, views=(ViewPrediction("v", 0.5, m, RAD_CROP),)))
        for s, m in zip(images, maps, strict=True)
    ]
    values = score_part(judged).values
    placed = [on_image(m, RAD_CROP, (16, 16)) for m in maps]
    masks = [s.load_view_labels()[0].mask for s in images]
    lowest = [np.nan_to_num(p, nan=-1) for p in placed]
    pooled, labels = np.concatenate(lowest).ravel(), np.concatenate(masks).ravel()
    assert values[f"{PIXELS} AUROC"] == pytest.approx(roc_auc_score(labels, pooled))
    assert values[f"{PIXELS} AUPRO@0.3"] == pytest.approx(aupro(lowest, masks, (0.3,))[0])
    assert values[f"{PIXELS} not inspected"] == pytest.approx(1 - 14 * 14 / 256)
    seen = np.isfinite(np.concatenate(placed).ravel())
    assert values[f"{PIXELS} (inspected) AUROC"] == pytest.approx(roc_auc_score(labels[seen], pooled[seen]))
    assert f"{AUTHORS} AUROC" in values


def test_the_part_alone_counts_beside_all_pixels(images):
    """Background that scores high costs precision in the one and nothing in the other; labelled pixels always count."""
    part = np.zeros((16, 16), bool)
    part[4:14, 2:10] = True  # the defect's columns 0 and 1 lie off the part
    scores = np.full((16, 16), 0.9, np.float32)
    scores[part] = 0.1
    defective = scores.copy()
    defective[8:12, 0:4] = 0.5
    views = [ViewPrediction("v", 0.1, scores, WHOLE, part), ViewPrediction("v", 0.5, defective, WHOLE, part)]
    judged = [(s, lambda v=v: Prediction(v.score, views=(v,))) for s, v in zip(images, views, strict=True)]
    values = score_part(judged).values
    assert values["pixel of the part AUROC"] == 1.0
    assert values["pixel AUROC"] < 0.5
    assert f"{AUTHORS} AUROC" not in values


def test_an_incomplete_specimen_ranks_worst_for_its_label(images):
    def judged(good, defective):
        result = []
        for sample, p in zip(images, (good, defective), strict=True):
            view = ViewPrediction("v", p.score, np.zeros((16, 16), np.float32))
            result.append((sample, lambda p=p, view=view: Prediction(p.score, p.complete, views=(view,))))
        return result

    assert score_part(judged(Prediction(0.1), Prediction(0.9))).values["specimen AUROC"] == 1.0
    for good, defective in ((Prediction(0.1, False), Prediction(0.9)), (Prediction(0.1), Prediction(0.9, False))):
        values = score_part(judged(good, defective)).values
        assert (values["specimen AUROC"], values["incomplete specimens"]) == (0.0, 1.0)
    assert score_part(judged(Prediction(0.1), Prediction(np.nan, False))).values["specimen AUROC"] == 0.0


def test_views_without_labels_are_left_out_and_counted_by_what_they_show(tmp_path):
    files, maps = [], []
    for name, marked, background in (("a", True, 0.1), ("b", False, 0.2), ("c", None, 0.95)):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:4, 2:4] = 255 if marked else 0
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"m{name}.png")
        masks = () if marked is None else (MaskFile(tmp_path / f"m{name}.png", "x"),)
        files.append(ViewFiles(name, tmp_path / f"{name}.png", None, masks))
        maps.append(np.where(mask > 0, 0.9, background).astype(np.float32))
    sample = Sample("machine_elements", "gear", "s", "test", 1, "x", tuple(files))
    views = tuple(ViewPrediction(n, float(m.max()), m) for n, m in zip("abc", maps, strict=True))
    values = score_part([(sample, lambda: Prediction(0.9, views=views))]).values
    assert values["image AUROC"] == 1.0  # a shows the defect, b does not, c is not known
    assert values["pixel AUROC"] == 1.0


# --- clouds


def cloud_folder(root):
    """A plate of 40 x 40 mm; one with a dent of 36 labelled points, one good."""
    x, y = np.meshgrid(np.arange(40.0), np.arange(40.0))
    plate = np.stack([x.ravel(), y.ravel(), 3 * np.sin(x.ravel() / 9) + 2 * np.cos(y.ravel() / 5 + x.ravel() / 17)], 1)
    dent = (np.abs(plate[:, 0] - 12) < 3) & (np.abs(plate[:, 1] - 30) < 3)
    dented = plate - dent[:, None] * np.array([0, 0, 1.0])
    scans = {"good/a": plate, "good/b": plate + 0.01, "test/good/c": plate, "test/dent/d": dented}
    for name, points in scans.items():
        path = root / f"{name}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ply(path, points)
    np.savetxt(root / "test/dent/d.txt", dent.astype(int), fmt="%d")
    return dent


def test_geometry_alone_on_clouds(tmp_path):
    dent = cloud_folder(tmp_path / "data")
    result = evaluate("folder", tmp_path / "out", root=tmp_path / "data", method="deviation")
    (values,) = result.parts.values()
    assert values["specimen AUROC"] == 1.0
    assert values["point AUROC"] > 0.99
    assert values["point by area AUROC"] > 0.99
    scored = read_ply(tmp_path / "out/predictions/data/d/scored.ply")
    np.testing.assert_allclose(scored.vertices, read_ply(tmp_path / "data/test/dent/d.ply").vertices)
    assert scored.fields["anomaly_score"][dent].min() > 0.5
    assert scored.fields["area_mm2"].sum() > 0
    sheet = np.asarray(Image.open(tmp_path / "out/worst.png").convert("RGB"))
    assert (sheet.max(axis=2) < 60).sum() > 5000, "surfaces"
    assert (np.ptp(sheet.astype(int), axis=2) > 20).sum() > 200, "with the dent in another colour"
    with pytest.raises(DatasetError, match="good samples"):
        evaluate("real3d", tmp_path / "none", root=cloud_set_without_training(tmp_path / "r"), method="deviation")


def test_damaged_point_labels_are_counted_too(tmp_path):
    cloud_folder(tmp_path / "data")
    (tmp_path / "data/test/dent/d.txt").write_text("0\n1\nbroken")
    with pytest.raises((ScanError, DatasetError), match=r"d\.txt"):
        evaluate("folder", tmp_path / "stop", root=tmp_path / "data", method="deviation")
    result = evaluate("folder", tmp_path / "skip", root=tmp_path / "data", method="deviation", skip_bad=True)
    assert list(result.skipped) == [str(tmp_path / "data/test/dent/d.txt")]
    (values,) = result.parts.values()
    assert (values["good specimens"], values["defective specimens"]) == (1, 0)


@pytest.mark.parametrize("finds", [True, False])
def test_a_specimen_that_failed_missed_its_defects(tmp_path, finds):
    """Of one whose defect was found exactly, and one like it that could not be registered."""
    dent = cloud_folder(tmp_path / "data")
    (sample,) = (s for s in load_samples("folder", tmp_path / "data", Choice()) if s.label == 1)
    scan = sample.load_scan()
    found = PointPrediction.of(scan, dent.astype(np.float32), dent.astype(int))
    exact = Prediction(1.0, points=found, centroids_mm=scan.vertices_mm[dent].mean(axis=0)[None],
                       defect_areas_mm2=np.array([found.areas_mm2[dent].sum()]))  # fmt: skip
    failed = _failed(scan, "not registered", finds=finds)
    values = score_part([(sample, lambda: exact), (replace(sample, specimen="e"), lambda: failed)]).values
    assert values["point F1 of found defects"] == pytest.approx(2 / 3 if finds else 1.0)
    assert values["defect recall"] == (0.5 if finds else 1.0)


def test_methods_side_by_side_from_one_command(tmp_path, capsys):
    root = tmp_path / "data"
    write_part(root / "gear", 1)
    small = ["--encoder.input-hw", "112", "112", "--encoder.precision", "float32"]
    out = tmp_path / "out"
    call = ["evaluate", "mvtec3d", "--root", str(root), "--method", "rad", "rad-roi", *small, "-o", str(out)]
    with pytest.raises(SystemExit, match="0"):
        cli.main(call)
    capsys.readouterr()
    header, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table_of(out / "comparison.md"))
    means = {name: json.loads((out / name / "results.json").read_text()) for name in ("rad", "rad-roi")}
    assert header[1:] == [means[name]["title"] for name in means]
    assert {row[0] for row in rows[1:]} == {*means["rad"]["mean"]} | {*means["rad-roi"]["mean"]}
    for metric, *values in rows[1:]:
        for value, one in zip(values, means.values(), strict=True):
            expected = one["mean"].get(metric)
            assert value in ("undefined", "") if expected is None else float(value) == pytest.approx(expected, abs=1e-4)
    with (out / "comparison.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [header, *rows[1:]]


def table_of(path):
    return [line for line in path.read_text().splitlines() if line.startswith("|")]


def cloud_set_without_training(root):
    (root / "fish" / "train").mkdir(parents=True)
    (root / "fish" / "test").mkdir()
    (root / "fish" / "test" / "1_good.pcd").write_text(
        "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA ascii\n"
        "0 0 0\n9 0 0\n0 9 0\n"
    )
    return root


def test_points_areas_and_instances(tmp_path):
    dent = cloud_folder(tmp_path / "data")
    from rad3d.datasets import load_samples

    good, bad = (s for s in load_samples("folder", tmp_path / "data") if s.split == "test")
    good, bad = (good, bad) if good.label == 0 else (bad, good)
    rng = np.random.default_rng(0)
    scores, areas = [rng.random(1600).astype("f4") for _ in range(2)], [rng.random(1600) for _ in range(2)]
    scores[1][dent] += 0.4
    scores[1][:200] = np.nan
    centre = bad.load_scan().vertices_mm[dent].mean(axis=0)
    found = [np.array([[5.0, 5.0, 0.0]]), np.array([centre, centre + 30])]
    sizes = [np.array([4.0]), np.array([areas[1][dent].sum(), 1.0])]
    ids = [(score > 0.9).astype(np.int32) for score in scores]
    places = good.load_scan().vertices_mm
    points = [PointPrediction(places, *of) for of in zip(scores, areas, ids, strict=True)]
    judged = [
        (s, lambda i=i, p=p: Prediction(float(i), True, "", (), p, bool(i), found[i], sizes[i]))
        for i, (s, p) in enumerate(zip((good, bad), points, strict=True))
    ]
    part = score_part(judged)
    labels = np.r_[np.zeros(1600, bool), dent]
    pooled = np.nan_to_num(np.concatenate(scores), nan=-1)
    values = part.values
    assert values["point AUROC"] == pytest.approx(roc_auc_score(labels, pooled))
    expected = roc_auc_score(labels, pooled, sample_weight=np.concatenate(areas))
    assert values["point by area AUROC"] == pytest.approx(expected)
    assert values["point not inspected"] == 200 / 3200
    assert values["point by area not inspected"] == pytest.approx(areas[1][:200].sum() / np.sum(areas))
    hits = ((pooled > 0.9) & labels).sum()
    assert values["point F1 of found defects"] == pytest.approx(2 * hits / ((pooled > 0.9).sum() + labels.sum()))
    weight = np.concatenate(areas)
    both, ours = weight[(pooled > 0.9) & labels].sum(), weight[pooled > 0.9].sum()
    assert values["point by area F1 of found defects"] == pytest.approx(2 * both / (ours + weight[labels].sum()))
    assert part.instances == InstanceCounts(1, 2, 0)
    assert (values["defect precision"], values["defect recall"], values["defect F1"]) == (1 / 3, 1.0, 0.5)
    assert values["specimen F1 at threshold"] == 1.0


def test_predictions_come_back_as_they_were(tmp_path):
    part = np.random.default_rng(0).random((6, 9)) > 0.5
    scores = np.random.default_rng(1).random((4, 5)).astype("f4")
    scores[0, 0] = np.nan
    view = ViewPrediction("007", np.nan, scores, RAD_CROP, part)
    areas = np.array([0.5, 0.25])
    points = PointPrediction(np.eye(3)[:2], np.array([np.nan, 1.0]), areas, np.array([0, 2]))
    one = Prediction(np.nan, False, "why", (view,), points, True, np.ones((1, 3)), np.ones(1))
    one.save(tmp_path / "p")
    back = Prediction.load(tmp_path / "p")
    np.testing.assert_array_equal(back.views[0].scores, scores)
    np.testing.assert_array_equal(back.views[0].part, part)
    assert (back.views[0].box, np.isnan(back.score), back.complete, back.reason) == (RAD_CROP, True, False, "why")
    np.testing.assert_array_equal(back.points.vertices_mm, points.vertices_mm)
    np.testing.assert_array_equal(back.points.scores, points.scores)
    np.testing.assert_array_equal(back.points.areas_mm2, areas)
    np.testing.assert_array_equal(back.points.defect_id, [0, 2])
    assert (back.fails, back.centroids_mm.tolist()) == (True, [[1, 1, 1]])
    (tmp_path / "p" / "prediction.json").write_text("{")
    with pytest.raises(ResultError, match="evaluate again"):
        Prediction.load(tmp_path / "p")


def test_rad_on_real_photographs(tmp_path):
    root = os.environ.get("RAD3D_TEST_TIRE")
    if not root:
        pytest.skip("RAD3D_TEST_TIRE is not set: no real photographs here")
    result = evaluate("mvtec3d", tmp_path, root=root, method="rad")
    assert result.title == "RAD (clip-b16-q8), k = 32 of 48"
    assert result.run["k_views"] == 32
    (values,) = result.parts.values()
    assert values["image AUROC"] >= 0.75
    assert values[f"{AUTHORS} AUROC"] >= 0.98
    assert values[f"{PIXELS} AUROC"] >= 0.98
    assert values[f"{PIXELS} not inspected"] == pytest.approx(1 - (7 / 8) ** 2, abs=0.003)
