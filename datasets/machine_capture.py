"""What a structured-light sensor would capture of a machine element on a turntable: images and organised clouds."""

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, minimum_filter

from rad3d.arrays import Image, Mask, Points, ScoreMap, Values, Vector
from rad3d.camera import Camera
from rad3d.datasets.machine_specimen import LAYER_MM, Specimen
from rad3d.geometry import face_normals_areas, inverse, look_at, rotation_about, transform_points, unit
from rad3d.render.raycast import RayCaster
from rad3d.view import View


@dataclass(frozen=True)
class Imaging:
    """How captures are made. Fixed before any method ran on them; a change needs a new version.

    Args:
        version: of these numbers.
        size_hw: image height and width.
        distance_mm: from the camera to the part's middle.
        focal_px: makes the parts fill 40 % of the image's height on average.
        views: on the turntable, evenly spaced.
        elevation: of the camera above the table in degrees, +- its spread; `extreme_elevation` is at least 25 degrees
            away from every usual viewpoint.
        azimuth_spread, roll_spread: degrees, per view and per specimen's placing.
        aim_spread_mm: how far the camera looks past the part's middle.
        light_turn: azimuth of the lamp from the camera, degrees, +- spread between specimens.
        extreme_light_turn: the range it is drawn from in the extreme subset (the other side).
        light_elevation: degrees, +- spread; `extreme_light_elevation` a range.
        light_power_spread, extreme_light_power_spread: relative, between specimens.
        lamp_radius: half of the angle the lamp fills, degrees; softens shadows.
        ambient, fill: strength beside a lamp of strength 1.
        specular, shininess: of the plastic's Blinn-Phong lobe.
        layer_tilt: standard deviation of the slope of printed layers and strands.
        strand_mm: distance of strands on flat tops.
        blur_px: standard deviation of the lens' blur.
        vignetting: loss in the corners beside the lens' cos^4 law.
        full_well, dark_noise: electrons. EMVA 1288 figures of a Sony IMX174: 32 691 and 6.83.
        exposure: share of the full well that white at strength 1 fills.
        depth_noise_mm: along the ray at right angles to the surface, growing with 1 / cos(incidence).
        depth_step_mm: quantum of the written coordinates.
        baseline_mm: from camera to projector, to its right; what the projector does not reach has no depth.
        max_incidence: degrees from which on depth is missing.
        edge_mm: depth is missing where it steps by more between neighbouring pixels.
        saturated: share of the full well from which on depth is missing.
        dropout: share of pixels without depth for no reason.
        table_spread_mm: how far from the same place on the table specimens are put.
    """

    version: int
    size_hw: tuple[int, int] = (512, 640)
    distance_mm: float = 350.0
    focal_px: float = 1800.0
    views: int = 8
    elevation: tuple[float, float] = (38.0, 2.0)
    extreme_elevation: tuple[float, float] = (67.0, 2.0)
    azimuth_spread: float = 4.0
    roll_spread: float = 1.5
    aim_spread_mm: float = 4.0
    light_turn: tuple[float, float] = (50.0, 12.0)
    extreme_light_turn: tuple[float, float] = (-170.0, -60.0)
    light_elevation: tuple[float, float] = (52.0, 6.0)
    extreme_light_elevation: tuple[float, float] = (28.0, 75.0)
    light_power_spread: float = 0.15
    extreme_light_power_spread: float = 0.45
    lamp_radius: float = 2.5
    ambient: float = 0.22
    fill: float = 0.18
    specular: float = 0.22
    shininess: float = 28.0
    layer_tilt: float = 0.10
    strand_mm: float = 0.45
    blur_px: float = 0.6
    vignetting: float = 0.12
    full_well: float = 32691.0
    dark_noise: float = 6.83
    exposure: float = 0.75
    depth_noise_mm: float = 0.05
    depth_step_mm: float = 1 / 256
    baseline_mm: float = 90.0
    max_incidence: float = 72.0
    edge_mm: float = 1.5
    saturated: float = 0.97
    dropout: float = 0.002
    table_spread_mm: float = 30.0


IMAGING = Imaging(version=1)

UP = np.array([0, 0, 1], np.float32)
TABLE_MM = 300.0
"""The table's texture repeats after this."""


@dataclass(frozen=True, eq=False)
class Capture:
    """Views of one specimen as a sensor gives them, and the truth that a sensor does not give.

    Args:
        views: in their own cameras' frames, without cameras.
        instances: per view (H, W) int32, 0 = good or background, k = defect instance k.
        on_part: per view (H, W), whether the pixel shows the part.
        cameras: the true intrinsics and part_from_camera of every view.
    """

    views: tuple[View, ...]
    instances: tuple[np.ndarray, ...]
    on_part: tuple[Mask, ...]
    cameras: tuple[Camera, ...]


@dataclass(frozen=True)
class Lamp:
    """Where the light comes from, in degrees relative to the camera's azimuth, and how strong it is."""

    turn: float
    elevation: float
    power: float


def make_capture(specimen: Specimen, seed: int, *, extreme: bool = False) -> Capture:
    """Capture one specimen.

    Args:
        specimen: a good or defective one; stands on the table as in the part frame.
        seed: of placing, lighting and noise.
        extreme: other light directions and strengths, viewpoints 25 degrees from the usual ones.
    """
    rng = np.random.default_rng([zlib.crc32(specimen.part.encode()), seed, 4, int(extreme)])
    stage = _Stage(specimen, rng)
    lamp = _lamp(rng, extreme)
    cameras = _cameras(stage.middle, rng, extreme)
    shots = [stage.shoot(camera, lamp, f"{number:03d}", rng) for number, camera in enumerate(cameras)]
    views, instances, on_part = zip(*shots, strict=True)
    return Capture(views, instances, on_part, cameras)


def _lamp(rng: np.random.Generator, extreme: bool) -> Lamp:
    if extreme:
        spread = IMAGING.extreme_light_power_spread
        turn, elevation = rng.uniform(*IMAGING.extreme_light_turn), rng.uniform(*IMAGING.extreme_light_elevation)
    else:
        spread = IMAGING.light_power_spread
        turn = IMAGING.light_turn[0] + rng.uniform(-1, 1) * IMAGING.light_turn[1]
        elevation = IMAGING.light_elevation[0] + rng.uniform(-1, 1) * IMAGING.light_elevation[1]
    return Lamp(turn, elevation, 1 + rng.uniform(-spread, spread))


def _direction(azimuth: float, elevation: float) -> Vector:
    a, e = np.radians(azimuth), np.radians(elevation)
    return np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])


def _cameras(middle: Vector, rng: np.random.Generator, extreme: bool) -> tuple[Camera, ...]:
    height, width = IMAGING.size_hw
    intrinsics = np.array([[IMAGING.focal_px, 0, width / 2], [0, IMAGING.focal_px, height / 2], [0, 0, 1.0]])
    elevation, spread = IMAGING.extreme_elevation if extreme else IMAGING.elevation
    placing = rng.uniform(-1, 1) * IMAGING.azimuth_spread
    found = []
    for number in range(IMAGING.views):
        azimuth = 360 * number / IMAGING.views + placing + rng.uniform(-1, 1) * IMAGING.azimuth_spread
        aim = middle + rng.uniform(-1, 1, 3) * IMAGING.aim_spread_mm
        eye = middle + IMAGING.distance_mm * _direction(azimuth, elevation + rng.uniform(-1, 1) * spread)
        roll = rotation_about(np.array([0.0, 0, 1]), np.radians(rng.uniform(-1, 1) * IMAGING.roll_spread))
        found.append(Camera(IMAGING.size_hw, intrinsics, look_at(eye, aim) @ roll))
    return tuple(found)


class _Stage:
    """A specimen on the table, ready to be shot."""

    def __init__(self, specimen: Specimen, rng: np.random.Generator) -> None:
        scan = specimen.scan.moved(specimen.part_from_scan)
        assert scan.faces is not None
        keep = face_normals_areas(scan.vertices_mm, scan.faces)[1] > 0
        self.instance = specimen.face_instance[keep]
        self.caster = RayCaster(scan.vertices_mm, scan.faces[keep], scan.colours)
        low, high = scan.vertices_mm.min(axis=0), scan.vertices_mm.max(axis=0)
        self.middle = (low + high) / 2
        self.radius = float(np.linalg.norm(high - low)) / 2 + 1
        self.table_turn = rotation_about(np.array([0.0, 0, 1]), rng.uniform(0, 2 * np.pi))
        self.table_turn[:2, 3] = rng.uniform(-1, 1, 2) * IMAGING.table_spread_mm
        self.layer_slope = rng.normal(0, IMAGING.layer_tilt, 512).astype(np.float32)

    def shoot(self, camera: Camera, lamp: Lamp, name: str, rng: np.random.Generator) -> tuple[View, np.ndarray, Mask]:
        """One view, its labels, and where the part is."""
        size_hw, eye = camera.size_hw, camera.centre_mm.astype(np.float32)
        rays = _unit(camera.ray_directions().reshape(-1, 3)).astype(np.float32)
        face, distance, barycentric = self._cast(eye, rays)
        part = np.flatnonzero(face >= 0)
        seen_face, seen_rays, mesh = face[part], rays[part], self.caster.mesh
        points = eye + distance[:, None] * rays
        normals = np.broadcast_to(UP, rays.shape).copy()  # of the true surface; the table's is up
        normals[part] = mesh.face_normals[seen_face]
        starts = points + np.float32(0.01) * normals
        azimuth = np.degrees(np.arctan2(*(eye - self.middle)[1::-1]))
        light = _lamp_directions(azimuth, lamp, len(rays), rng)
        lit = np.float32(lamp.power) * ~self._shadowed(starts, light)
        radiance = self._table(points) * _irradiance(normals, light, lit, azimuth, lamp)[:, None]
        printed = self._printed(points[part], mesh.normals_at(seen_face, barycentric, seen_rays))
        halfway = np.clip(np.einsum("ni,ni->n", printed, _unit(light[part] - seen_rays)), 0, None)
        gloss = IMAGING.specular * lit[part] * halfway**IMAGING.shininess
        albedo = mesh.albedo_at(seen_face, barycentric) ** 2.2
        diffuse = _irradiance(printed, light[part], lit[part], azimuth, lamp)
        radiance[part] = albedo * diffuse[:, None] + gloss[:, None]
        image, saturated = _expose(radiance.reshape(*size_hw, 3), rng)
        projector = eye + IMAGING.baseline_mm * camera.part_from_camera[:3, 0].astype(np.float32)
        incidence = -np.einsum("ni,ni->n", normals, rays)
        measured = ~self._shadowed(starts, projector - starts) & (rng.random(len(rays)) >= IMAGING.dropout)
        measured &= (incidence > np.cos(np.radians(IMAGING.max_incidence))) & ~saturated.ravel()
        measured &= ~_steps(distance.reshape(size_hw)).ravel()
        noise = IMAGING.depth_noise_mm * rng.standard_normal(len(rays), dtype=np.float32) / np.maximum(incidence, 0.3)
        cloud = transform_points(inverse(camera.part_from_camera), points + noise[:, None] * rays)
        cloud = np.round(cloud / np.float32(IMAGING.depth_step_mm)) * np.float32(IMAGING.depth_step_mm)
        cloud[~measured] = np.nan
        instance = np.zeros(len(rays), np.int32)
        instance[part] = self.instance[seen_face]
        view = View(name, "captured", image, cloud.reshape(*size_hw, 3))
        return view, instance.reshape(size_hw), (face >= 0).reshape(size_hw)

    def _cast(self, eye: Vector, rays: Points) -> tuple[np.ndarray, Values, Points]:
        """First hits: face (n,), -1 = the table; distance (n,); barycentric coordinates of the hits on the part."""
        face = np.full(len(rays), -1)
        distance = -eye[2] / rays[:, 2]
        away = float(np.linalg.norm(self.middle - eye))
        near = np.flatnonzero(rays @ unit(self.middle - eye) > np.sqrt(1 - (self.radius / away) ** 2))
        hit, far, where = self.caster.cast(eye[None], rays[near])
        first = (hit >= 0) & (far < distance[near])
        face[near[first]], distance[near[first]] = hit[first], far[first]
        return face, distance, where[first]

    def _shadowed(self, starts: Points, directions: Points) -> np.ndarray:
        """Whether the part stands in the way of rays (n, 3)."""
        directions = _unit(directions)
        to_middle = self.middle.astype(np.float32) - starts
        along = np.einsum("ni,ni->n", to_middle, directions)
        near = np.flatnonzero(np.einsum("ni,ni->n", to_middle, to_middle) - along**2 < self.radius**2)
        result = np.zeros(len(starts), bool)
        result[near] = self.caster.occluded(starts[near], directions[near])
        return result

    def _printed(self, points: Points, normals: Points) -> Points:
        """Normals tilted by the layers on sides and by the strands on flat tops."""
        layer = np.floor(points[:, 2] / LAYER_MM).astype(int)
        sign = np.where(layer % 2 == 0, 1.0, -1.0)
        across = points[:, 0] + sign * points[:, 1]
        strand = np.floor(across / np.sqrt(2) / IMAGING.strand_mm).astype(int)
        up = np.abs(normals[:, 2])
        tilt = np.zeros_like(normals)
        tilt[:, 2] = self.layer_slope[layer % 512] * (1 - up)
        tilt[:, 0] = self.layer_slope[(strand + 97 * layer) % 512] * up / np.sqrt(2)
        tilt[:, 1] = tilt[:, 0] * sign
        return _unit(normals + tilt)

    def _table(self, points: Points) -> Points:
        """Linear colours (n, 3) of the table at points on it."""
        there = transform_points(self.table_turn, points)[:, :2]
        texture = _table_texture()
        pixels = (there / TABLE_MM * len(texture)).T
        grain = map_coordinates(texture, pixels, order=1, mode="grid-wrap")
        x, y = (np.abs((there + 10) % 20 - 10) < 0.35).T
        shade = np.clip(1 + np.float32(0.55) * grain + np.float32(0.65) * (x | y), 0.05, None)
        return np.asarray(np.array([0.16, 0.15, 0.135], np.float32) * shade[:, None])


@cache
def _table_texture() -> ScoreMap:
    """A worn bench: noise of all scales (amplitude 1 / frequency), fine grain along one axis, and stains."""
    size = 1024
    rng = np.random.default_rng(20)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    pink = np.fft.irfft2(spectrum / np.maximum(frequency, 2), s=(size, size))
    grain = gaussian_filter(rng.standard_normal((size, size)), (0.6, 7), mode="wrap")
    spots = gaussian_filter((rng.random((size, size)) > 0.9994).astype(float), 2.2, mode="wrap")
    return np.asarray(
        np.clip(pink / pink.std() * 0.5 + grain / grain.std() * 0.25 - spots / spots.max() * 0.9, -1.2, 1.5)
    )


def _lamp_directions(azimuth: float, lamp: Lamp, count: int, rng: np.random.Generator) -> Points:
    """For every pixel one direction towards the lamp's disc (n, 3)."""
    towards = _direction(azimuth + lamp.turn, lamp.elevation)
    side = unit(np.cross(towards, UP))
    angle = rng.random(count, dtype=np.float32) * np.float32(2 * np.pi)
    radius = np.float32(np.tan(np.radians(IMAGING.lamp_radius))) * np.sqrt(rng.random(count, dtype=np.float32))
    across = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    axes = np.stack([side, np.cross(towards, side)]).astype(np.float32)
    return _unit(towards.astype(np.float32) + across @ axes)


def _unit(vectors: Points) -> Points:
    """`geometry.unit` for many vectors none of which is zero, three times faster."""
    return np.asarray(vectors / np.sqrt(np.einsum("ni,ni->n", vectors, vectors))[:, None])


def _irradiance(normals: Points, light: Points, lit: Values, azimuth: float, lamp: Lamp) -> Values:
    """Diffuse light (n,): the lamp where it reaches, a weak one on the other side, and the room's."""
    fill = _direction(azimuth - np.sign(lamp.turn) * 70, 35).astype(np.float32)
    direct = lit * np.clip(np.einsum("ni,ni->n", normals, light), 0, None)
    soft = IMAGING.fill * np.clip(normals @ fill, 0, None) + IMAGING.ambient * (0.6 + 0.4 * normals[:, 2])
    return np.asarray((direct + lamp.power * soft).astype(np.float32))


def _expose(radiance: np.ndarray, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Lens and sensor: blur, vignetting, shot and dark noise, 12 bits, gamma 2.2; and where the well is full."""
    blurred = gaussian_filter(radiance, (IMAGING.blur_px, IMAGING.blur_px, 0))
    light = blurred * (_vignette() * np.float32(IMAGING.exposure))[..., None]
    deviation = np.sqrt((light + np.float32(IMAGING.dark_noise**2 / IMAGING.full_well)) / np.float32(IMAGING.full_well))
    signal = np.clip(light + rng.standard_normal(light.shape, dtype=np.float32) * deviation, 0, 1)
    gamma = np.round(255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.uint8)
    image = gamma[np.round(4095 * signal).astype(np.int16)]
    brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])  # faster than max over an axis of 3
    return image, brightest > IMAGING.saturated


@cache
def _vignette() -> ScoreMap:
    """Share of the light that reaches each pixel."""
    height, width = IMAGING.size_hw
    y, x = np.mgrid[:height, :width] + 0.5 - np.array([height / 2, width / 2])[:, None, None]
    cosine = np.cos(np.arctan(np.hypot(x, y) / IMAGING.focal_px))
    corner = (x**2 + y**2) / (height**2 / 4 + width**2 / 4)
    return np.asarray((cosine**4 * (1 - IMAGING.vignetting * corner)).astype(np.float32))


def _steps(distance: ScoreMap) -> Mask:
    """Where depth steps between neighbouring pixels."""
    return np.asarray(maximum_filter(distance, 3) - minimum_filter(distance, 3) > IMAGING.edge_mm)
