"use strict";
/* Where values come from: the server that serves the page, or the page itself.

   Both kinds of source answer the same questions. Voxels are counted on the grid of the store;
   arrays come as {values, shape, cost}, the last axis fastest. */

const fmristore = {};

fmristore.TYPES = {
  i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array,
  i4: Int32Array, f4: Float32Array, f8: Float64Array,
};

fmristore.ServerSource = class {
  async fetch(name, parameters) {
    const query = new URLSearchParams(parameters).toString();
    const answer = await fetch(query ? `${name}?${query}` : name);
    if (!answer.ok) {
      let text = `${name}: ${answer.status}`;
      try { text = (await answer.json()).error; } catch { /* the status says it */ }
      throw new Error(text);
    }
    return answer;
  }

  async json(name, parameters = {}) { return (await this.fetch(name, parameters)).json(); }

  async array(name, parameters) {
    const answer = await this.fetch(name, parameters);
    const facts = JSON.parse(answer.headers.get("X-Array"));
    const values = new fmristore.TYPES[facts.type](await answer.arrayBuffer());
    return { values, shape: facts.shape, cost: facts.cost };
  }

  about() { return this.json("about"); }
  async layer(layer) { return { step: 1, every: 1, ...await this.json("layer", { layer }) }; }
  costs(layer, [x, y, z], step) { return this.json("costs", { layer, x, y, z, step }); }
  plane(layer, axis, index, step) { return this.array("plane", { layer, axis, index, step }); }
  labels(layer, axis, index) { return this.array("labels", { layer, axis, index }); }
  series(layer, [x, y, z]) { return this.array("series", { layer, x, y, z }); }
  parcel(layer, position) { return this.array("parcel", { layer, position }); }
  course(layer, step) { return this.array("course", { layer, step }); }
  carpet(layer) { return this.array("carpet", { layer }); }
};

/* Values that lie in the page, of every step-th voxel and every every-th volume. */
fmristore.EmbeddedSource = class {
  constructor(document) {
    this.document = document;
    this.arrays = new Map();
  }

  about() { return this.document.about; }
  layer(layer) { return this.document.layers[layer]; }
  costs() { return []; }

  /* An array of a layer, unpacked when it is first needed. */
  unpacked(layer, name) {
    const key = `${layer} ${name}`;
    if (!this.arrays.has(key)) this.arrays.set(key, this.unpack(this.document.layers[layer][name]));
    return this.arrays.get(key);
  }

  async unpack(packed) {
    const compressed = Uint8Array.from(atob(packed.bytes), (c) => c.charCodeAt(0));
    const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const parts = new Uint8Array(await new Response(stream).arrayBuffer());
    const type = fmristore.TYPES[packed.type];
    const width = type.BYTES_PER_ELEMENT;
    const count = parts.length / width;
    const bytes = new Uint8Array(parts.length);
    for (let part = 0; part < width; part++)
      for (let i = 0; i < count; i++) bytes[i * width + part] = parts[part * count + i];
    return { values: new type(bytes.buffer), shape: packed.shape, slope: packed.slope ?? 1, inter: packed.inter ?? 0 };
  }

  async plane(layer, axis, index, step) {
    const facts = this.layer(layer);
    const found = await this.unpacked(layer, "values");
    const volume = Math.floor(step / facts.every);
    if (facts.labels && found.shape.length === 2) {
      const labels = await this.labels(layer, axis, index);
      const length = found.shape[1];
      const values = Float32Array.from(labels.values, (k) => (k ? found.values[(k - 1) * length + volume] : NaN));
      return { values, shape: labels.shape };
    }
    const [, , , length] = found.shape;
    return this.cut(found, axis, Math.floor(index / facts.step), length, volume);
  }

  async labels(layer, axis, index) {
    const found = await this.unpacked(layer, "labels");
    return this.cut(found, axis, Math.floor(index / this.layer(layer).step), 1, 0);
  }

  cut(found, axis, index, length, volume) {
    const shape = found.shape.slice(0, 3);
    const strides = [shape[1] * shape[2] * length, shape[2] * length, length];
    const [i, j] = [0, 1, 2].filter((a) => a !== axis);
    const start = index * strides[axis] + volume;
    const values = new Float32Array(shape[i] * shape[j]);
    const { slope = 1, inter = 0 } = found;
    for (let p = 0, at = 0; p < shape[i]; p++)
      for (let q = 0; q < shape[j]; q++)
        values[at++] = found.values[start + p * strides[i] + q * strides[j]] * slope + inter;
    return { values, shape: [shape[i], shape[j]] };
  }

  async series(layer, voxel) {
    const facts = this.layer(layer);
    const found = await this.unpacked(layer, "values");
    const place = voxel.map((n) => Math.floor(n / facts.step));
    if (facts.labels && found.shape.length === 2) {
      const labels = await this.labels(layer, 2, voxel[2]);
      const position = labels.values[place[0] * labels.shape[1] + place[1]];
      return position ? this.parcel(layer, position - 1) : { values: new Float64Array(found.shape[1]).fill(NaN) };
    }
    const [, ny, nz, length] = found.shape;
    const start = ((place[0] * ny + place[1]) * nz + place[2]) * length;
    const values = Float64Array.from(found.values.subarray(start, start + length), (v) => v * found.slope + found.inter);
    return { values };
  }

  async parcel(layer, position) {
    const found = await this.unpacked(layer, "values");
    if (found.shape.length === 2) {
      const length = found.shape[1];
      return { values: Float64Array.from(found.values.subarray(position * length, (position + 1) * length)) };
    }
    const labels = await this.unpacked(layer, "labels");
    const length = found.shape[3];
    const values = new Float64Array(length);
    let count = 0;
    labels.values.forEach((label, at) => {
      if (label !== position + 1) return;
      count++;
      for (let t = 0; t < length; t++) values[t] += found.values[at * length + t] * found.slope + found.inter;
    });
    return { values: values.map((sum) => (count ? sum / count : NaN)) };
  }

  async course(layer, step) {
    const found = await this.unpacked(layer, "basis");
    const length = found.shape[1];
    return { values: Float64Array.from(found.values.subarray(step * length, (step + 1) * length)) };
  }

  carpet(layer) { return this.unpacked(layer, "carpet"); }
};

fmristore.makeSource = () => {
  const data = document.getElementById("data");
  return data ? new fmristore.EmbeddedSource(JSON.parse(data.textContent)) : new fmristore.ServerSource();
};
