"""Still pictures of a result: the part in colours, each defect close up, the views with heat maps."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as PilImage
from scipy.ndimage import binary_dilation

from rad3d.arrays import Image, Indices, Mask, Vector
from rad3d.camera import Camera
from rad3d.geometry import look_at, unit
from rad3d.render.raycast import RayCaster
from rad3d.render.shading import pixel_rays, shade
from rad3d.render.splat import Splatter
from rad3d.result import Defect, Inspection, PatchPair, ViewScores, heat_colours
from rad3d.scan import Scan
from rad3d.viewers.colours import STAGE, Quantity, rgb
from rad3d.viewers.display import Display
from rad3d.viewers.measures import number, view_title
from rad3d.viewers.outlook import UNKNOWN

HEAT_ALPHA = 0.6
SIDES = (UNKNOWN, -UNKNOWN)
"""Two opposite directions that together show most of a part."""
ANGLE = 0.5
"""Field of view in radians: narrow, so that a part looks as in a drawing."""
SHADE = 0.25
"""How much of the brightness is light and shadow; the rest stays as in the legend, which is why it is little."""
GREY_ALBEDO = 0.75
NEAREST = 3


def cameras_of_part(display: Display, size_hw: tuple[int, int] = (360, 480)) -> list[Camera]:
    """From two opposite sides, the whole part in the picture."""
    centre, radius = display.sphere
    return [_towards(centre, side, 1.02 * radius, size_hw) for side in SIDES]


def camera_of_defect(display: Display, defect: Defect, size_hw: tuple[int, int] = (200, 260)) -> Camera:
    """From in front of the defect and a little from the side, so that its depth and surroundings can be seen."""
    _, radius = display.sphere
    reach = float(np.clip(1.1 * defect.extent_mm[0], 0.06 * radius, radius))
    centre = np.asarray(defect.centroid_mm, float)
    side, free = display.outlook.of(centre, defect.normal, reach / np.sin(ANGLE / 2))
    return _towards(centre, side, free * np.sin(ANGLE / 2), size_hw)


def _towards(centre: Vector, side: Vector, radius: float, size_hw: tuple[int, int]) -> Camera:
    """A camera on that side that sees a sphere in full."""
    eye = centre + unit(side) * radius / np.sin(ANGLE / 2)
    return Camera.from_field_of_view(size_hw, ANGLE, look_at(eye, centre))


def drawn(display: Display, cameras: Sequence[Camera], shown: Sequence[Quantity]) -> list[list[np.ndarray]]:
    """What each camera sees, in each quantity's colours (H, W, 4) uint8, blended between vertices; no background."""
    seen = _cloud_seen(display, cameras) if display.faces is None else _mesh_seen(display, cameras)
    palettes = [quantity.colours().astype(np.float32) for quantity in shown]
    pictures: list[list[np.ndarray]] = []
    for surface, vertices, weights, light in seen:
        pictures.append([])
        for palette in palettes:
            picture = np.zeros((*surface.shape, 4), np.uint8)
            blended = sum(weights[:, k, None] * palette[vertices[:, k]] for k in range(vertices.shape[1]))
            picture[surface, :3] = ((1 - SHADE + SHADE * light) * blended).round()
            picture[surface, 3] = 255
            pictures[-1].append(picture)
    return pictures


Seen = tuple[Mask, Indices, np.ndarray, np.ndarray]
"""The pixels (H, W) with surface; of each (n, k) vertices, their weights, and (n, 1) how much light falls there."""


def _mesh_seen(display: Display, cameras: Sequence[Camera]) -> Iterator[Seen]:
    """Cast as it is: unlike for `renderer_for`, no coarse triangle is refined and no pixel sampled twice."""
    assert display.faces is not None
    caster = RayCaster(display.vertices_mm.astype(float), display.faces)
    for camera in cameras:
        height, width = camera.size_hw
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = pixel_rays(camera, np.stack([x.ravel(), y.ravel()], axis=1))
        face, _, weights = caster.cast(camera.centre_mm, rays)
        hit = face >= 0
        normals = caster.mesh.normals_at(face[hit], weights[hit], rays[hit])
        light = shade(np.ones((len(normals), 1)), normals, camera.part_from_camera)
        yield hit.reshape(height, width), caster.mesh.faces[face[hit]], weights[hit], light


def _cloud_seen(display: Display, cameras: Sequence[Camera]) -> Iterator[Seen]:
    splatter = Splatter(Scan("shown", vertices_mm=display.vertices_mm.astype(float)))
    count = min(NEAREST, len(display.vertices_mm))
    for view in splatter.render(cameras):
        assert view.points_mm is not None
        surface = np.isfinite(view.points_mm).all(axis=2)
        distance, nearest = display.tree.query(view.points_mm[surface], k=list(range(1, count + 1)), workers=-1)
        weight = 1 / np.maximum(distance, 1e-9) ** 2
        light = np.minimum(view.image[surface].mean(axis=1, keepdims=True) / (255 * GREY_ALBEDO), 1)
        yield surface, nearest, weight / weight.sum(axis=1, keepdims=True), light


def overlay(view: ViewScores, threshold: float) -> Image:
    """The view's image (H, W, 3) with its heat map laid over where it was judged, the anomalous region outlined."""
    judged = np.isfinite(view.score)
    picture = view.image.copy()
    grey = picture[judged].sum(axis=1, keepdims=True, dtype=np.uint16) * np.float32((1 - HEAT_ALPHA) / 3)
    mixed = grey + np.float32(HEAT_ALPHA) * heat_colours(view.score[judged], threshold)
    picture[judged] = mixed.round()
    return outlined(picture, np.nan_to_num(view.score, nan=-np.inf) > threshold)


def reduced(view: ViewScores, longest: int) -> ViewScores:
    """The view at a whole fraction of its size, its longest side still at least `longest` pixels."""
    step = max(1, max(view.score.shape) // longest)
    image = np.asarray(PilImage.fromarray(view.image).reduce(step))
    return replace(view, image=image, score=view.score[::step, ::step])


def outlined(picture: Image, region: Mask) -> Image:
    """The picture (H, W, 3) with a white line around the region and a black one around that."""
    if not region.any():
        return picture
    picture = picture.copy()
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(at[0] - 2, 0), at[-1] + 3) for at in (rows, columns))
    part, region = picture[box], region[box]
    near = binary_dilation(region)
    part[binary_dilation(near) & ~region] = 0
    part[near & ~region] = 255
    return picture


def close_up(
    inspection: Inspection, defect: Defect, margin: float = 1.4
) -> tuple[ViewScores, tuple[slice, slice]] | None:
    """The view that shows most of the defect, and where in it; None where no posed view shows it."""
    best, most = None, 0
    for view in inspection.views:
        if view.part_from_camera is None or view.intrinsics is None:
            continue
        camera = Camera(view.score.shape, view.intrinsics, view.part_from_camera)
        pixel, depth = camera.project(np.array([defect.centroid_part_mm], float))
        if not depth[0] > 0:
            continue
        half = int(np.ceil(max(margin * defect.extent_mm[0] * view.intrinsics[0, 0] / depth[0], 16)))
        x, y = np.floor(pixel[0]).astype(int)
        window = (slice(max(y - half, 0), max(y + half, 0)), slice(max(x - half, 0), max(x + half, 0)))
        hot = int((np.nan_to_num(view.score[window], nan=-np.inf) > inspection.point_threshold).sum())
        # half a window of a neighbouring defect is no picture of this one: its middle has to be judged as well
        middle = view.score[max(y - 1, 0) : max(y + 2, 0), max(x - 1, 0) : max(x + 2, 0)]
        if hot > most and np.isfinite(middle).any():
            best, most = (view, window), hot
    return best


def cut_out(view: ViewScores, window: tuple[slice, slice]) -> ViewScores:
    """What of a view shows in a window, as `close_up` finds them."""
    return replace(view, image=view.image[window], score=view.score[window])


def patch_pair(inspection: Inspection, defect: Defect) -> tuple[PatchPair, list[Image]] | None:
    """What was compared for a defect, with its pictures: its patch and, where remembered, the good one, outlined.

    A defect that was segmented at another threshold has the patch of the inspection's own defect there.
    """
    known = defect.id if defect in inspection.defects else _found_there(inspection, defect)
    pair = next((pair for pair in inspection.evidence if pair.defect == known), None)
    if pair is None:
        return None
    pictures = []
    for image in (pair.image, pair.good_image):
        if image is not None:
            fifth = image.shape[0] // 5
            patch = np.zeros(image.shape[:2], bool)
            patch[2 * fifth : 3 * fifth, 2 * fifth : 3 * fifth] = True
            pictures.append(outlined(image, patch))
    return pair, pictures


def _found_there(inspection: Inspection, defect: Defect) -> int:
    """The id of the inspection's own defect that lies where another segmentation has this one; 0 without one."""
    marked = np.flatnonzero(inspection.points.defect_id > 0)
    if not len(marked):
        return 0
    away_mm = np.linalg.norm(inspection.vertices_mm[marked] - np.asarray(defect.centroid_mm), axis=1)
    nearest = int(away_mm.argmin())
    return int(inspection.points.defect_id[marked[nearest]]) if away_mm[nearest] <= defect.extent_mm[0] / 2 else 0


def pair_caption(pair: PatchPair) -> str:
    """What the two pictures are, in a sentence."""
    good = f"{view_title(pair.good_view)} of {pair.specimen}"
    beside = f"beside the good patch most like it, in {good}" if pair.good_image is not None else f"most like {good}"
    return (
        f"Its patch least like any good one, in {view_title(pair.view)}, {beside}; raw score {number(pair.raw_score)}"
    )


def webp(picture: np.ndarray, longest: int = 448) -> bytes:
    """A picture (H, W, 3 or 4) as WebP, no side longer than asked."""
    image = PilImage.fromarray(picture)
    image.thumbnail((longest, longest), PilImage.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=82, method=2)
    return file.getvalue()


def on_stage(picture: np.ndarray) -> Image:
    """A picture (H, W, 4) before the colour of the stage (H, W, 3)."""
    alpha = picture[..., 3:] / 255
    return np.asarray((picture[..., :3] * alpha + rgb(STAGE) * (1 - alpha)).round().astype(np.uint8))
