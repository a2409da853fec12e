"use strict";
/* Drawing on canvases: slices, series, carpets. Nothing here reads or knows where values are from. */

fmristore.COLOURS = {
  gray: [[0, 0, 0], [255, 255, 255]],
  viridis: [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
    [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]],
  "cold-hot": [[120, 245, 255], [0, 110, 255], [10, 20, 120], [0, 0, 0], [130, 15, 0], [255, 90, 0], [255, 240, 110]],
};

/* 256 colours as RGBA numbers for a little-endian Uint32Array. */
fmristore.palette = (name) => {
  const stops = fmristore.COLOURS[name];
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(at), stops.length - 2);
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(stops[k][c] + (stops[k + 1][c] - stops[k][c]) * (at - k)));
    return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  });
};

fmristore.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* Short text for a number. */
fmristore.text = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "no value";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "minus infinite";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(3);
  return String(Number(value.toPrecision(6)));
};

/* How a slice lies on the screen: view 0 is sagittal, 1 coronal, 2 axial; left is on the left. */
fmristore.Geometry = class {
  constructor(facts, view) {
    const [across, up] = [0, 1, 2].filter((w) => w !== view).map((w) => facts.axes[w]);
    [this.across, this.acrossFlip] = across;
    [this.up, this.upFlip] = up;
    [this.through] = facts.axes[view];
    this.step = facts.step;
    this.cells = [this.across, this.up].map((a) => Math.ceil(facts.shape[a] / facts.step));
    this.size = [this.across, this.up].map((a, i) => this.cells[i] * facts.step * facts.spacing[a]);
    this.ends = [["L", "R"], ["P", "A"], ["I", "S"]].filter((_, w) => w !== view);
    this.words = [["left", "right"], ["back", "front"], ["bottom", "top"]][view];
  }

  /* Where in the values of a plane the cell of a column and row lies. */
  at(column, row) {
    const [n, m] = this.cells;
    const p = this.acrossFlip ? n - 1 - column : column;
    const q = this.upFlip ? row : m - 1 - row;
    return this.across < this.up ? p * m + q : q * n + p;
  }

  /* Column and row of a voxel. */
  cell(voxel) {
    const [n, m] = this.cells;
    const [p, q] = [this.across, this.up].map((a) => Math.floor(voxel[a] / this.step));
    return [this.acrossFlip ? n - 1 - p : p, this.upFlip ? q : m - 1 - q];
  }

  /* The voxel, on the grid of the store, of a column and row; the third index is kept. */
  voxel(column, row, voxel) {
    const [n, m] = this.cells;
    const found = [...voxel];
    const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
    const [c, r] = [clamp(column, n), clamp(row, m)];
    found[this.across] = (this.acrossFlip ? n - 1 - c : c) * this.step;
    found[this.up] = (this.upFlip ? r : m - 1 - r) * this.step;
    return found;
  }
};

/* Give a canvas the pixels of the screen; returns its context, in units of CSS pixels. */
fmristore.prepare = (canvas, width, height) => {
  const ratio = globalThis.devicePixelRatio || 1;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
};

/* Draw a slice: values, chunks, the outline of a parcel, the cross, and which side is which. */
fmristore.drawSlice = (canvas, geometry, plane, options) => {
  const [width, height] = options.size;
  const context = fmristore.prepare(canvas, width, height);
  const [n, m] = geometry.cells;
  const [dx, dy] = [width / n, height / m];
  context.clearRect(0, 0, width, height);
  if (plane) {
    const image = new ImageData(n, m);
    const pixels = new Uint32Array(image.data.buffer);
    const scale = 255.999 / (options.high - options.low || 1);
    for (let row = 0, i = 0; row < m; row++)
      for (let column = 0; column < n; column++, i++) {
        const value = plane.values[geometry.at(column, row)];
        if (!Number.isNaN(value))
          pixels[i] = options.palette[Math.min(255, Math.max(0, Math.floor((value - options.low) * scale)))];
      }
    const small = document.createElement("canvas");
    [small.width, small.height] = [n, m];
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, height);
  }
  if (options.chunks) fmristore.drawChunks(context, geometry, options, [dx, dy]);
  if (options.labels && options.parcel !== null) fmristore.drawOutline(context, geometry, options, [dx, dy]);
  const [column, row] = geometry.cell(options.voxel);
  context.strokeStyle = "#5dd0ff";
  context.lineWidth = 1;
  context.beginPath();
  const [cx, cy] = [(column + 0.5) * dx, (row + 0.5) * dy];
  for (const [x0, y0, x1, y1] of [[0, cy, cx - 6, cy], [cx + 6, cy, width, cy], [cx, 0, cx, cy - 6], [cx, cy + 6, cx, height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
  fmristore.drawEnds(context, geometry, [width, height]);
};

fmristore.drawEnds = (context, geometry, [width, height]) => {
  const [[left, right], [bottom, top]] = geometry.ends;
  context.font = "bold 13px system-ui, sans-serif";
  context.lineWidth = 3;
  context.strokeStyle = "#000";
  context.fillStyle = "#fff";
  for (const [text, x, y, align] of [[left, 5, height / 2 + 5, "left"], [right, width - 5, height / 2 + 5, "right"],
    [top, width / 2, 15, "center"], [bottom, width / 2, height - 5, "center"]]) {
    context.textAlign = align;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }
};

/* Edges of the stored chunks, and the one that holds the voxel. */
fmristore.drawChunks = (context, geometry, { chunks, shape, voxel }, [dx, dy]) => {
  const place = (axis, index, cells, flip, size) => {
    const at = (index / geometry.step) * size;
    return flip ? cells * size - at : at;
  };
  const [n, m] = geometry.cells;
  const across = (index) => place(geometry.across, index, n, geometry.acrossFlip, dx);
  const up = (index) => place(geometry.up, index, m, !geometry.upFlip, dy);
  context.lineWidth = 1;
  context.strokeStyle = "rgba(255, 210, 90, .55)";
  context.beginPath();
  for (let i = chunks[geometry.across]; i < shape[geometry.across]; i += chunks[geometry.across]) {
    context.moveTo(across(i), 0);
    context.lineTo(across(i), m * dy);
  }
  for (let i = chunks[geometry.up]; i < shape[geometry.up]; i += chunks[geometry.up]) {
    context.moveTo(0, up(i));
    context.lineTo(n * dx, up(i));
  }
  context.stroke();
  const [x, y] = [[geometry.across, across], [geometry.up, up]].map(([a, where]) => {
    const first = Math.floor(voxel[a] / chunks[a]) * chunks[a];
    return [where(first), where(Math.min(first + chunks[a], shape[a]))];
  });
  context.lineWidth = 2;
  context.strokeStyle = "#ffd25a";
  context.strokeRect(Math.min(...x), Math.min(...y), Math.abs(x[1] - x[0]), Math.abs(y[1] - y[0]));
};

fmristore.drawOutline = (context, geometry, { labels, parcel }, [dx, dy]) => {
  const [n, m] = geometry.cells;
  const inside = (c, r) => c >= 0 && r >= 0 && c < n && r < m && labels.values[geometry.at(c, r)] === parcel + 1;
  context.beginPath();
  for (let r = 0; r < m; r++)
    for (let c = 0; c < n; c++) {
      if (!inside(c, r)) continue;
      for (const [dc, dr, x0, y0, x1, y1] of [[-1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 1], [0, -1, 0, 0, 1, 0], [0, 1, 0, 1, 1, 1]]) {
        if (inside(c + dc, r + dr)) continue;
        context.moveTo((c + x0) * dx, (r + y0) * dy);
        context.lineTo((c + x1) * dx, (r + y1) * dy);
      }
    }
  context.strokeStyle = "#ff9a3c";
  context.lineWidth = 2;
  context.stroke();
};

/* Round positions of marks along an axis. */
fmristore.ticks = (low, high, most, least = 0) => {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * [1, 2, 5, 10].find((k) => k * power >= rough));
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
};

/* Draw lines over the same positions; returns what turns a position in pixels into an index. */
fmristore.drawSeries = (canvas, lines, { positions, at, label, boundaries, timed }) => {
  const [width, height] = [canvas.parentElement.clientWidth - 32, 240];
  const context = fmristore.prepare(canvas, width, height);
  const [left, right, top, bottom] = [66, 12, 10, 36];
  const drawn = lines.map((line) => Array.from(line.values).filter(Number.isFinite));
  const all = drawn.flat();
  let [low, high] = all.length ? all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]) : [0, 1];
  if (low === high) [low, high] = [low - 1, high + 1];
  const [first, last] = [positions[0], positions[positions.length - 1]];
  const x = (value) => left + ((value - first) / (last - first || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  context.font = "12px system-ui, sans-serif";
  context.fillStyle = fmristore.colour("--weak");
  context.strokeStyle = fmristore.colour("--line");
  context.lineWidth = 1;
  context.beginPath();
  context.textAlign = "right";
  for (const tick of fmristore.ticks(low, high, 5)) {
    context.moveTo(left, y(tick));
    context.lineTo(width - right, y(tick));
    context.fillText(fmristore.text(tick), left - 6, y(tick) + 4);
  }
  context.textAlign = "center";
  for (const tick of fmristore.ticks(first, last, Math.max(2, Math.floor(width / 90)), timed ? 0 : 1)) context.fillText(fmristore.text(tick), x(tick), height - bottom + 16);
  context.fillText(label, left + (width - left - right) / 2, height - 4);
  context.stroke();
  context.setLineDash([4, 4]);
  context.strokeStyle = fmristore.colour("--weak");
  context.beginPath();
  for (const boundary of boundaries) {
    context.moveTo(x(positions[boundary]), top);
    context.lineTo(x(positions[boundary]), height - bottom);
  }
  context.stroke();
  context.setLineDash([]);
  lines.forEach((line) => fmristore.drawLine(context, line, positions, x, y));
  if (at !== null) {
    context.strokeStyle = fmristore.colour("--text");
    context.beginPath();
    context.moveTo(x(positions[at]), top);
    context.lineTo(x(positions[at]), height - bottom);
    context.stroke();
  }
  return (pixel) => {
    const share = (pixel - left) / (width - left - right);
    return Math.min(positions.length - 1, Math.max(0, Math.round(share * (positions.length - 1))));
  };
};

fmristore.drawLine = (context, line, positions, x, y) => {
  context.strokeStyle = fmristore.colour(line.second ? "--second" : "--first");
  context.fillStyle = context.strokeStyle;
  context.lineWidth = 1.5;
  context.beginPath();
  let pen = false;
  line.values.forEach((value, i) => {
    const ok = Number.isFinite(value);
    if (ok && line.values.length < 40) context.fillRect(x(positions[i]) - 2, y(value) - 2, 4, 4);
    if (ok) context[pen ? "lineTo" : "moveTo"](x(positions[i]), y(value));
    pen = ok;
  });
  context.stroke();
};

fmristore.drawCarpet = (canvas, { values, shape: [rows, columns] }) => {
  const [width, height] = [canvas.parentElement.clientWidth - 32, 240];
  const context = fmristore.prepare(canvas, width, height);
  const palette = fmristore.palette("gray");
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < values.length; i++) pixels[i] = palette[values[i] + 128];
  const small = document.createElement("canvas");
  [small.width, small.height] = [columns, rows];
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, width, height);
};
