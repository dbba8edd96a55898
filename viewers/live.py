"""The interactive viewer: a page in the browser, served from this machine by viser."""

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rad3d.arrays import Colours, Faces, Image, Points, Pose, Vector
from rad3d.errors import DependencyError, Rad3dError, ResultError
from rad3d.geometry import bounding_sphere, inverse, unit
from rad3d.io import read_scan
from rad3d.memory import Memory
from rad3d.result import Defect, Inspection, ViewScores
from rad3d.scan import Scan
from rad3d.viewers.colours import (
    CATEGORIES,
    STAGE,
    UNSEEN,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    Quantity,
    colour_stops,
    deviation_reach,
    quantities,
    rgb,
)
from rad3d.viewers.display import thinned
from rad3d.viewers.exports import glb
from rad3d.viewers.lighting import AMBIENT, FULL, LAMPS, before_tone_mapping
from rad3d.viewers.measures import defect_measures, number, view_title
from rad3d.viewers.outlook import Outlook
from rad3d.viewers.pictures import close_up, on_stage, overlay, pair_caption, patch_pair
from rad3d.viewers.segmenting import Segmenter

if TYPE_CHECKING:
    from viser import ViserServer

log = logging.getLogger(__name__)

MESH_POINTS = 250_000
CLOUD_POINTS = 1_000_000
"""Vertices and points sent to the browser, of all items together, so that a page stays under 20 MB."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANYWHERE = ("0.0.0.0", "::")
OWN_COLOUR = "Own colour"
GAP = 0.25
"""Between specimens side by side, as share of the widest."""
BUTTON = (72, 86, 102)
FIELD_OF_VIEW = 0.75
"""Radians, of the height."""
ON_A_PHONE = """<style>@media (max-width: 36em) {
  .mantine-Paper-root[style*="max-height: 60%"] { max-height: 30% !important; width: 100% !important }
  .mantine-Paper-root[style*="max-height: 60%"] div[style*="width: 20em"] { width: 100% !important }
}</style>"""
"""Viser lays its panel over up to 60 % of a narrow window; so high it stays beneath the part, and scrolls."""
PANEL_PIXELS = 560
STEPS = 16
"""Pictures of a flight to a defect."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One thing to look at.

    Args:
        name: for people; never part of a path.
        vertices_mm: (n, 3), thinned.
        faces: (m, 3), or None.
        colours: by mode, (n, 3) uint8.
        quantities: by mode, for the legend; modes without one have no scale.
        original: how many vertices there are in truth.
        inspection: where it is a result.
        segmenter: where it is a result.
    """

    name: str
    vertices_mm: Points
    faces: Faces | None
    colours: Mapping[str, Callable[[], Colours]]
    quantities: Mapping[str, Quantity] = field(default_factory=dict)
    original: int = 0
    inspection: Inspection | None = None
    segmenter: Segmenter | None = None

    @cached_property
    def outlook(self) -> Outlook:
        """Finds where a place of it is seen from."""
        return Outlook(self.vertices_mm, self.faces)


def shown(item: Inspection | Scan | Memory, reach_mm: float | None = None, among: int = 1) -> Shown:
    """Prepare a result, a scan or a memory for display.

    Args:
        item: what to show.
        reach_mm: as for `quantities`.
        among: how many items share what a browser draws.
    """
    if isinstance(item, Inspection):
        _check_surface(item.specimen, item.vertices_mm)
        rank = np.nan_to_num(item.points.anomaly_score, nan=-np.inf)
        kept, faces = _kept(item.vertices_mm, item.faces, rank, among)
        by_title = {
            q.title: Quantity(q.name, q.label, q.unit, q.scale, q.values[kept], q.low, q.high)
            for q in quantities(item, reach_mm)
        }
        by_mode: dict[str, Callable[[], Colours]] = {title: quantity.colours for title, quantity in by_title.items()}
        own_colours = _own_colours(item)
        if own_colours is not None:
            drawn = own_colours[kept]
            by_mode[OWN_COLOUR] = lambda: drawn
        return Shown(
            name=item.specimen,
            vertices_mm=item.vertices_mm[kept].astype(np.float32),
            faces=faces,
            colours=by_mode,
            quantities=by_title,
            original=len(item.vertices_mm),
            inspection=item,
            segmenter=Segmenter(item),
        )
    if isinstance(item, Scan):
        vertices, own = item.vertices_mm, item.colours
        if not len(vertices):
            seen = [(view.points_mm, view.image) for view in item.views if view.points_mm is not None]
            where = [np.isfinite(points).all(axis=2) for points, _ in seen]
            vertices = np.concatenate([np.empty((0, 3)), *(p[w] for (p, _), w in zip(seen, where, strict=True))])
            own = np.concatenate([i[w] for (_, i), w in zip(seen, where, strict=True)]) if seen else None
        return _plain(item.specimen, vertices, item.faces, own, among)
    positions = item.points_mm.reshape(-1, 3)
    of_specimen = np.repeat(item.specimen_index, positions.shape[0] // max(len(item), 1))
    placed = np.isfinite(positions).all(axis=1)
    palette = np.stack([rgb(colour) for colour in CATEGORIES])
    colours = palette[of_specimen[placed] % len(palette)]
    part = item.specimens[0].part if item.specimens else "memory"
    return _plain(f"{part}: {int(placed.sum()):,} remembered patches", positions[placed], None, colours, among)


def _shown_of(items: Sequence[Inspection | Scan | Memory]) -> list[Shown]:
    """Those that have a surface, prepared for display: one capture that was not registered hides no other."""
    displayed, last = [], None
    reach = deviation_reach([item for item in items if isinstance(item, Inspection)])
    for item in items:
        try:
            displayed.append(shown(item, reach, len(items)))
        except ResultError as error:
            log.warning("left out: %s", error)
            last = error
    if last is not None and not displayed:
        raise last
    return displayed


def _check_surface(name: str, vertices: Points) -> None:
    if not len(vertices):
        raise ResultError(name, expected="a surface to show", got="none", remedy="look at its images instead")


def _own_colours(inspection: Inspection) -> Colours | None:
    """Colours of the scan that a result is of, None where its file is gone, has changed or has no colours."""
    if not Path(inspection.source).is_file():
        return None
    try:
        scan = read_scan(inspection.source, unit=inspection.unit)
    except Rad3dError as error:
        log.warning("without its own colours: %s", error)
        return None
    same = scan.vertices_mm.shape == inspection.vertices_mm.shape
    return scan.colours if same else None


def _plain(name: str, vertices: Points, faces: Faces | None, own: Colours | None, among: int) -> Shown:
    _check_surface(name, vertices)
    kept, thin = _kept(vertices, faces, np.zeros(len(vertices)), among)
    colours = np.full((len(kept), 3), 190, np.uint8) if own is None else own[kept]
    return Shown(name, vertices[kept].astype(np.float32), thin, {OWN_COLOUR: lambda: colours}, original=len(vertices))


def _kept(vertices: Points, faces: Faces | None, rank: np.ndarray, among: int) -> tuple[np.ndarray, Faces | None]:
    return thinned(vertices, faces, rank, (CLOUD_POINTS if faces is None else MESH_POINTS) // among)


def serve(
    items: Sequence[Inspection | Scan | Memory],
    *,
    nominal: Scan | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    block: bool = True,
) -> "Viewer":
    """Show results, scans and memories side by side; with `block` until Ctrl-C.

    A browser without WebGL shows viser's notice of that and no part; `report.write_report` has pictures for it.

    Args:
        items: what to show; results without surface are left out, with a warning.
        nominal: drawn as a ghost in each item, where that was registered; in others along their axes.
        host: address to listen at; anything but this machine's own is warned about.
        port: where to listen; the next free one if it is taken.
        block: False returns at once; call `Viewer.stop`.

    Raises:
        ResultError: nothing to show, or nothing of it has a surface.
        DependencyError: viser is not installed.
    """
    if not items:
        raise ResultError("view", expected="at least one thing to show", got="none", remedy="name results or scans")
    try:
        import viser
    except ModuleNotFoundError as error:
        raise DependencyError(
            "view", expected="the package viser", got=str(error), remedy="pip install 'rad3d[viewer]'"
        ) from error
    displayed = _shown_of(items)
    if host not in LOOPBACK:
        log.warning("listening at %s: everybody who reaches this machine can see the parts", host)
    server = viser.ViserServer(host=host, port=port, label="rad3d", verbose=False)
    if server.get_port() != port:
        log.warning("port %d is taken, using %d", port, server.get_port())
    viewer = Viewer(server, displayed, nominal)
    elsewhere = f", elsewhere at http://{socket.gethostname()}:{server.get_port()}" if host in ANYWHERE else ""
    try:
        log.info("showing at %s%s (Ctrl-C ends it)", viewer.url, elsewhere)
        if block:
            server.sleep_forever()
    except KeyboardInterrupt:
        log.info("viewer ended")
    finally:
        if block:
            viewer.stop()
    return viewer


class Viewer:
    """What is on the page and what its switches do.

    Args:
        server: viser's, already listening.
        items: what to show, side by side; so one camera looks at all of them alike.
        nominal: drawn as a ghost.
    """

    def __init__(self, server: "ViserServer", items: Sequence[Shown], nominal: Scan | None = None) -> None:
        self.server = server
        self.items = _on_one_scale(items)
        self._lock = threading.RLock()
        self._drawn: list[Any] = []
        self._ghosts: list[Any] = []
        self._markers: list[Any] = []
        self._entries: list[Any] = []
        self._offsets = _side_by_side(items)
        everything = np.concatenate(
            [s.vertices_mm[:: max(1, len(s.vertices_mm) // 5000)] + o for s, o in self._placed()]
        )
        self._centre, self._radius = bounding_sphere(everything.astype(float))
        self._radius = self._radius or 1.0
        self._stage()
        self._controls()
        if nominal is not None:
            self._ghost(nominal)
        self._recolour()
        self._resegment()
        self._ended = False
        threading.Thread(target=self._prepare, daemon=True).start()

    def stop(self) -> None:
        """End the server and free its port."""
        with self._lock:
            self._ended = True
        self.server.stop()

    @property
    def url(self) -> str:
        """Where the page is."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in ANYWHERE else host}:{self.server.get_port()}"

    @property
    def defects(self) -> list[tuple[int, Defect]]:
        """All defects at the threshold set now, each with the number of its item."""
        return [
            (index, defect)
            for index, item in enumerate(self.items)
            if item.segmenter is not None
            for defect in item.segmenter.defects(self._threshold_of(item.segmenter))
        ]

    def _placed(self) -> list[tuple[Shown, Vector]]:
        return list(zip(self.items, self._offsets, strict=True))

    def _stage(self) -> None:
        scene = self.server.scene
        scene.set_up_direction("+z")
        scene.configure_default_lights(enabled=False)
        scene.configure_environment_map(None)
        # a surface that reflects everything shows 1 / pi of the light that falls on it
        scene.add_light_ambient("/light/ambient", intensity=np.pi * FULL * AMBIENT)
        for index, (towards, share) in enumerate(LAMPS):
            scene.add_light_directional(f"/light/{index}", intensity=np.pi * FULL * share, position=towards)
        scene.set_background_image(np.full((2, 2, 3), rgb(STAGE), np.uint8), format="png")
        camera = self.server.initial_camera
        camera.position, camera.look_at = self._from_afar(1.0), _triple(self._centre)
        camera.fov, camera.near, camera.far = FIELD_OF_VIEW, 0.005 * self._radius, 100 * self._radius
        self.server.on_client_connect(self._fit)
        for index, (item, offset) in enumerate(self._placed()):
            low = item.vertices_mm.min(axis=0) + offset
            high = item.vertices_mm.max(axis=0) + offset
            top = ((low + high) / 2)[:2].tolist()
            if len(self.items) > 1:
                scene.add_label(f"/name/{index}", item.name, position=(*top, float(high[2] + 0.1 * self._radius)))

    def _from_afar(self, aspect: float) -> tuple[float, float, float]:
        """A place that sees everything in a window of that width by height."""
        distance = 1.15 * self._radius / np.sin(FIELD_OF_VIEW / 2) / min(1.0, aspect)
        return _triple(self._centre + distance * unit(np.array([-0.55, -0.85, 0.6])))

    def _fit(self, client: Any) -> None:
        """Step back where the window is narrower than high, as on a phone."""
        client.camera.position = self._from_afar(client.camera.aspect)
        client.camera.look_at = _triple(self._centre)

    def _controls(self) -> None:
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False)
        gui.main_panel.dock_right()
        gui.set_panel_label("rad3d")
        gui.add_html(self._heading())
        modes = list(dict.fromkeys(mode for item in self.items for mode in item.colours))
        self.mode = gui.add_dropdown("Colour", modes, hint="What the colours of the part show")
        self.mode.on_update(lambda _: self._recolour())
        self._legend = gui.add_html("")
        segmenters = [item.segmenter for item in self.items if item.segmenter is not None]
        if segmenters:
            # one slider for specimens with different thresholds: it scales each one's own
            top = max([s.highest / s.usual for s in segmenters if s.usual > 0] + [1.5])
            self.threshold = gui.add_slider(
                *("Threshold", 0.1, round(1.1 * top, 2), 0.01, 1.0),
                disabled=True,
                hint="Times the threshold of the inspection",
            )
            self._preparing = gui.add_html(_small("Preparing other thresholds …"))
            self.threshold.on_update(lambda _: self._resegment())
        self._show_views = None
        if any(_posed_views(item) for item in self.items):
            self._show_views = gui.add_checkbox("Camera positions", False)
            self._show_views.on_update(lambda _: self._frusta())
        self._frames: list[Any] = []
        self._explained: Callable[[], None] = self._no_close_up
        self._count = gui.add_html("")
        self._list = gui.add_folder("Defects", expand_by_default=True) if segmenters else None
        self._detail = gui.add_folder("Close up", expand_by_default=True, visible=False)
        with self._detail:
            self._words = gui.add_html("")
            self._image = gui.add_image(np.full((8, 16, 3), 255, np.uint8), format="jpeg")
            self._compared = gui.add_html("", visible=False)
            self._patches = gui.add_image(np.full((8, 16, 3), 255, np.uint8), format="jpeg", visible=False)
        gui.add_button("Save picture", color=BUTTON).on_click(self._save_picture)

    def _heading(self) -> str:
        rows = []
        for item in self.items:
            found = item.inspection
            verdict = ""
            if found is not None:
                style = f"color:{VERDICT_COLOURS[found.verdict]};font-weight:600"
                verdict = f" <span style='{style}'>{VERDICT_SYMBOLS[found.verdict]} {found.verdict}</span>"
            less = len(item.vertices_mm) < 0.99 * item.original
            note = (
                f"<br><small>drawn with {len(item.vertices_mm):,} of {item.original:,} points</small>" if less else ""
            )
            rows.append(f"<div style='overflow-wrap:anywhere'>{escape(item.name)}{verdict}{note}</div>")
        names = f"<div class='rad3d-names' style='padding:0.2em 1em;font-size:0.9em'>{''.join(rows)}</div>"
        return ON_A_PHONE + names

    def _recolour(self) -> None:
        with self._lock, self.server.atomic():
            first = not self._drawn
            for index, (item, offset) in enumerate(self._placed()):
                known = item.colours.get(self.mode.value)
                colours = np.tile(rgb(UNSEEN), (len(item.vertices_mm), 1)) if known is None else known()
                if item.faces is None and not first:
                    self._drawn[index].colors = colours
                    continue
                drawn = self._draw(f"/part/{index}", item, colours, offset)
                self._drawn[index : index + 1] = [drawn]
            scales = [item.quantities[self.mode.value] for item in self.items if self.mode.value in item.quantities]
            self._legend.content = _legend(scales[0]) if scales else ""

    def _draw(self, name: str, item: Shown, colours: Colours, offset: Vector) -> Any:
        scene = self.server.scene
        if item.faces is None:
            spacing = 2.2 * self._radius / np.sqrt(len(item.vertices_mm))
            points = item.vertices_mm.astype(np.float32)
            return scene.add_point_cloud(
                name,
                points,
                colours,
                point_size=float(spacing),
                point_shape="circle",
                precision="float32",  # in 16 bits, points 2 m from the origin would lie in layers 1 mm apart
                position=_triple(offset),
            )
        return scene.add_glb(
            name, glb(item.vertices_mm, item.faces, before_tone_mapping(colours)), position=_triple(offset)
        )

    def _ghost(self, nominal: Scan) -> None:
        """The nominal where each item lies, with a switch."""
        ghost = shown(nominal)
        if ghost.faces is None:
            raise ResultError(nominal.specimen, expected="a mesh as nominal", got="points", remedy="give its CAD mesh")
        for index, (item, offset) in enumerate(self._placed()):
            wxyz, position = _stand(_scan_from_part(item), offset)
            self._ghosts.append(
                self.server.scene.add_mesh_simple(
                    f"/nominal/{index}",
                    ghost.vertices_mm,
                    ghost.faces,
                    color=(120, 150, 180),
                    opacity=0.25,
                    side="double",
                    wxyz=wxyz,
                    position=position,
                )
            )
        switch = self.server.gui.add_checkbox("Nominal", True)

        def toggle(_: object) -> None:
            for handle in self._ghosts:
                handle.visible = switch.value

        switch.on_update(toggle)

    def _prepare(self) -> None:
        """Free the slider once its moves are quick."""
        segmenters = [item.segmenter for item in self.items if item.segmenter is not None]
        try:
            for segmenter in segmenters:
                segmenter.prepare()
        finally:  # one that cannot be segmented is told, and does not hold up the others
            with self._lock:
                if segmenters and not self._ended:
                    self.threshold.disabled, self._preparing.visible = False, False

    def _threshold_of(self, segmenter: Segmenter) -> float:
        factor = self.threshold.value
        return segmenter.usual if factor == 1.0 else factor * segmenter.usual

    def _resegment(self) -> None:
        """New list and markers for the threshold set now."""
        if self._list is None:
            return
        gui, scene = self.server.gui, self.server.scene
        with self._lock:
            found = self.defects
            with self.server.atomic():
                for handle in self._markers + self._entries:
                    handle.remove()
                self._markers, self._entries = [], []
                what = "1 defect" if len(found) == 1 else f"{len(found)} defects"
                self._count.content = f"<div class='rad3d-count' style='padding:0.2em 1em'><b>{what}</b></div>"
                for index, defect in found:
                    at = np.asarray(defect.centroid_mm) + self._offsets[index]
                    lifted = at + 0.04 * self._radius * np.asarray(defect.normal)
                    self._markers.append(
                        scene.add_label(f"/defect/{index}-{defect.id}", str(defect.id), position=_triple(lifted))
                    )
                    # the name last: a long one is cut off by the button
                    of = f", {self.items[index].name}" if len(self.items) > 1 else ""
                    label = f"{defect.id}: {number(defect.area_mm2)} mm², peak {number(defect.peak_score)}{of}"
                    with self._list:
                        button = gui.add_button(label, color=BUTTON)
                    button.on_click(self._going_to(index, defect))
                    self._entries.append(button)
            self._frusta()
            self._explained()

    def _going_to(self, index: int, defect: Defect) -> Callable[[Any], None]:
        def go(event: Any) -> None:
            self._explain(index, defect)
            if event.client is not None:
                self.fly(event.client, index, defect)

        return go

    def fly(self, client: Any, index: int, defect: Defect) -> None:
        """Move one browser's camera to look at a defect from in front of it."""
        target = np.asarray(defect.centroid_mm) + self._offsets[index]
        reach = float(np.clip(6 * defect.extent_mm[0], 0.4 * self._radius, 2 * self._radius))
        direction, reach = self.items[index].outlook.of(defect.centroid_mm, defect.normal, reach)
        start, looked = np.array(client.camera.position), np.array(client.camera.look_at)
        for step in range(1, STEPS + 1):
            share = step / STEPS
            eased = share * share * (3 - 2 * share)
            with client.atomic():
                client.camera.position = start + eased * (target + reach * direction - start)
                client.camera.look_at = looked + eased * (target - looked)
            client.flush()
            threading.Event().wait(0.025)

    def _no_close_up(self) -> None:
        """No close up: none was asked for, or what it showed was a defect at another threshold."""
        self._detail.visible = False

    def _explain(self, index: int, defect: Defect) -> None:
        """Measures and the part of a view that shows the defect, beside its heat map."""
        inspection, segmenter = self.items[index].inspection, self.items[index].segmenter
        assert inspection is not None
        assert segmenter is not None
        rows = "".join(
            f"<tr><td style='padding-right:1em;opacity:0.7'>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for name, value in defect_measures(defect, inspection)
        )
        self._words.content = f"<table style='font-size:0.85em;margin:0 1em'>{rows}</table>"
        # without a pose, a defect segmented again has no place in the part frame, which the views are in
        placed = inspection.part_from_scan is not None or defect in inspection.defects
        found = close_up(inspection, defect) if placed else None
        self._image.visible = found is not None
        if found is not None:
            view, window = found
            self._image.image = _pair(view, self._threshold_of(segmenter), window)
        compared = patch_pair(inspection, defect)
        self._compared.visible = self._patches.visible = compared is not None
        if compared is not None:
            pair, pictures = compared
            self._compared.content = _small(pair_caption(pair))
            self._patches.image = _enlarged(np.concatenate(pictures, axis=1))
        self._detail.visible = True
        self._explained = self._no_close_up

    def _frusta(self) -> None:
        """The cameras of the views; a click shows the image and its heat map."""
        if self._show_views is None:
            return
        with self._lock, self.server.atomic():
            for handle in self._frames:
                handle.remove()
            self._frames = []
            if not self._show_views.value:
                return
            for index, (item, offset) in enumerate(self._placed()):
                for number_, view in enumerate(_posed_views(item)):
                    self._frames.append(self._frustum(f"/view/{index}-{number_}", item, view, offset))

    def _frustum(self, name: str, item: Shown, view: ViewScores, offset: Vector) -> Any:
        segmenter = item.segmenter
        assert segmenter is not None
        assert view.part_from_camera is not None
        assert view.intrinsics is not None
        wxyz, position = _stand(_scan_from_part(item) @ view.part_from_camera, offset)
        height, width = view.score.shape
        step = max(1, max(height, width) // 128)
        handle = self.server.scene.add_camera_frustum(
            name,
            fov=float(2 * np.arctan(height / 2 / view.intrinsics[1, 1])),
            aspect=width / height,
            scale=0.07 * self._radius,
            image=overlay(view, self._threshold_of(segmenter))[::step, ::step],
            format="jpeg",
            wxyz=wxyz,
            position=position,
        )

        def show() -> None:
            self._words.content = f"<div style='padding:0 1em'>{escape(view_title(view.name))}</div>"
            self._compared.visible = self._patches.visible = False
            self._image.image = _pair(view, self._threshold_of(segmenter), (slice(None), slice(None)))
            self._image.visible = self._detail.visible = True
            self._explained = show

        handle.on_click(lambda _: show())
        return handle

    def _save_picture(self, event: Any) -> None:
        if event.client is None:
            return
        import io

        from PIL import Image as PilImage

        camera = event.client.camera
        picture = event.client.get_render(camera.image_height, camera.image_width, transport_format="png")
        file = io.BytesIO()
        PilImage.fromarray(on_stage(picture)).save(file, "PNG")
        event.client.send_file_download("rad3d.png", file.getvalue(), save_immediately=True)


def _on_one_scale(items: Sequence[Shown]) -> list[Shown]:
    """The items with one range per mode: the legend and equal colours then speak of all of them."""
    common = []
    for item in items:
        scaled = {}
        for title, quantity in item.quantities.items():
            alike = [other.quantities[title] for other in items if title in other.quantities]
            scaled[title] = replace(quantity, low=min(q.low for q in alike), high=max(q.high for q in alike))
        colours = {**item.colours, **{title: quantity.colours for title, quantity in scaled.items()}}
        common.append(replace(item, colours=colours, quantities=scaled))
    return common


def _posed_views(item: Shown) -> list[ViewScores]:
    """The item's views of which it is known from where they look."""
    views = () if item.inspection is None else item.inspection.views
    return [view for view in views if view.part_from_camera is not None and view.intrinsics is not None]


def _scan_from_part(item: Shown) -> Pose:
    """Where the part frame lies along the axes that the item is drawn in; as it is, where nothing is known."""
    pose = None if item.inspection is None else item.inspection.part_from_scan
    return np.eye(4) if pose is None else inverse(pose)


def _stand(pose: Pose, offset: Vector) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Quaternion and position for viser."""
    import viser.transforms as vtf

    return vtf.SO3.from_matrix(pose[:3, :3]).wxyz, _triple(pose[:3, 3] + offset)


def _side_by_side(items: Sequence[Shown]) -> list[Vector]:
    """Offsets that put the items in a row along x; the first stays where it is."""
    offsets = [np.zeros(3)]
    widths = [np.ptp(item.vertices_mm[:, 0]) for item in items]
    right = float(items[0].vertices_mm[:, 0].max())
    for item, width in zip(items[1:], widths[1:], strict=True):
        left = right + GAP * float(max(widths))
        offsets.append(np.array([left - float(item.vertices_mm[:, 0].min()), 0, 0]))
        right = left + float(width)
    return offsets


def _pair(view: ViewScores, threshold: float, window: tuple[slice, slice]) -> Image:
    """The image beside its heat map, as wide as the panel."""
    pair = np.concatenate([view.image[window], overlay(view, threshold)[window]], axis=1)
    return _enlarged(pair)


def _enlarged(picture: Image) -> Image:
    """Whole times larger, until as wide as the panel."""
    times = max(1, PANEL_PIXELS // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _small(text: str) -> str:
    return f"<div style='padding:0.4em 1em;font-size:0.8em;overflow-wrap:anywhere'>{escape(text)}</div>"


def _legend(quantity: Quantity) -> str:
    stops = ",".join(colour_stops(quantity.scale))
    ticks = "".join(f"<span>{number(v)}</span>" for v in np.linspace(quantity.low, quantity.high, 3))
    return (
        "<div class='rad3d-legend' style='padding:0.2em 1em 0.5em;font-size:0.8em'>"
        f"<div style='height:10px;border-radius:2px;background:linear-gradient(to right,{stops})'></div>"
        f"<div style='display:flex;justify-content:space-between'>{ticks}</div>"
        f"<div>{escape(quantity.title)}; <span style='display:inline-block;width:0.8em;height:0.8em;"
        f"background:{UNSEEN}'></span> not inspected</div></div>"
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
