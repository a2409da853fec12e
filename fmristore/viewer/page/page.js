"use strict";
/* The page: what is shown, and what happens when someone clicks or types.

   Names and texts of a store are set as textContent, never as HTML. */

fmristore.Page = class {
  constructor(source) {
    this.source = source;
    this.state = { layer: 0, voxel: [0, 0, 0], step: 0, low: 0, high: 1, auto: true, parcel: null, series: null };
    this.planes = new Map();
    this.running = null;
    this.allowed = new Set();
    this.asksAbove = 32 * 2 ** 20; // bytes of the first slices of a remote store
    this.$ = (id) => document.getElementById(id);
  }

  async start() {
    this.about = await this.source.about();
    document.title = `${this.about.name} · fmristore`;
    this.$("name").textContent = this.about.name;
    this.$("summary").textContent = `${this.about.class} · ${this.about.facts.filter(([name]) => ["shape", "dtype", "TR", "parcels", "components", "scans", "runs", "maps"].includes(name)).map(([name, text]) => (name === "TR" ? `TR ${text}` : text)).join(" · ")}`;
    this.fill(this.$("facts"), [["place", this.about.url], ...this.about.facts].flatMap(([name, text]) => [this.element("dt", name), this.element("dd", text)]));
    const layers = this.about.layers;
    this.fill(this.$("layer"), layers.map((name, i) => this.option(i, name)));
    this.$("layer-choice").hidden = layers.length < 2;
    if (this.about.left_out) this.say("note", `${this.about.left_out} more parts of the store are not in this page.`);
    this.listen();
    if (!layers.length) {
      for (const section of document.querySelectorAll("main section:not(:last-child)")) section.hidden = true;
      this.say("note", "The page knows of no way to draw this format.");
      return;
    }
    const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const given = { layer: this.about.start?.layer ?? 0, step: this.about.start?.step ?? 0, ...Object.fromEntries(Object.entries(asked).map(([k, v]) => [k, Number.parseInt(v, 10)])) };
    await this.openLayer(layers[given.layer] === undefined ? 0 : given.layer, given);
  }

  /* Elements ------------------------------------------------------------------------------- */

  element(tag, text, properties = {}) {
    const found = Object.assign(document.createElement(tag), properties);
    if (text !== undefined) found.textContent = text;
    return found;
  }

  option(value, text) { return this.element("option", text, { value }); }

  fill(parent, children) { parent.replaceChildren(...children); }

  say(id, text) {
    this.$(id).textContent = text;
    this.$(id).hidden = !text;
  }

  table(id, head, rows, foot) {
    const row = (cells) => {
      const found = document.createElement("tr");
      cells.forEach((cell, i) => found.append(i && cells !== head ? this.element("td", cell) : this.element("th", cell, { scope: cells === head ? "col" : "row" })));
      return found;
    };
    const parts = [["thead", [head]], ["tbody", rows], ...(foot ? [["tfoot", [foot]]] : [])];
    this.fill(this.$(id), parts.map(([tag, lines]) => {
      const part = document.createElement(tag);
      part.append(...lines.map(row));
      return part;
    }));
  }

  /* Layers --------------------------------------------------------------------------------- */

  /* One sentence in the place of a table. */
  sentence(id, text) {
    const row = document.createElement("tr");
    row.append(this.element("td", text));
    this.fill(this.$(id), [row]);
  }

  async openLayer(layer, given = {}) {
    const facts = await this.source.layer(layer);
    this.facts = facts;
    this.planes.clear();
    this.$("layer").value = layer;
    const middle = facts.shape.map((n) => Math.floor(n / 2));
    const voxel = ["x", "y", "z"].map((name, i) => (given[name] >= 0 && given[name] < facts.shape[i] ? given[name] : middle[i]));
    const same = this.grid === JSON.stringify([facts.shape, facts.affine]);
    const keep = same && given.x === undefined;
    const step = given.step >= 0 && given.step < facts.length ? given.step : 0;
    Object.assign(this.state, { layer, voxel: keep ? this.state.voxel : voxel, step, auto: true, parcel: null, series: null, course: null, parcelSeries: null });
    this.grid = JSON.stringify([facts.shape, facts.affine]);
    this.geometries = [0, 1, 2].map((view) => new fmristore.Geometry(facts, view));
    this.snap();
    this.showLayer();
    this.layout();
    if (this.about.remote && !(await this.affordable())) return;
    await this.refresh();
  }

  /* Ask before slices of a remote store that are large are read. */
  async affordable() {
    const { layer, voxel, step } = this.state;
    if (this.allowed.has(layer)) return true;
    const costs = await this.source.costs(layer, voxel, step);
    const bytes = costs.filter(({ name }) => name.startsWith("this slice")).reduce((sum, { fetched }) => sum + (fetched ?? 0), 0);
    if (bytes <= this.asksAbove) {
      this.allowed.add(layer);
      return true;
    }
    this.$("large-text").textContent = `In this layout the first three slices take ${this.size(bytes)} from the server.`;
    this.$("large").hidden = false;
    return false;
  }

  showLayer() {
    const { facts, state } = this;
    const { $ } = this;
    ["x", "y", "z"].forEach((name, i) => Object.assign($(name), { max: facts.shape[i] - 1, step: facts.step }));
    for (const id of ["step", "step-range"]) Object.assign($(id), { max: facts.length - 1, step: facts.every });
    const word = { time: "Volume", label: "Map", component: "Component", volume: "Volume" }[facts.kind];
    $("step-name").textContent = word;
    $("step-choice").hidden = facts.length < 2;
    $("chunks-choice").hidden = !facts.chunks;
    $("outline-choice").hidden = !facts.parcels;
    const named = facts.names ?? (facts.runs.length ? facts.runs.map(([name]) => name) : null);
    $("names-section").hidden = !named;
    if (named) {
      const title = { label: "Maps", component: "Components" }[facts.kind] ?? "Runs";
      $("names-title").textContent = title;
      $("names-label").textContent = title;
      this.fill($("names"), named.map((name, i) => this.option(facts.names ? i : facts.runs[i][1], name)).filter((_, i) => !facts.names || i % facts.every === 0));
    }
    $("parcels-section").hidden = !facts.parcels;
    $("parcel-filter").value = "";
    if (facts.parcels) this.listParcels();
    $("carpet-section").hidden = !facts.carpet;
    $("carpet").hidden = true;
    $("read-carpet").hidden = false;
    $("carpet-text").textContent = "Reads the series of voxels all over the grid: about everything that is stored.";
    $("series-section").hidden = facts.length < 2;
    $("series-section").classList.toggle("alone", !named && !facts.parcels);
    $("plans").hidden = facts.painted || facts.kind === "component" || this.about.remote === null;
    $("plans").open = false;
    const notes = [];
    if (facts.step > 1 || facts.every > 1) {
      const space = facts.step > 1 ? `one voxel in ${facts.step} along each axis` : "every voxel";
      const time = facts.length > 1 ? ` and ${facts.every > 1 ? `one volume in ${facts.every}` : "every volume"}` : "";
      notes.push(`This page holds ${space}${time}.`);
    }
    if (facts.oblique > 1) notes.push(`The grid is oblique: slices lie up to ${facts.oblique}° from the directions that they are named after.`);
    if (this.about.left_out) notes.push(`${this.about.left_out} more parts of the store are not in this page.`);
    this.say("note", notes.join(" "));
    $("colours").value = facts.kind === "component" ? "cold-hot" : facts.painted ? "viridis" : "gray";
    this.chosenColours = false;
    this.say("problem", "");
    $("large").hidden = true;
    state.low = 0;
    state.high = 1;
  }

  listParcels() {
    const { ids, names, sizes } = this.facts.parcels;
    const wanted = this.$("parcel-filter").value.toLowerCase();
    const found = names.map((name, i) => [i, `${ids[i]} ${name}`]).filter(([, text]) => text.toLowerCase().includes(wanted));
    const most = 1000;
    this.fill(this.$("parcels"), found.slice(0, most).map(([i, text]) => this.option(i, text)));
    if (this.state.parcel !== null) this.$("parcels").value = this.state.parcel;
    const voxels = this.state.parcel === null ? "" : ` ${names[this.state.parcel]}: ${sizes[this.state.parcel]} voxels.`;
    this.$("parcel-text").textContent = `${found.length} of ${names.length} parcels${found.length > most ? `, the first ${most} listed` : ""}.${voxels}`;
  }

  /* Reading -------------------------------------------------------------------------------- */

  /* Change the state and show it; while reading goes on, only the last change counts. */
  change(changes) {
    Object.assign(this.state, changes);
    this.snap();
    this.draw();
    return this.refresh();
  }

  snap() {
    const { facts, state } = this;
    state.voxel = state.voxel.map((n, i) => Math.min(Math.max(n, 0), facts.shape[i] - 1)).map((n) => n - (n % facts.step));
    state.step = Math.min(Math.max(state.step, 0), facts.length - 1);
    state.step -= state.step % facts.every;
  }

  refresh() {
    this.again = true;
    this.running ??= (async () => {
      try {
        while (this.again) {
          this.again = false;
          await this.load();
        }
      } catch (error) {
        this.say("problem", error.message);
      } finally {
        this.running = null;
      }
    })();
    return this.running;
  }

  async load() {
    const { facts, source } = this;
    const { layer, voxel, step, parcel } = this.state;
    const costs = [];
    const count = (name, found) => { if (found.cost) costs.push([name, found.cost]); return found; };
    const series = facts.length > 1 ? count("series of the voxel", await source.series(layer, voxel)) : null;
    this.state.series = series && { voxel, values: series.values };
    const planes = [];
    for (const view of [0, 1, 2]) {
      const axis = facts.axes[view][0];
      const name = `slice, ${["sagittal", "coronal", "axial"][view]}`;
      planes.push(await this.cached(`${axis} ${voxel[axis]} ${step}`, async () => count(name, await source.plane(layer, axis, voxel[axis], step))));
    }
    let labels = null;
    if (facts.parcels) {
      labels = [];
      for (const view of [0, 1, 2]) {
        const axis = facts.axes[view][0];
        labels.push(await this.cached(`labels ${axis} ${voxel[axis]}`, () => source.labels(layer, axis, voxel[axis])));
      }
      const here = labels[2].values[this.geometries[2].at(...this.geometries[2].cell(voxel))];
      if (!this.state.kept) this.state.parcel = here ? here - 1 : null;
    }
    const chosen = this.state.parcel;
    this.state.parcelSeries = chosen === null || facts.length < 2 ? null : count("series of the parcel", await source.parcel(layer, chosen)).values;
    this.state.course = facts.courses ? count("time course", await source.course(layer, step)).values : null;
    if (this.facts !== facts || this.again) return;
    this.shown = { planes, labels };
    if (parcel !== chosen) this.listParcels();
    if (this.state.auto) this.fitWindow();
    this.showCosts(costs);
    this.draw();
    this.remember();
    if (this.$("plans").open) await this.showPlans();
  }

  async cached(key, read) {
    let found = this.planes.get(key);
    if (!found) {
      found = await read();
      if (this.planes.size >= 60) this.planes.delete(this.planes.keys().next().value);
      this.planes.set(key, found);
    }
    return found;
  }

  remember() {
    const { layer, voxel: [x, y, z], step } = this.state;
    history.replaceState(null, "", `#${new URLSearchParams({ layer, x, y, z, step })}`);
  }

  /* Display window: the middle 96 % of the slices; around 0 for maps with both signs. */
  fitWindow() {
    const { state } = this;
    const values = this.shown.planes.flatMap(({ values: all }) => {
      const every = Math.max(1, Math.floor(all.length / 20000));
      return Array.from(all).filter((v, i) => i % every === 0 && Number.isFinite(v));
    }).sort((a, b) => a - b);
    if (!values.length) return;
    const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];
    let [low, high] = [at(0.02), at(0.99)];
    if (low === high) [low, high] = [values[0], values[values.length - 1]];
    const signed = this.facts.kind !== "time" && values[0] < 0 && values[values.length - 1] > 0;
    if (signed) {
      high = Math.max(-low, high);
      low = -high;
      if (!this.chosenColours) this.$("colours").value = "cold-hot";
    }
    if (low === high) high = low + 1;
    Object.assign(state, { low, high });
  }

  /* Showing -------------------------------------------------------------------------------- */

  layout() {
    const views = [0, 1, 2].map((view) => this.$(`view-${view}`));
    const narrow = matchMedia("(max-width: 40rem)").matches;
    const room = this.$("views").clientWidth;
    const widths = this.geometries.map(({ size }) => size[0]);
    const gap = 10;
    const scale = narrow ? null : (room - 2 * gap) / widths.reduce((a, b) => a + b, 0);
    const pair = narrow ? (room - gap) / (widths[0] + widths[1]) : null;
    this.sizes = views.map((canvas, view) => {
      const [w, h] = this.geometries[view].size;
      let factor = scale ?? (view < 2 ? pair : room / w);
      factor = Math.min(factor, (0.62 * Math.max(innerHeight, 400)) / Math.max(...this.geometries.map(({ size }) => size[1])));
      canvas.parentElement.style.flexGrow = String(w);
      return [Math.floor(w * factor), Math.floor(h * factor)];
    });
    this.draw();
  }

  draw() {
    const { facts, state, shown } = this;
    const { $ } = this;
    if (!facts || !this.sizes) return;
    const palette = fmristore.palette($("colours").value);
    [0, 1, 2].forEach((view) => {
      const geometry = this.geometries[view];
      const canvas = $(`view-${view}`);
      fmristore.drawSlice(canvas, geometry, shown?.planes[view], {
        size: this.sizes[view], palette, low: state.low, high: state.high, voxel: state.voxel, shape: facts.shape,
        chunks: $("chunks").checked ? facts.chunks : null,
        labels: $("outline").checked ? shown?.labels?.[view] : null, parcel: state.parcel,
      });
      const name = ["Sagittal", "Coronal", "Axial"][view];
      canvas.setAttribute("aria-label", `${name} slice at ${"xyz"[geometry.through]} ${state.voxel[geometry.through]}; arrow keys move, Page Up and Page Down change the slice`);
    });
    ["x", "y", "z"].forEach((name, i) => this.set(name, state.voxel[i]));
    this.set("step", state.step);
    this.set("step-range", state.step);
    this.set("low", Number(state.low.toPrecision(6)));
    this.set("high", Number(state.high.toPrecision(6)));
    if (facts.names) $("names").value = state.step;
    else if (facts.runs.length) $("names").value = facts.runs.findLast(([, first]) => first <= state.step)[1];
    this.showPlace();
    this.drawSeries();
  }

  /* Set a control, unless someone is typing into it. */
  set(id, value) {
    if (document.activeElement !== this.$(id) || this.$(id).type === "range") this.$(id).value = value;
  }

  /* Value of a voxel in the slices that are shown. */
  value() {
    const geometry = this.geometries[2];
    const plane = this.shown?.planes[2];
    return plane ? plane.values[geometry.at(...geometry.cell(this.state.voxel))] : null;
  }

  showPlace() {
    const { facts, state } = this;
    const [x, y, z] = state.voxel;
    const mm = facts.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
    const texts = [`voxel ${x}, ${y}, ${z}`, `${mm.map((v) => v.toFixed(1)).join(", ")} mm`];
    if (facts.names) texts.push(facts.names[state.step]);
    else if (facts.length > 1) texts.push(`volume ${state.step}${facts.tr && !facts.runs.length ? `, ${fmristore.text(facts.start + state.step * facts.tr)} s` : ""}`);
    const value = this.value();
    if (value !== null) texts.push(`value ${fmristore.text(value)}`);
    if (state.parcel !== null && facts.parcels) texts.push(facts.parcels.names[state.parcel]);
    this.$("place").textContent = texts.join(" · ");
  }

  drawSeries() {
    const { facts, state } = this;
    if (facts.length < 2 || !state.series) return;
    const { values, voxel } = state.series;
    const component = facts.kind === "component";
    const lines = [];
    if (component) lines.push({ values: state.course ?? [], name: `time course of ${facts.names[state.step]}` });
    else if (values.some(Number.isFinite) && !(facts.painted && state.parcelSeries)) lines.push({ values, name: `voxel ${voxel.join(", ")}` });
    if (state.parcelSeries && facts.parcels) lines.push({ values: state.parcelSeries, second: true, name: `parcel ${facts.parcels.names[state.parcel]}${facts.painted ? "" : ", mean"}` });
    const length = (lines[0]?.values ?? values).length;
    const timed = (facts.kind === "time" || component) && facts.tr && !facts.runs.length;
    const positions = Array.from({ length }, (_, t) => (timed ? facts.start + t * (component ? 1 : facts.every) * facts.tr : t * (component ? 1 : facts.every)));
    this.pick = fmristore.drawSeries(this.$("series"), lines, {
      positions, timed, at: component ? null : Math.floor(state.step / facts.every), boundaries: component ? [] : facts.runs.slice(1).map(([, first]) => Math.floor(first / facts.every)),
      label: timed ? "time (s)" : component || facts.kind === "time" ? "volume" : "map",
    });
    this.fill(this.$("legend"), lines.map(({ name, second }) => this.element("li", name, { className: second ? "second" : "first" })));
    const finite = Array.from(lines[0]?.values ?? []).filter(Number.isFinite);
    const bounds = finite.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    this.$("series-text").textContent = finite.length ? `${lines[0].name}: ${finite.length} values from ${fmristore.text(bounds[0])} to ${fmristore.text(bounds[1])}.` : "Nothing is stored for this voxel.";
    this.$("series").setAttribute("aria-label", `Plot of ${lines.map(({ name }) => name).join(" and ") || "no series"}`);
    this.plotted = { positions, lines };
    if (this.$("values").open) this.showValues();
  }

  showValues() {
    const { positions, lines } = this.plotted;
    const most = 2000;
    const first = document.querySelector("#step-name").textContent.toLowerCase();
    const rows = positions.slice(0, most).map((at, i) => [fmristore.text(at), ...lines.map(({ values }) => String(values[i]))]);
    this.table("values-table", [this.facts.tr && !this.facts.runs.length ? "time (s)" : first, ...lines.map(({ name }) => name)], rows);
  }

  size(bytes) {
    if (bytes === null || bytes === undefined) return "unknown";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const power = Math.min(units.length - 1, bytes ? Math.floor(Math.log2(bytes) / 10) : 0);
    return `${power ? (bytes / 1024 ** power).toFixed(1) : bytes} ${units[power]}`;
  }

  showCosts(costs) {
    const head = ["read", "requests", "fetched", "chunks decoded", "decoded", "time"];
    const line = (name, c) => [name, c.requests, this.size(c.fetched), c.chunks, this.size(c.decoded), `${(c.seconds * 1000).toFixed(1)} ms`];
    if (!costs.length) {
      const where = this.about.remote === null ? "Everything lies in this page; nothing is read." : "Everything was in memory; nothing was read.";
      this.sentence("cost", where);
      return;
    }
    const sum = { requests: 0, fetched: 0, chunks: 0, decoded: 0, seconds: 0 };
    for (const [, cost] of costs) for (const key of Object.keys(sum)) sum[key] += cost[key];
    this.table("cost", head, costs.map(([name, cost]) => line(name, cost)), line("together", sum));
  }

  async showPlans() {
    const { layer, voxel, step } = this.state;
    const costs = await this.source.costs(layer, voxel, step);
    const unknown = (value) => (value === null ? "unknown" : value);
    if (!costs.length) this.sentence("plan", "Nothing is known of what this would take.");
    else this.table("plan", ["read", "requests", "fetched", "chunks", "decoded", "returned"], costs.map((c) => [c.name, unknown(c.requests), this.size(c.fetched), `${c.chunks} of ${c.of}`, this.size(c.decoded), this.size(c.returned)]));
  }

  async showCarpet() {
    this.$("read-carpet").disabled = true;
    this.$("carpet-text").textContent = "Reading …";
    try {
      const found = await this.source.carpet(this.state.layer);
      this.carpet = found;
      this.$("carpet").hidden = false;
      this.$("read-carpet").hidden = true;
      fmristore.drawCarpet(this.$("carpet"), found);
      const [rows, columns] = found.shape;
      const rest = columns < this.facts.length ? `, every ${Math.ceil(this.facts.length / columns)}th volume` : "";
      const what = this.facts.painted ? "parcels" : "voxels";
      const cost = found.cost ? ` Read in ${(found.cost.seconds * 1000).toFixed(0)} ms, ${this.size(found.cost.fetched)} in ${found.cost.requests} ${found.cost.requests === 1 ? "request" : "requests"}.` : "";
      this.$("carpet-text").textContent = `${rows} ${what} from top to bottom, time to the right${rest}; z-scores from -3 (black) to 3 (white).${cost}`;
      this.$("carpet").setAttribute("aria-label", `Carpet plot of ${rows} ${what}`);
    } catch (error) {
      this.say("problem", error.message);
    } finally {
      this.$("read-carpet").disabled = false;
    }
  }

  /* Events --------------------------------------------------------------------------------- */

  listen() {
    const { $ } = this;
    const on = (id, event, act) => $(id).addEventListener(event, act);
    [0, 1, 2].forEach((view) => this.listenSlice($(`view-${view}`), view));
    ["x", "y", "z"].forEach((name, i) => on(name, "change", () => {
      const voxel = [...this.state.voxel];
      voxel[i] = Number.parseInt($(name).value, 10) || 0;
      this.change({ voxel, kept: false });
    }));
    for (const [id, event] of [["step", "change"], ["step-range", "input"]]) on(id, event, () => this.change({ step: Number.parseInt($(id).value, 10) || 0 }));
    for (const id of ["low", "high"]) on(id, "change", () => { this.state.auto = false; this.state[id] = Number.parseFloat($(id).value) || 0; this.draw(); });
    on("auto", "click", () => { this.state.auto = true; this.fitWindow(); this.draw(); });
    on("colours", "change", () => { this.chosenColours = true; this.draw(); });
    for (const id of ["chunks", "outline"]) on(id, "change", () => this.draw());
    on("layer", "change", () => this.openLayer(Number($("layer").value)).catch((error) => this.say("problem", error.message)));
    on("names", "change", () => this.change({ step: Number($("names").value) }));
    on("parcel-filter", "input", () => this.listParcels());
    on("parcels", "change", () => {
      const parcel = Number($("parcels").value);
      this.change({ parcel, kept: true, voxel: this.facts.parcels.places[parcel] ?? this.state.voxel });
      this.listParcels();
    });
    on("values", "toggle", () => { if ($("values").open && this.plotted) this.showValues(); });
    on("plans", "toggle", () => { if ($("plans").open) this.showPlans().catch((error) => this.say("problem", error.message)); });
    on("read-carpet", "click", () => this.showCarpet());
    on("read-large", "click", () => { this.allowed.add(this.state.layer); $("large").hidden = true; this.refresh(); });
    on("controls", "submit", (event) => event.preventDefault());
    on("series", "pointerdown", (event) => {
      if (this.pick && this.facts.kind !== "component") this.change({ step: this.pick(event.offsetX) * this.facts.every });
    });
    const again = () => { if (this.facts) { this.layout(); if (this.carpet && !$("carpet").hidden) fmristore.drawCarpet($("carpet"), this.carpet); } };
    addEventListener("resize", again);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  }

  listenSlice(canvas, view) {
    const go = (event) => {
      const geometry = this.geometries[view];
      const { width, height } = canvas.getBoundingClientRect();
      const [n, m] = geometry.cells;
      const column = Math.floor((event.offsetX / width) * n);
      const row = Math.floor((event.offsetY / height) * m);
      this.change({ voxel: geometry.voxel(column, row, this.state.voxel), kept: false });
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); canvas.focus(); go(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) go(event); });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement === canvas) { event.preventDefault(); this.move(view, 0, 0, event.deltaY > 0 ? -1 : 1); }
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] }[event.key];
      if (steps) this.move(view, ...steps);
      else if (event.key === "," || event.key === ".") this.change({ step: this.state.step + (event.key === "." ? 1 : -1) * this.facts.every });
      else return;
      event.preventDefault();
    });
  }

  /* Move by cells: right, down, and through the slices towards the right, the front or the top. */
  move(view, right, down, through) {
    const geometry = this.geometries[view];
    const [column, row] = geometry.cell(this.state.voxel);
    const voxel = geometry.voxel(column + right, row + down, this.state.voxel);
    const [axis, flip] = this.facts.axes[view];
    voxel[axis] += through * (flip ? -1 : 1) * this.facts.step;
    this.change({ voxel, kept: false });
  }
};

fmristore.page = new fmristore.Page(fmristore.makeSource());
fmristore.ready = fmristore.page.start().catch((error) => fmristore.page.say("problem", error.message));
