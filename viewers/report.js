"use strict";
// Turns the still pictures of a specimen into a part that can be turned, where the browser has WebGL.
(() => {
  const nonce = document.currentScript.nonce; // the page's policy runs no other script
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const parts = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const UNSEEN = parts(getComputedStyle(document.documentElement).getPropertyValue("--unseen").trim());
  const HOLE = 65535; // the step that stands for "no value"
  const START = { azimuth: -2.2, elevation: 0.55 };
  const STEEPEST = Math.PI / 2 - 0.01;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  let library = null;
  const three = () => {
    library ??= (async () => {
      const script = document.createElement("script");
      script.nonce = nonce;
      script.textContent = new TextDecoder().decode(await inflate(document.getElementById("three").textContent));
      document.head.append(script);
      return window.THREE;
    })();
    return library;
  };

  const hasWebGL = () => {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return context !== null;
  };

  const decode = async (scene) => {
    const steps = new Uint16Array(await inflate(scene.vertices));
    scene.positions = Float32Array.from(steps, (step, k) => scene.low[k % 3] + step * scene.step[k % 3]);
    scene.corners = scene.faces && new Uint32Array(await inflate(scene.faces));
    for (const quantity of scene.quantities) {
      const values = new Uint16Array(await inflate(quantity.values));
      quantity.decoded = Float32Array.from(values, (step) => (step === HOLE ? NaN : quantity.low + step * quantity.step));
      quantity.rgb = quantity.colours.map(parts);
    }
  };

  const colours = (quantity) => {
    const { decoded, rgb, from, to } = quantity;
    const result = new Uint8Array(3 * decoded.length);
    decoded.forEach((value, k) => {
      const place = clamp((value - from) / (to - from), 0, 1) * (rgb.length - 1);
      const below = Math.min(Math.floor(place), rgb.length - 2);
      for (let c = 0; c < 3; c++)
        result[3 * k + c] = Number.isNaN(value)
          ? UNSEEN[c] : rgb[below][c] + (rgb[below + 1][c] - rgb[below][c]) * (place - below);
    });
    return result;
  };

  const readable = (value, unit) =>
    Number.isNaN(value) ? "not inspected" : `${Number(value.toPrecision(3))}${unit ? " " + unit : ""}`;

  const element = (tag, className, text = "") => {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  };

  // One specimen's drawing; only the visible specimen has one, since browsers allow few WebGL contexts.
  class Drawing {
    constructor(page) {
      this.page = page;
      this.stage = page.querySelector(".stage");
      this.plot = page.querySelector(".plot");
      this.readout = page.querySelector(".readout");
      this.hint = this.readout.textContent;
      this.fingers = new Map();
      this.asked = false;
    }

    async open() {
      const THREE = await three();
      if (!this.data) {
        this.data = JSON.parse(this.page.querySelector(".scene").textContent);
        await decode(this.data);
        this.quantity = this.data.quantities[0];
        this.furnish();
        this.listen();
        this.home();
      }
      if (this.page.hidden) return;
      this.renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true });
      this.renderer.setPixelRatio(window.devicePixelRatio);
      this.camera = new THREE.PerspectiveCamera(this.data.field_of_view, 1, 1, 10);
      this.camera.up.set(0, 0, 1);
      // together no more than 1, and little of it from the lamp: colours stay those of the legend
      const lamp = new THREE.DirectionalLight(0xffffff, 0.18);
      lamp.position.set(-0.5, 0.9, 0.7);
      this.camera.add(lamp, lamp.target);
      this.world = new THREE.Scene();
      this.world.add(this.camera, new THREE.AmbientLight(0xffffff, 0.82), this.surface(THREE), this.boxes(THREE));
      this.caster = new THREE.Raycaster();
      this.caster.params.Points.threshold = 0.01 * this.data.radius;
      this.page.classList.add("drawn");
      this.plot.hidden = false;
      this.plot.prepend(this.renderer.domElement);
      this.watcher = new ResizeObserver(() => this.resize());
      this.watcher.observe(this.plot);
      this.recolour();
      this.resize();
      this.draw();
      this.page.dataset.ready = "yes";
    }

    close() {
      if (!this.renderer) return;
      this.watcher.disconnect();
      this.part.geometry.dispose();
      this.frames.geometry.dispose();
      this.renderer.dispose();
      this.renderer.forceContextLoss();
      this.renderer.domElement.remove();
      this.renderer = null;
      delete this.page.dataset.ready;
    }

    surface(THREE) {
      const { positions, corners, count } = this.data;
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
      geometry.setAttribute("color", new THREE.BufferAttribute(new Uint8Array(3 * count), 3, true));
      if (corners) {
        geometry.setIndex(new THREE.BufferAttribute(corners, 1));
        const paint = { vertexColors: true, flatShading: true, side: THREE.DoubleSide, specular: 0x000000 };
        this.part = new THREE.Mesh(geometry, new THREE.MeshPhongMaterial(paint));
      } else {
        const size = 2.4 * this.data.radius / Math.sqrt(count) + 0.004 * this.data.radius;
        this.part = new THREE.Points(geometry, new THREE.PointsMaterial({ vertexColors: true, size }));
      }
      return this.part;
    }

    // Around each defect; two corners whose numbers differ in one bit share an edge.
    boxes(THREE) {
      const ends = this.data.defects.flatMap(({ box }) => box.flatMap((corner, k) =>
        [1, 2, 4].filter((bit) => !(k & bit)).flatMap((bit) => [...corner, ...box[k | bit]])));
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.BufferAttribute(Float32Array.from(ends), 3));
      this.frames = new THREE.LineSegments(geometry, new THREE.LineBasicMaterial({ color: 0x0080ff }));
      this.frames.visible = this.boxed.getAttribute("aria-pressed") === "true";
      return this.frames;
    }

    // Switches, legend and defect markers: ordinary elements, so that they can be read and reached by keyboard.
    furnish() {
      const modes = this.page.querySelector(".modes");
      for (const quantity of this.data.quantities) {
        const label = document.createElement("label");
        const input = Object.assign(document.createElement("input"), {
          type: "radio", name: `mode-${this.page.id}`, value: quantity.name, checked: quantity === this.quantity,
        });
        input.addEventListener("change", () => {
          this.quantity = quantity;
          this.recolour();
        });
        label.append(input, element("span", "", quantity.title));
        modes.append(label);
      }
      modes.hidden = false;
      this.readout.hidden = false;
      this.legend = element("div", "legend");
      this.markers = this.data.defects.map((defect, index) => {
        const marker = element("button", "marker", defect.id);
        marker.type = "button";
        marker.setAttribute("aria-label", `Go to defect ${defect.id}`);
        marker.addEventListener("click", () => this.fly(index));
        return marker;
      });
      const save = element("button", "", "Save picture");
      save.type = "button";
      save.addEventListener("click", () => this.save());
      this.boxed = element("button", "", "Boxes");
      this.boxed.type = "button";
      this.boxed.title = "Boxes around the defects";
      this.boxed.setAttribute("aria-pressed", "false");
      this.boxed.hidden = !this.data.defects.some(({ box }) => box.length);
      this.boxed.addEventListener("click", () => {
        this.frames.visible = !this.frames.visible;
        this.boxed.setAttribute("aria-pressed", String(this.frames.visible));
        this.draw();
      });
      const tools = element("div", "tools");
      tools.append(save, this.boxed);
      this.plot.append(...this.markers, tools);
      this.stage.after(this.legend);
    }

    listen() {
      const { stage, plot, fingers } = this;
      stage.addEventListener("keydown", (event) => this.key(event));
      plot.addEventListener("contextmenu", (event) => event.preventDefault());
      plot.addEventListener("pointerdown", (event) => {
        if (event.target.closest("button")) return;
        plot.setPointerCapture(event.pointerId);
        fingers.set(event.pointerId, event);
      });
      for (const end of ["pointerup", "pointercancel"]) plot.addEventListener(end, (event) => fingers.delete(event.pointerId));
      plot.addEventListener("pointermove", (event) => this.drag(event));
      plot.addEventListener("pointerleave", () => (this.readout.textContent = this.hint));
      plot.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.look({ distance: this.view.distance * Math.exp(0.0012 * event.deltaY) });
      }, { passive: false });
      for (const button of this.page.querySelectorAll(".fly")) {
        button.disabled = false;
        button.addEventListener("click", () => {
          this.fly(Number(button.dataset.defect));
          const box = stage.getBoundingClientRect();
          if (box.bottom < 60 || box.top > window.innerHeight - 60)
            stage.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
        });
      }
    }

    drag(event) {
      const before = this.fingers.get(event.pointerId);
      if (!before) return void this.point(event);
      const across = event.clientX - before.clientX;
      const down = event.clientY - before.clientY;
      if (this.fingers.size === 2) {
        const [a, b] = [...this.fingers.values()];
        const other = a.pointerId === event.pointerId ? b : a;
        const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
        this.look({ distance: this.view.distance * apart(before) / apart(event), target: this.panned(across / 2, down / 2) });
      } else if (event.shiftKey || event.buttons === 2) this.look({ target: this.panned(across, down) });
      else this.look({ azimuth: this.view.azimuth - 0.007 * across, elevation: this.view.elevation + 0.007 * down });
      this.fingers.set(event.pointerId, event);
    }

    // The point looked at, moved so that the part follows the pointer by so many pixels.
    panned(across, down) {
      const perPixel = 2 * this.view.distance * Math.tan(this.data.field_of_view * Math.PI / 360) / this.plot.clientHeight;
      const axes = this.camera.matrixWorld.elements;
      return this.view.target.map((value, k) => value + perPixel * (down * axes[4 + k] - across * axes[k]));
    }

    // Read the values under the pointer, once per frame.
    point(event) {
      if (event.pointerType === "touch") return;
      this.pointer = event;
      if (this.asked) return;
      this.asked = true;
      requestAnimationFrame(() => {
        this.asked = false;
        if (!this.renderer) return;
        const box = this.plot.getBoundingClientRect();
        const x = 2 * (this.pointer.clientX - box.left) / box.width - 1;
        const y = 1 - 2 * (this.pointer.clientY - box.top) / box.height;
        this.caster.setFromCamera({ x, y }, this.camera);
        const [hit] = this.caster.intersectObject(this.part);
        this.readout.textContent = hit ? this.said(hit) : this.hint;
      });
    }

    said(hit) {
      const { positions, quantities } = this.data;
      const at = (k) => [0, 1, 2].map((c) => positions[3 * k + c]);
      const far = (k) => Math.hypot(...at(k).map((value, c) => value - hit.point.getComponent(c)));
      const candidates = hit.face ? [hit.face.a, hit.face.b, hit.face.c] : [hit.index];
      const nearest = candidates.reduce((a, b) => (far(b) < far(a) ? b : a));
      const values = quantities.map((q) => `${q.title.replace(/ \[.*\]$/, "")} ${readable(q.decoded[nearest], q.unit)}`);
      return `At ${at(nearest).map((value) => value.toFixed(1)).join(", ")} mm: ${values.join(" · ")}`;
    }

    whole() {
      const narrow = Math.min(1, this.plot.clientWidth / (this.plot.clientHeight || 1) || 1);
      return 1.02 * this.data.radius / Math.sin(this.data.field_of_view * Math.PI / 360) / narrow;
    }

    home() {
      this.view = { ...START, distance: this.whole(), target: [...this.data.centre] };
    }

    look(change) {
      const { radius } = this.data;
      Object.assign(this.view, change);
      this.view.elevation = clamp(this.view.elevation, -STEEPEST, STEEPEST);
      this.view.distance = clamp(this.view.distance, 0.05 * radius, 30 * radius);
      this.draw();
    }

    async travel(to) {
      const from = structuredClone(this.view);
      const turn = ((to.azimuth - from.azimuth + Math.PI) % (2 * Math.PI) + 2 * Math.PI) % (2 * Math.PI) - Math.PI;
      const trip = (this.trip = {}); // a later flight ends this one
      const start = performance.now();
      for (;;) {
        const share = calm ? 1 : Math.min((performance.now() - start) / 500, 1);
        const t = share * share * (3 - 2 * share);
        this.look({
          azimuth: from.azimuth + t * turn,
          elevation: from.elevation + t * (to.elevation - from.elevation),
          distance: from.distance * (to.distance / from.distance) ** t,
          target: from.target.map((value, k) => value + t * (to.target[k] - value)),
        });
        if (share === 1 || this.trip !== trip) return;
        await new Promise(requestAnimationFrame);
      }
    }

    fly(index) {
      const { at, side, distance } = this.data.defects[index];
      for (const button of this.page.querySelectorAll(".fly"))
        button.setAttribute("aria-pressed", String(Number(button.dataset.defect) === index));
      return this.travel({
        target: [...at],
        distance,
        azimuth: Math.atan2(side[1], side[0]),
        elevation: Math.asin(side[2]),
      });
    }

    key(event) {
      if (event.target !== this.stage) return;
      const { azimuth, elevation, distance } = this.view;
      const change = {
        ArrowLeft: { azimuth: azimuth - 0.12 }, ArrowRight: { azimuth: azimuth + 0.12 },
        ArrowUp: { elevation: elevation + 0.12 }, ArrowDown: { elevation: elevation - 0.12 },
        "+": { distance: distance / 1.15 }, "=": { distance: distance / 1.15 }, "-": { distance: distance * 1.15 },
      }[event.key];
      if (event.key === "Home") this.travel({ ...START, distance: this.whole(), target: this.data.centre });
      else if (change) this.look(change);
      else return;
      event.preventDefault();
    }

    recolour() {
      const { colours: stops, title, labels, from, to, marks } = this.quantity;
      const attribute = this.part.geometry.getAttribute("color");
      attribute.array.set(colours(this.quantity));
      attribute.needsUpdate = true;
      const bar = element("div", "gradient");
      bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
      for (const { value, name } of marks) {
        const mark = element("span", "threshold");
        mark.style.left = `${100 * clamp((value - from) / (to - from), 0, 1)}%`;
        mark.title = name;
        bar.append(mark);
      }
      const ticks = element("div", "ticks");
      ticks.append(...labels.map((label) => element("span", "", label)));
      const scale = element("div", "scale");
      scale.append(bar, ticks);
      const unseen = element("div", "none", "not inspected");
      this.legend.replaceChildren(element("div", "name", title), scale, unseen);
      this.draw();
    }

    resize() {
      if (!this.renderer || !this.plot.clientWidth) return;
      this.renderer.setSize(this.plot.clientWidth, this.plot.clientHeight);
      this.camera.aspect = this.plot.clientWidth / this.plot.clientHeight;
      if (!this.sized) this.view.distance = this.whole();
      this.sized = true;
      this.draw();
    }

    draw() {
      if (!this.renderer) return;
      const { azimuth, elevation, distance, target } = this.view;
      const { radius } = this.data;
      const side = [Math.cos(azimuth) * Math.cos(elevation), Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation)];
      this.camera.position.set(...target.map((value, k) => value + distance * side[k]));
      this.camera.lookAt(...target);
      this.camera.near = Math.max(distance - 4 * radius, 0.01 * distance);
      this.camera.far = distance + 4 * radius;
      this.camera.updateProjectionMatrix();
      this.camera.updateMatrixWorld();
      this.renderer.render(this.world, this.camera);
      this.markers.forEach((marker, k) => this.place(marker, this.data.defects[k]));
      this.cover();
    }

    // Once the camera rests: markers are faint where the part stands before their defects. One a frame, since a ray
    // through a large part takes a while.
    async cover() {
      const rest = (this.rest = {}); // a later move ends this one
      await new Promise((resolve) => setTimeout(resolve, 150));
      const eye = this.camera.position.clone();
      for (const [k, { at, size }] of this.data.defects.entries()) {
        if (this.rest !== rest || !this.renderer) return;
        const way = new window.THREE.Vector3(...at).sub(eye);
        const free = way.length() - Math.max(0.03 * this.data.radius, size);
        this.caster.set(eye, way.normalize());
        const [hit] = this.caster.intersectObject(this.part);
        this.markers[k].classList.toggle("covered", hit !== undefined && hit.distance < free);
        await new Promise(requestAnimationFrame);
      }
    }

    // A marker stands on its defect, and is faint where that faces away.
    place(marker, { at, normal }) {
      const seen = new window.THREE.Vector3(...at).project(this.camera);
      const eye = this.camera.position.toArray();
      const facing = normal.reduce((sum, value, k) => sum + value * (eye[k] - at[k]), 0) > 0;
      marker.style.left = `${50 * (1 + seen.x)}%`;
      marker.style.top = `${50 * (1 - seen.y)}%`;
      marker.classList.toggle("behind", !facing);
      marker.hidden = Math.abs(seen.x) > 1 || Math.abs(seen.y) > 1 || seen.z > 1;
    }

    save() {
      this.draw(); // the picture is there only until the browser shows it
      const link = document.createElement("a");
      link.href = this.renderer.domElement.toDataURL("image/png");
      link.download = `${this.page.id}-${this.quantity.name}.png`; // the page's own names, never the specimen's
      link.click();
    }
  }

  const pages = [...document.querySelectorAll(".page")];
  const drawings = new Map(pages.filter((page) => page.querySelector(".scene")).map((page) => [page, new Drawing(page)]));
  const webgl = "DecompressionStream" in window && hasWebGL();
  document.body.dataset.webgl = webgl ? "yes" : "no";

  let shown = null;
  const show = () => {
    const wanted = pages.find((page) => "#" + page.id === location.hash) ?? pages[0];
    if (wanted === shown) return;
    drawings.get(shown)?.close();
    for (const page of pages) page.hidden = page !== wanted;
    shown = wanted;
    window.scrollTo(0, 0);
    const drawing = drawings.get(wanted);
    if (!drawing) return;
    if (webgl) return void drawing.open();
    drawing.readout.hidden = false;
    drawing.readout.textContent = "This browser does not offer WebGL: the part is shown in still pictures.";
  };
  window.addEventListener("hashchange", show);
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  show();
})();
