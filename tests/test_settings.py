"""Settings travel through JSON unchanged, and refuse what makes no sense."""

import json

import pytest

from rad3d.errors import SettingsError
from rad3d.settings import EncoderSettings, FusionSettings, Settings, SurfaceSettings, VerdictSettings, ViewSettings

CHANGED = Settings(
    encoder=EncoderSettings("dinov2-s", (1, 2), (224, 336), "float32", "cpu", 3),
    views=ViewSettings("turntable", 5, 0.7),
    surface=SurfaceSettings(3.0, 7, 0.5, 0.6),
    fusion=FusionSettings("median", 1.0, 0.2),
    verdict=VerdictSettings(
        0.1, 0.8, 2.0, 0.3, ((0.0, 0.0, 0.0, 5.0, 5.0, 5.0), (-1.0, 2.0, 0.0, 3.0, 4.0, 1.0)), (255, 0, 0)
    ),
)


@pytest.mark.parametrize("settings", [Settings(), CHANGED])
def test_settings_survive_json(settings):
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_unknown_names_are_refused_by_name():
    with pytest.raises(SettingsError, match="colour"):
        Settings.from_dict({"views": {"colour": "red"}})
    with pytest.raises(SettingsError, match="taste"):
        Settings.from_dict({"taste": {}})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("false_reject", {"verdict": VerdictSettings(false_reject=1.5)}),
        ("min_score", {"verdict": VerdictSettings(min_score=-1.0)}),
        ("min_score", {"verdict": VerdictSettings(min_score=None)}),
        ("false_reject", {"verdict": VerdictSettings(false_reject=None)}),
        ("count", {"views": ViewSettings(count=None)}),
        ("count", {"views": ViewSettings(count=0)}),
        ("mm_per_patch", {"views": ViewSettings(mm_per_patch=-1.0)}),
        ("mm_per_patch", {"views": ViewSettings(mm_per_patch=0.0)}),
        ("batch", {"encoder": EncoderSettings(batch=0)}),
        ("max_incidence", {"fusion": FusionSettings(max_incidence=3.0)}),
        ("radius_mm", {"surface": SurfaceSettings(radius_mm=0.0)}),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, wrong):
    with pytest.raises(SettingsError, match=name):
        Settings(**wrong)
