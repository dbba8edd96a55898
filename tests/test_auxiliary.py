"""MRAD from the command line: labels of other parts are learned, kept apart from what is judged, and judge."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from rad3d import Inspector, cli, load_result, prompted
from rad3d.auxiliary import Auxiliary, Lessons, look_at
from rad3d.datasets import load_samples
from rad3d.datasets.machine_elements import make_specimen
from rad3d.datasets.sample import Choice
from rad3d.encoder import ClipFeatures, Encoder
from rad3d.errors import DatasetError, MemoryFormatError, SettingsError, WeightsError
from rad3d.evaluate import evaluate
from rad3d.expert import Expert
from rad3d.io import read_scan
from rad3d.labelled import LabelledMemory
from rad3d.looks import mask_at
from rad3d.methods import judge_of
from rad3d.mrad import Examples, image_scores, pixel_maps, score_train_free
from rad3d.ply import write_ply
from rad3d.progress import silently
from rad3d.settings import EncoderSettings, Settings, ViewSettings
from rad3d.view import View
from rad3d.zeroshot import inspect_zero_shot

SIZE = 112
SMALL = Settings(encoder=EncoderSettings(input_hw=(SIZE, SIZE), precision="float32"), views=ViewSettings(count=4))
ARGUMENTS = ("--encoder.input-hw", str(SIZE), str(SIZE), "--encoder.precision", "float32")
BAD = {"crack": 0, "stain": 1}


def write_part(folder: Path, seed: int, defects: int = 4) -> None:
    """4 train, 4 test/good, test/crack and test/stain: grey pictures, a defect a striped square of 32 pixels."""
    rng = np.random.default_rng(seed)
    counts = {"train/good": 4, "test/good": 4, "test/crack": defects, "test/stain": defects}
    for group, count in counts.items():
        for kind in ("rgb", "gt") if count else ():
            (folder / group / kind).mkdir(parents=True)
        for number in range(count):
            image = np.clip(120 + rng.normal(0, 6, (SIZE, SIZE, 3)) + 20 * rng.random(), 0, 255).astype(np.uint8)
            mask = np.zeros((SIZE, SIZE), np.uint8)
            if "good" not in group:
                row, column = rng.integers(0, 5, 2) * 16
                stripes = np.where(np.arange(32) // 4 % 2, 250, 5)[:, None, None]
                image[row : row + 32, column : column + 32] = stripes
                mask[row : row + 32, column : column + 32] = 255
            Image.fromarray(image).save(folder / group / "rgb" / f"{number:03d}.png")
            Image.fromarray(mask).save(folder / group / "gt" / f"{number:03d}.png")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`target` holds the part rack; `labels` gear and wheel."""
    root = tmp_path_factory.mktemp("sets")
    write_part(root / "target" / "rack", 1)
    write_part(root / "labels" / "gear", 2)
    write_part(root / "labels" / "wheel", 3)
    return root


@pytest.fixture(scope="module")
def memory(sets: Path) -> Path:
    assert run("fit", "--labelled", sets / "labels", "-o", sets / "memory", *ARGUMENTS) == 0
    return sets / "memory"


def run(*arguments: object) -> int:
    """The exit code of `rad3d ARGUMENTS`."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    return int(done.value.code or 0)


def judged(sets: Path, out: Path, method: str, **options: object) -> object:
    return evaluate("mvtec3d", out, root=sets / "target", method=method, settings=SMALL, **options)  # type: ignore[arg-type]


def test_fit_remembers_every_labelled_image_with_its_origin(memory: Path, sets: Path, capsys: object) -> None:
    found = LabelledMemory.load(memory)
    assert len(found) == 2 * 16
    assert {(image.part, image.licence) for image in found.images} == {
        (part, "CC BY-NC-SA 4.0, not for commercial use") for part in ("gear", "wheel")
    }
    assert all(len(image.sha256) == 64 and str(sets / "labels") in image.source for image in found.images)
    bad = np.array(["crack" in image.image or "stain" in image.image for image in found.images])
    np.testing.assert_array_equal(found.image_labels, bad)
    assert found.region_labels.sum() == 16
    assert (memory / "maps.safetensors").exists()
    assert run("info", memory, "--json") == 0
    described = json.loads(capsys.readouterr().out)  # type: ignore[attr-defined]
    assert (described["kind"], described["images"], described["anomalous_regions"]) == ("labelled memory", 32, 16)
    assert described["sources"][0]["licence"].startswith("CC BY")


def test_zero_shot_tables_say_so_and_find_the_defects(sets: Path, tmp_path: Path, memory: Path) -> None:
    results = {
        method: judged(sets, tmp_path / method, method, auxiliary=source)
        for method, source in (("mrad-tf", sets / "labels"), ("mrad-ft", memory))
    }
    for method, result in results.items():
        assert result.title == f"{method.upper()} (clip-b16-q8), zero-shot"  # type: ignore[attr-defined]
        assert result.parts["rack"]["image AUROC"] == 1.0  # type: ignore[attr-defined]
        assert result.parts["rack"]["pixel AUROC"] > 0.9  # type: ignore[attr-defined]
        assert result.run["auxiliary"]["parts"] == ["gear", "wheel"]  # type: ignore[attr-defined]
    again = judged(sets, tmp_path / "mrad-tf", "mrad-tf", auxiliary=sets / "labels")  # goes on from what is kept
    assert again.parts["rack"] == pytest.approx(results["mrad-tf"].parts["rack"], nan_ok=True)  # type: ignore[attr-defined]
    assert "zero-shot" in (tmp_path / "mrad-tf" / "results.md").read_text().splitlines()[0]


def test_a_prediction_is_the_papers_on_squashed_images(sets: Path, tmp_path: Path) -> None:
    judged(sets, tmp_path, "mrad-tf", auxiliary=sets / "labels")
    encoder = Encoder.load(SMALL.encoder)
    found = LabelledMemory.load(tmp_path / "memory" / "all")
    image = np.asarray(Image.open(sets / "target" / "rack" / "test" / "crack" / "rgb" / "001.png"))
    scores = score_train_free(found, encoder.encode_clip([image]), encoder.fingerprint)
    expected = image_scores(pixel_maps(scores.maps, (SIZE, SIZE)), scores.image)[0]
    kept = json.loads((tmp_path / "predictions" / "rack" / "test_crack_001" / "prediction.json").read_text())
    assert kept["score"] == pytest.approx(float(expected), abs=1e-4)


def test_labels_of_what_is_judged_are_refused(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="in both"):  # the very same set
        judged(sets, tmp_path / "a", "mrad-tf", auxiliary=sets / "target", same_part=True)
    copied = tmp_path / "copied" / "other_name"  # one image under another part's name
    write_part(copied, 5)
    image = copied / "test" / "crack" / "rgb" / "000.png"
    image.write_bytes((sets / "target" / "rack" / "test" / "stain" / "rgb" / "002.png").read_bytes())
    with pytest.raises(DatasetError, match="test_stain_002"):
        judged(sets, tmp_path / "b", "mrad-tf", auxiliary=tmp_path / "copied")
    write_part(tmp_path / "others" / "rack", 6)  # the same part, other specimens
    with pytest.raises(DatasetError, match="--same-part"):
        judged(sets, tmp_path / "c", "mrad-tf", auxiliary=tmp_path / "others")
    assert not any((tmp_path / name).exists() for name in "abc")
    told = judged(sets, tmp_path / "d", "mrad-tf", auxiliary=tmp_path / "others", same_part=True)
    assert told.title.endswith("same part, not zero-shot")  # type: ignore[attr-defined]
    assert "same part, not zero-shot" in (tmp_path / "d" / "results.md").read_text()


def test_a_part_is_not_taken_out_of_what_was_learned_together(
    sets: Path, memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("mrad-tf", "mrad-ft"):
        with pytest.raises(DatasetError, match="gear, wheel") as caught:
            judged(sets, tmp_path / "out", method, auxiliary=memory, auxiliary_parts=("gear",))
        assert caught.value.source == str(memory)
    assert run("fit", "--labelled", memory, "--labelled-parts", "wheel", "-o", tmp_path / "m") == 2
    assert "--labelled-parts" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert Auxiliary.at(memory, Choice(parts=("wheel", "gear"))).parts == ["gear", "wheel"]
    assert Auxiliary.at(sets / "labels", Choice(parts=("wheel",))).parts == ["wheel"]


def test_labels_are_needed_by_mrad_and_by_no_other(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--auxiliary"):
        judged(sets, tmp_path, "mrad-ft")
    with pytest.raises(SettingsError, match="with no other"):
        judged(sets, tmp_path, "rad", auxiliary=sets / "labels")


def test_no_anomalous_region_one_label_and_tiny_masks_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_part(tmp_path / "good" / "gear", 2, defects=0)
    assert run("fit", "--labelled", tmp_path / "good", "-o", tmp_path / "m", *ARGUMENTS) == 2
    assert "no anomalous image" in capsys.readouterr().err
    write_part(tmp_path / "tiny" / "gear", 2)
    for mask in (tmp_path / "tiny").glob("gear/test/[cs]*/gt/*.png"):
        pixels = np.zeros((SIZE, SIZE), np.uint8)
        pixels[31:33, 31:33] = 255  # where four patches meet
        Image.fromarray(pixels).save(mask)
    with caplog.at_level(logging.WARNING):
        assert run("fit", "--labelled", tmp_path / "tiny", "-o", tmp_path / "m", *ARGUMENTS) == 2
    assert "no anomalous region" in capsys.readouterr().err
    assert "no patch lies wholly in the defects of 8 images" in caplog.text
    assert not (tmp_path / "m").exists()


def test_another_encoder_and_a_memory_never_trained_are_refused(memory: Path, tmp_path: Path) -> None:
    header = json.loads((memory / "labelled.json").read_text())
    folder = Expert.load(memory, "mrad-tf").save(tmp_path / "plain")
    with pytest.raises(MemoryFormatError, match=r"maps\.safetensors"):
        Expert.load(folder, "mrad-ft")
    (folder / "labelled.json").write_text(json.dumps({**header, "fingerprint": "another"}))
    with pytest.raises(MemoryFormatError, match="another") as caught:
        Expert.load(folder, "mrad-tf").encoder  # noqa: B018
    assert caught.value.source == str(folder)
    (folder / "expert.json").write_text("{}")
    with pytest.raises(MemoryFormatError, match="fit --labelled"):
        Expert.load(folder, "mrad-tf")


def test_a_memory_of_one_label_is_named(memory: Path, tmp_path: Path) -> None:
    expert = Expert.load(memory, "mrad-tf")
    for image in expert.memory.images:
        if "good" not in image.image:
            expert = replace(expert, memory=expert.memory.remove(image=image.image))
    folder = expert.save(tmp_path / "good")
    with pytest.raises(DatasetError, match="no anomalous image") as caught:
        Expert.load(folder, "mrad-tf")
    assert caught.value.source == str(folder)


def test_mrad_clip_needs_its_text_tower(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Path:
        raise WeightsError(name, expected="text weights", got="none", remedy="fetch them")

    monkeypatch.setattr(prompted, "weights_path", none)
    pytest.importorskip("open_clip")
    with pytest.raises(WeightsError, match="text"):
        judged(sets, tmp_path / "out", "mrad-clip", auxiliary=sets / "labels")
    assert not (tmp_path / "out").exists()


def test_mrad_clip_is_fitted_and_inspects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line, with a text tower of random weights: nothing is claimed of its scores."""
    pytest.importorskip("open_clip")
    from open_clip.transformer import TextTransformer

    with torch.random.fork_rng():
        torch.manual_seed(7)
        tower = prompted.TextTower.of(TextTransformer(width=16, heads=2, layers=11, output_dim=512))
    monkeypatch.setattr(prompted.TextTower, "load", staticmethod(lambda name: tower))
    write_part(tmp_path / "labels" / "gear", 2, defects=1)
    command = ("fit", "--labelled", tmp_path / "labels", *ARGUMENTS)
    assert run(*command, "-o", tmp_path / "m", "--method", "mrad-clip") == 0
    assert "--method mrad-tf or mrad-ft or mrad-clip" in capsys.readouterr().err
    assert (tmp_path / "m" / "prompts.safetensors").exists()
    scan = make_specimen("bracket", 7, ("hole",), sizes_mm=(5.0, 6.0)).scan
    write_ply(tmp_path / "new.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
    assert run("inspect", tmp_path / "m", tmp_path / "new.ply", "-o", tmp_path / "out") == 3
    result = load_result(tmp_path / "out" / "new")
    assert result.settings["method"] == "mrad-clip"
    known = result.points.anomaly_score[np.isfinite(result.points.anomaly_score)]
    assert 0 <= known.min() < known.max() <= 1
    assert run(*command, "-o", tmp_path / "free", "--method", "mrad-tf") == 0
    assert not (tmp_path / "free" / "maps.safetensors").exists()
    assert judge_of(tmp_path / "free", None, None)[0].args[0].method == "mrad-tf"  # type: ignore[attr-defined]
    assert run("fit", tmp_path / "new.ply", "-o", tmp_path / "no", "--method", "mrad-clip") == 2
    assert "--labelled" in capsys.readouterr().err


def test_a_held_out_part_decides_how_long_is_trained() -> None:
    """Two parts whose labels contradict each other: the first epoch is the best one for the part held out."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(16, 4, 4, 6, generator=generator)
    masks = np.zeros((16, 8, 8), bool)
    masks[1::2, :4] = True
    masks[8:] = ~masks[8:]
    from rad3d.labelled import LabelledImage

    images = tuple(LabelledImage(f"i{n}", f"s{n}", "ab"[n // 8], "x", "", "", "") for n in range(16))
    image = torch.nn.functional.normalize(torch.randn(16, 6, generator=generator), dim=-1)
    lessons = Lessons(images, Examples(ClipFeatures(image, patches), masks), "f")
    assert lessons._held_out().tolist() == [False] * 8 + [True] * 8
    assert len(lessons.only(lessons._held_out()).images) == 8
    one_part = Lessons(tuple(replace(i, part="a") for i in images), lessons.examples, "f")
    assert {i.specimen for i in one_part.only(one_part._held_out()).images} == {"s0", "s12", "s2", "s6"}
    first, second = (lessons.tuned(lessons.memory()) for _ in range(2))
    assert torch.equal(first.patch_key.weight, second.patch_key.weight)


def test_an_image_with_a_cloud_is_cropped_and_its_mask_with_it() -> None:
    encoder = Encoder.load(SMALL.encoder)
    points = np.full((80, 100, 3), np.nan, np.float32)
    points[20:60, 30:70] = np.dstack(np.meshgrid(np.arange(40.0), np.arange(40.0), [300.0]))[..., :3]
    picture = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    image, box = look_at(View("v", "captured", picture), encoder) or (None, None)
    assert box == (0.0, 0.0, 1.0, 1.0)
    left, top, width, height = 0.25, 0.5, 0.5, 0.75  # to beyond the lower border
    mask = np.zeros((80, 100), bool)
    mask[40:, 25:50] = True
    found = mask_at(mask, (left, top, width, height), (60, 50))
    assert found[:40, :25].all()
    assert not found[40:].any()
    assert not found[:, 25:].any()
    assert image is not None
    assert image.shape == (SIZE, SIZE, 3)


def test_meshes_are_judged_on_their_surface_without_a_good_specimen(
    memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = make_specimen("bracket", 7, ("hole",), sizes_mm=(5.0, 6.0)).scan
    write_ply(tmp_path / "new.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
    assert run("inspect", memory, tmp_path / "new.ply", "-o", tmp_path / "out", "--method", "mrad-tf") == 3
    assert "zero-shot" in capsys.readouterr().err
    result = load_result(tmp_path / "out" / "new")
    assert (result.verdict, result.defects) == ("incomplete", ())
    known = result.points.anomaly_score[np.isfinite(result.points.anomaly_score)]
    assert len(known) > 0.5 * len(scan.vertices_mm)
    assert 0 <= known.min() < known.max() <= 1
    expert = Expert.load(memory, "mrad-ft")
    turned = inspect_zero_shot(expert, scan, SMALL)
    assert not np.allclose(turned.score, result.score)  # trained maps say something else
    from importlib.resources import files

    schema = json.loads(files("rad3d").joinpath("report.schema.json").read_text())
    jsonschema.validate(turned.report(), schema)
    assert run("inspect", memory, tmp_path / "new.ply", "-o", tmp_path / "no", "--method", "rad3d") == 2


def test_meshes_teach_too(tmp_path: Path) -> None:
    """A rendered view's defective pixels are those of the labelled vertices."""
    root = tmp_path / "set"
    for group, name, defects in (("train", "a", ()), ("test/hole", "b", ("hole",))):
        made = make_specimen("bracket", 7, defects, sizes_mm=(9.0, 10.0))
        (root / "bracket" / group).mkdir(parents=True)
        scan = made.scan
        write_ply(root / "bracket" / group / f"{name}.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
        if defects:
            labels = root / "bracket" / "test" / "gt"
            labels.mkdir()
            (labels / f"{name}.txt").write_text("\n".join(map(str, made.vertex_instance.tolist())) + "\n")
    auxiliary = Auxiliary.at(root, Choice())
    assert auxiliary.parts == ["bracket"]
    encoder = Encoder.load(SMALL.encoder)
    lessons = Lessons.of(auxiliary.samples, root, encoder, SMALL, silently, pytest.fail)
    shows = lessons.examples.masks.any(axis=(1, 2))
    of_good = np.array([image.specimen == "a" or "/a/" in image.image for image in lessons.images])
    assert not shows[of_good].any()
    assert shows[~of_good].any()
    assert len({image.sha256 for image in lessons.images}) == 2
    samples = load_samples("folder", root, Choice())
    with pytest.raises(DatasetError, match="in both"):
        auxiliary.check_apart(samples, tmp_path / "elsewhere", same_part=True)


def test_labels_speak_beside_good_specimens(memory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2, 21):
        scan = make_specimen("bracket", seed).scan
        write_ply(tmp_path / f"{seed}.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
    few = (*ARGUMENTS, "--views.count", "3")
    good = (tmp_path / "1.ply", tmp_path / "2.ply")
    assert run("fit", *good, "--labelled", memory, "-o", tmp_path / "both", *few) == 0
    inspector = Inspector.load(tmp_path / "both")
    assert inspector.expert is not None
    assert inspector.chances is not None
    assert len(inspector.chances) == inspector.patch_scores.shape[1]
    assert 0 < inspector.chances.std()
    scan = read_scan(tmp_path / "21.ply")
    found = inspector.inspect(scan)
    silent = replace(inspector, expert=None, chances=None).inspect(scan)
    known = np.isfinite(found.points.anomaly_score)
    difference = (found.points.anomaly_score - silent.points.anomaly_score)[known]
    assert difference.max() > 0.05  # raised here
    assert difference.min() < -0.02  # and lowered there
    np.testing.assert_array_equal(found.points.raw_score, silent.points.raw_score)
    capsys.readouterr()
    assert run("inspect", tmp_path / "both", tmp_path / "21.ply", "-o", tmp_path / "o", "--method", "rad3d") == 2
    assert "rad3d+mrad" in capsys.readouterr().err
