"""Every default in one place. Settings are frozen; `Settings.to_dict` and `from_dict` carry them through JSON."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from rad3d.errors import SettingsError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
Placement = Literal["coverage", "sphere", "hemisphere", "turntable"]
ViewChoice = Literal["descriptor", "viewpoint", "both", "all"]
Box = tuple[float, float, float, float, float, float]
FusionRule = Literal["consistent", "mean", "weighted", "median", "second", "max"]

ANOMALOUS = 3.0
"""Standard deviations above the usual from which a single view, or shape that no view shows, is found anomalous."""


@dataclass(frozen=True)
class EncoderSettings:
    """Which frozen ViT, and what is taken from it.

    Args:
        name: a name of `rad3d weights list`, any timm name, or the path of a local checkpoint.
        layers: blocks (0-based) whose tokens are used; empty = those of RAD for the model's depth.
        input_hw: height and width of the encoder's input, divisible by the patch size.
        precision: auto = bfloat16 where the processor computes it natively.
        batch: images per pass; None = what suits the device.
    """

    name: str = "clip-b16-q8"
    layers: tuple[int, ...] = ()
    input_hw: tuple[int, int] = (448, 448)
    precision: Precision = "auto"
    device: Device = "auto"
    batch: int | None = None


@dataclass(frozen=True)
class ViewSettings:
    """Where rendered views look from, and how finely.

    Args:
        placement: coverage = add the view that sees most unseen surface.
        count: how many views; by coverage the most, or up to twice as many where some surface was not seen yet.
        mm_per_patch: patch side on the part; the views are rendered as large as that needs and tiled.
            None = the whole part fills one encoder input; where a patch would then cover more than 6 mm, and no more
            than 8 good specimens teach, 2 x 2.
    """

    placement: Placement = "coverage"
    count: int = 16
    mm_per_patch: float | None = None


@dataclass(frozen=True)
class RetrievalSettings:
    """What RAD compares a query patch with (`rad3d.retrieval`); the defaults are those of its authors on 3D-ADAM.

    Args:
        views_by: descriptor = RAD's choice by CLS token; viewpoint = nearest camera directions; both = the
            nearest viewpoints, then the descriptor; all = every remembered view.
        k_views: how many remembered views answer.
        pos_radius: RAD's position option in patches of the grid; None = no limit, as always where images are
            cropped to the part.
    """

    views_by: ViewChoice = "descriptor"
    k_views: int = 48
    pos_radius: int | None = 1

    def __post_init__(self) -> None:
        _check("retrieval.k_views", self.k_views, 1, float("inf"))
        _check("retrieval.pos_radius", self.pos_radius or 0, 0, float("inf"))


@dataclass(frozen=True)
class SurfaceSettings:
    """Which remembered patches answer, by their place on the part (`rad3d.surface`).

    Args:
        radius_mm: how far away on the part.
        min_neighbours: at least so many answer, the nearest ones where the radius holds fewer.
        max_normal_angle: radians between the surface normals.
        max_view_angle: radians between the lines of sight.
    """

    radius_mm: float = 6.0
    min_neighbours: int = 24
    max_normal_angle: float = 0.8
    max_view_angle: float = 0.8


@dataclass(frozen=True)
class FusionSettings:
    """How the scores of several views become one score per surface point.

    Args:
        rule: see `rad3d.fusion`.
        max_incidence: radians between surface normal and line of sight up to which a view judges a point.
        depth_tolerance_mm: how far a point may lie from the view's own surface and still be the one seen.
    """

    rule: FusionRule = "consistent"
    max_incidence: float = 1.2217304763960306  # 70 degrees
    depth_tolerance_mm: float = 0.5


@dataclass(frozen=True)
class VerdictSettings:
    """When a specimen fails.

    Args:
        false_reject: asked share of good specimens that fail.
        min_coverage: share of the inspectable surface that has to be judged for a pass.
        min_area_mm2: smaller anomalous regions, with what is gone there, are no defect.
        min_depth_mm: material that is missing or in excess by less is no defect; what is surface only has no depth.
        unjudged_boxes_mm: boxes of the part frame, two opposite corners each, in which nothing is judged.
        unjudged_colour: surface that has this colour in the nominal is not judged (each channel within 8 of 255).
        min_score: no score up to this is a defect, in standard deviations of good specimens, however alike they are.
    """

    false_reject: float = 0.05
    min_coverage: float = 0.95
    min_area_mm2: float = 0.5
    min_depth_mm: float = 0.0
    unjudged_boxes_mm: tuple[Box, ...] = ()
    unjudged_colour: tuple[int, int, int] | None = None
    min_score: float = ANOMALOUS


@dataclass(frozen=True)
class Settings:
    """All settings of an inspection.

    >>> Settings.from_dict(Settings().to_dict()) == Settings()
    True
    """

    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    verdict: VerdictSettings = field(default_factory=VerdictSettings)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("verdict.false_reject", self.verdict.false_reject, 0.0, 1.0),
            ("verdict.min_score", self.verdict.min_score, 0.0, float("inf")),
            ("verdict.min_coverage", self.verdict.min_coverage, 0.0, 1.0),
            ("verdict.min_area_mm2", self.verdict.min_area_mm2, 0.0, float("inf")),
            ("verdict.min_depth_mm", self.verdict.min_depth_mm, 0.0, float("inf")),
            ("views.count", self.views.count, 1, 1000),
            ("surface.radius_mm", self.surface.radius_mm, 1e-3, 1e6),
            ("surface.min_neighbours", self.surface.min_neighbours, 1, float("inf")),
            ("fusion.max_incidence", self.fusion.max_incidence, 0.0, 1.5707963267948966),
        ):
            _check(name, value, low, high)
        if self.views.mm_per_patch is not None:
            _check("views.mm_per_patch", self.views.mm_per_patch, 1e-3, 1e3)
        if self.encoder.batch is not None:
            _check("encoder.batch", self.encoder.batch, 1, 4096)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Settings":
        """The inverse of `to_dict`; unknown names are an error."""
        parts = {part.name: part.default_factory for part in fields(Settings)}
        groups = {}
        for name, group in values.items():
            kind = parts.get(name)
            known = {f.name for f in fields(kind)} if kind is not None else set()  # type: ignore[arg-type]
            if kind is None or not set(group) <= known:
                raise SettingsError(
                    f"settings.{name}",
                    expected=f"one of {sorted(known or parts)}",
                    got=f"{sorted(group)}",
                    remedy="the file was written by another version of rad3d; fit again",
                )
            groups[name] = kind(**{key: _frozen(value) for key, value in group.items()})  # type: ignore[operator]
        return Settings(**groups)


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is None or not low <= value <= high:
        raise SettingsError(name, expected=f"a value from {low} to {high}", got=f"{value}", remedy="change the setting")


def _frozen(value: Any) -> Any:
    """Lists of JSON as tuples."""
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
