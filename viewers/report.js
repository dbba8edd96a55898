"use strict";
// Turns the still pictures of a specimen into a part that can be turned, where the browser has WebGL.
(() => {
  const GREY = "#808080"; // not inspected
  const START = { x: -0.74, y: -1.0, z: 0.8 };
  const HOLE = 65535; // the step that stands for "no value"
  const nonce = document.currentScript.nonce; // the page's policy runs no other script
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  let library = null;
  const plotly = () => {
    library ??= (async () => {
      const code = new TextDecoder().decode(await inflate(document.getElementById("plotly").textContent));
      const script = document.createElement("script");
      script.nonce = nonce;
      script.textContent = code;
      document.head.append(script);
      return window.Plotly;
    })();
    return library;
  };
  const hasWebGL = () => {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return context !== null;
  };

  const readable = (value, unit) => {
    if (Number.isNaN(value)) return "not inspected";
    return `${Number(value.toPrecision(3))}${unit ? " " + unit : ""}`;
  };

  const ink = () => getComputedStyle(document.body).color;

  // Grey below the first colour, for vertices without a value.
  const colouring = (quantity) => {
    const gap = 0.03 * (quantity.to - quantity.from);
    const first = gap / (quantity.to - quantity.from + gap);
    const stops = quantity.colours.map((colour, k) => [first + ((1 - first) * k) / (quantity.colours.length - 1), colour]);
    return {
      values: quantity.decoded.map((value) => (Number.isNaN(value) ? quantity.from - gap : Math.max(value, quantity.from))),
      scale: [[0, GREY], [first * 0.999, GREY], ...stops],
      low: quantity.from - gap,
      high: quantity.to,
      bar: {
        title: { text: quantity.title, side: "right" }, thickness: 12, len: 0.7, x: 1, xanchor: "right", outlinewidth: 0,
        tickvals: quantity.ticks, ticktext: quantity.labels, tickfont: { size: 11 },
      },
    };
  };

  const decode = async (scene) => {
    const steps = new Uint16Array(await inflate(scene.vertices));
    const n = scene.count;
    scene.axes = [0, 1, 2].map((axis) =>
      Float32Array.from(steps.subarray(axis * n, (axis + 1) * n), (step) => scene.low[axis] + step * scene.step[axis]));
    if (scene.faces) {
      const corners = new Uint32Array(await inflate(scene.faces));
      const m = corners.length / 3;
      scene.corners = [0, 1, 2].map((corner) => corners.subarray(corner * m, (corner + 1) * m));
    }
    for (const quantity of scene.quantities) {
      const values = new Uint16Array(await inflate(quantity.values));
      quantity.decoded = Float32Array.from(values, (step) => (step === HOLE ? NaN : quantity.low + step * quantity.step));
    }
  };

  const surface = (scene, quantity) => {
    const [x, y, z] = scene.axes;
    const colour = colouring(quantity);
    const shared = { x, y, z, hoverinfo: "none", name: "part" };
    if (scene.corners) {
      const [i, j, k] = scene.corners;
      return {
        ...shared, type: "mesh3d", i, j, k, intensity: colour.values, colorscale: colour.scale, cmin: colour.low,
        cmax: colour.high, colorbar: colour.bar, flatshading: true,
        lighting: { ambient: 0.5, diffuse: 0.75, specular: 0.03, roughness: 0.8, fresnel: 0 },
        lightposition: { x: -40000, y: 80000, z: 50000 }, // of the camera: up, from the left
      };
    }
    return {
      ...shared, type: "scatter3d", mode: "markers",
      marker: {
        size: scene.count > 50000 ? 2 : 3, line: { width: 0 }, color: colour.values, colorscale: colour.scale,
        cmin: colour.low, cmax: colour.high, colorbar: colour.bar, showscale: true,
      },
    };
  };

  const recolour = (scene, quantity) => {
    const colour = colouring(quantity);
    const change = { colorscale: [colour.scale], cmin: colour.low, cmax: colour.high, colorbar: colour.bar };
    if (scene.corners) return { ...change, intensity: [colour.values] };
    const prefixed = Object.fromEntries(Object.entries(change).map(([name, value]) => [`marker.${name}`, value]));
    return { ...prefixed, "marker.color": [colour.values] };
  };

  const markers = (scene) => {
    const lift = 0.05 * scene.radius;
    const at = scene.defects.map((defect) => defect.at.map((value, axis) => value + lift * defect.normal[axis]));
    return {
      type: "scatter3d", mode: "markers+text", name: "defects", hoverinfo: "none",
      x: at.map((p) => p[0]), y: at.map((p) => p[1]), z: at.map((p) => p[2]),
      text: scene.defects.map((defect) => String(defect.id)), textposition: "middle center",
      textfont: { color: "#111", size: 12 },
      marker: { size: 17, color: "#fff", line: { color: "#111", width: 1.5 }, opacity: 1 },
    };
  };

  const layout = (scene) => {
    const axis = (k) => ({
      visible: false, showspikes: false,
      range: [scene.centre[k] - scene.radius, scene.centre[k] + scene.radius],
    });
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", showlegend: false, autosize: true,
      font: { color: ink(), size: 12 }, uirevision: "kept",
      scene: {
        xaxis: axis(0), yaxis: axis(1), zaxis: axis(2), aspectmode: "manual", aspectratio: { x: 1, y: 1, z: 1 },
        dragmode: "turntable", camera: { eye: START, center: { x: 0, y: 0, z: 0 }, up: { x: 0, y: 0, z: 1 } },
      },
    };
  };

  const vector = (p) => [p.x, p.y, p.z];
  const point = (v) => ({ x: v[0], y: v[1], z: v[2] });
  const mix = (a, b, t) => a.map((value, k) => value + (b[k] - value) * t);

  // One specimen's drawing; only the visible specimen has one, since browsers allow few WebGL contexts.
  class Drawing {
    constructor(page) {
      this.page = page;
      this.stage = page.querySelector(".stage");
      this.plot = page.querySelector(".plot");
      this.modes = page.querySelector(".modes");
      this.readout = page.querySelector(".readout");
    }

    async open() {
      this.scene ??= JSON.parse(this.page.querySelector(".scene").textContent);
      if (!this.scene.axes) await decode(this.scene);
      const Plotly = await plotly();
      if (this.page.hidden) return;
      this.quantity ??= this.scene.quantities[0];
      this.page.classList.add("drawn");
      this.plot.hidden = false;
      const traces = [surface(this.scene, this.quantity)];
      if (this.scene.defects.length) traces.push(markers(this.scene));
      await Plotly.newPlot(this.plot, traces, layout(this.scene), {
        displaylogo: false, responsive: true, scrollZoom: true, showTips: false,
        modeBarButtons: [["toImage", "resetCameraDefault3d"]],
      });
      this.plot.on("plotly_hover", (event) => this.read(event.points[0]));
      this.plot.on("plotly_click", (event) => {
        if (event.points[0].curveNumber === 1) this.fly(event.points[0].pointNumber);
      });
      if (!this.listening) this.listen();
      this.readout.hidden = false;
      this.page.dataset.ready = "yes";
    }

    close() {
      if (window.Plotly && this.page.dataset.ready) window.Plotly.purge(this.plot);
      delete this.page.dataset.ready;
    }

    listen() {
      this.listening = true;
      for (const quantity of this.scene.quantities) {
        const label = document.createElement("label");
        const input = Object.assign(document.createElement("input"), {
          type: "radio", name: `mode-${this.page.id}`, value: quantity.name, checked: quantity === this.quantity,
        });
        const text = document.createElement("span");
        text.textContent = quantity.title;
        input.addEventListener("change", () => {
          this.quantity = quantity;
          window.Plotly.restyle(this.plot, recolour(this.scene, quantity), [0]);
        });
        label.append(input, text);
        this.modes.append(label);
      }
      this.modes.hidden = false;
      this.stage.addEventListener("keydown", (event) => this.key(event));
      for (const button of this.page.querySelectorAll(".fly"))
        button.addEventListener("click", () => {
          this.fly(Number(button.dataset.defect));
          const box = this.stage.getBoundingClientRect();
          if (box.bottom < 60 || box.top > window.innerHeight - 60)
            this.stage.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
        });
    }

    read(hit) {
      if (hit.curveNumber !== 0) return;
      const k = hit.pointNumber;
      if (k === undefined) return;
      const at = this.scene.axes.map((axis) => axis[k].toFixed(1)).join(", ");
      const values = this.scene.quantities.map((q) => `${q.title.replace(/ \[.*\]$/, "")} ${readable(q.decoded[k], q.unit)}`);
      this.readout.textContent = `At ${at} mm: ${values.join(" · ")}`;
    }

    camera() {
      return this.plot._fullLayout.scene._scene.getCamera();
    }

    look(eye, centre) {
      return window.Plotly.relayout(this.plot, {
        "scene.camera": { eye: point(eye), center: point(centre), up: { x: 0, y: 0, z: 1 } },
      });
    }

    async travel(eye, centre) {
      const from = this.camera();
      const start = performance.now();
      const trip = (this.trip = {}); // a later flight ends this one
      const steps = calm ? 0 : 450;
      for (;;) {
        const share = steps ? Math.min((performance.now() - start) / steps, 1) : 1;
        const eased = share * share * (3 - 2 * share);
        await this.look(mix(vector(from.eye), eye, eased), mix(vector(from.center), centre, eased));
        if (share === 1 || this.trip !== trip) return;
        await new Promise(requestAnimationFrame);
      }
    }

    fly(index) {
      const defect = this.scene.defects[index];
      const centre = defect.at.map((value, axis) => (value - this.scene.centre[axis]) / (2 * this.scene.radius));
      const away = Math.min(Math.max((2.2 * defect.size) / (2 * this.scene.radius), 0.3), 1.4);
      const tilt = Math.abs(defect.normal[2]) > 0.9 ? [0.15, -0.4, 0] : [0, 0, 0.35];
      const direction = defect.normal.map((value, axis) => value + tilt[axis]);
      const length = Math.hypot(...direction) || 1;
      for (const button of this.page.querySelectorAll(".fly"))
        button.setAttribute("aria-pressed", String(Number(button.dataset.defect) === index));
      return this.travel(centre.map((value, axis) => value + (away * direction[axis]) / length), centre);
    }

    key(event) {
      const turn = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      const zoom = { "+": 0.85, "=": 0.85, "-": 1.18, "_": 1.18 }[event.key];
      if (!turn && !zoom && event.key !== "Home") return;
      event.preventDefault();
      if (event.key === "Home") return void this.travel(vector(START), [0, 0, 0]);
      const camera = this.camera();
      const centre = vector(camera.center);
      const arm = vector(camera.eye).map((value, axis) => value - centre[axis]);
      const length = Math.hypot(...arm) * (zoom ?? 1);
      const [across, up] = turn ?? [0, 0];
      const azimuth = Math.atan2(arm[1], arm[0]) + across * 0.12;
      const height = Math.asin(arm[2] / Math.hypot(...arm)) + up * 0.12;
      const elevation = Math.min(Math.max(height, -1.5), 1.5);
      const direction = [Math.cos(azimuth) * Math.cos(elevation), Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation)];
      this.look(centre.map((value, axis) => value + length * direction[axis]), centre);
    }

    repaint() {
      if (this.page.dataset.ready) window.Plotly.relayout(this.plot, { "font.color": ink() });
    }
  }

  const pages = [...document.querySelectorAll(".page")];
  const drawings = new Map(pages.filter((p) => p.matches(".specimen")).map((p) => [p, new Drawing(p)]));
  const webgl = hasWebGL() && "DecompressionStream" in window;
  document.body.dataset.webgl = webgl ? "yes" : "no";

  let shown = null;
  const show = () => {
    const wanted = pages.find((page) => "#" + page.id === location.hash) ?? pages[0];
    if (wanted === shown) return;
    if (shown) drawings.get(shown)?.close();
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
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawings.get(shown)?.repaint());
  show();
})();
