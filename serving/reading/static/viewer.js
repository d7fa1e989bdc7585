// The image on a canvas: slices, level and window, heat-map on and off. Pixels come as float32 in the model's unit, the heat as bytes on the same grid.
"use strict";
(async () => {
  const canvas = document.getElementById("view");
  const [channels, depth, height, width] = canvas.dataset.shape.split(",").map(Number);
  const drawn = canvas.dataset.layout === "window" || canvas.dataset.layout === "table";
  const at = (id) => document.getElementById(id);
  const slice = at("slice"), level = at("level"), span = at("width"), heatBox = at("heat"), says = at("heat-says");
  const names = (canvas.dataset.names || "").split(","), AXIS = canvas.dataset.layout === "window" ? 22 : 0;
  for (const radio of [at("agree"), at("disagree")]) if (radio) radio.addEventListener("change", () => { at("label").required = at("disagree").checked; });
  const base = `/read/case/${canvas.dataset.case}`;
  const RAMP = [[255, 237, 160], [254, 178, 76], [240, 59, 32], [128, 0, 38]];

  const reply = await fetch(`${base}/pixels`);
  if (!reply.ok) { says.textContent = "the image could not be loaded"; return; }
  const pixels = new Float32Array(await reply.arrayBuffer());
  let heat = null;

  const sorted = Float32Array.from(pixels.filter((_, n) => n % Math.ceil(pixels.length / 50000) === 0)).sort();
  const quantile = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
  let low = quantile(0.01), high = quantile(0.99);
  if (channels === 3) { low = Number(canvas.dataset.low); high = Number(canvas.dataset.high); }
  if (!(high > low)) high = low + 1;
  if (level) {
    const whole = Math.max(high - low, sorted[sorted.length - 1] - sorted[0]);
    Object.assign(level, { min: low - whole / 2, max: high + whole / 2 });
    Object.assign(span, { min: whole / 200, max: 2 * whole });
    level.value = (low + high) / 2; span.value = high - low;
  }

  const colour = (v) => {
    const p = Math.min(0.9999, v / 255) * (RAMP.length - 1), k = Math.floor(p), s = p - k;
    return RAMP[k].map((c, n) => c * (1 - s) + RAMP[k + 1][n] * s);
  };
  const short = (v) => Math.abs(v) >= 10 ? Math.round(v) : v.toFixed(2);

  function image(context) {
    const z = slice ? Number(slice.value) : 0, plane = height * width, all = depth * plane;
    const from = Number(level.value) - Number(span.value) / 2, over = Number(span.value);
    const data = context.createImageData(width, height);
    for (let n = 0; n < plane; n++) {
      const grey = [0, 1, 2].map((c) => 255 * (pixels[(channels === 3 ? c : 0) * all + z * plane + n] - from) / over);
      const v = heat && heatBox.checked ? heat[z * plane + n] : 0, a = 0.55 * v / 255, hot = v ? colour(v) : grey;
      for (let c = 0; c < 3; c++) data.data[4 * n + c] = Math.max(0, Math.min(255, grey[c])) * (1 - a) + hot[c] * a;
      data.data[4 * n + 3] = 255;
    }
    context.putImageData(data, 0, 0);
    if (slice) at("slice-at").textContent = `${z + 1} of ${depth}`;
    at("level-at").textContent = short(Number(level.value)); at("width-at").textContent = short(over);
  }

  function lanes(context) {
    const lane = (canvas.height - AXIS) / channels, step = canvas.width / width;
    context.fillStyle = "#fff"; context.fillRect(0, 0, canvas.width, canvas.height);
    if (heat && heatBox.checked) for (let x = 0; x < width; x++) {
      const [r, g, b] = colour(heat[x]);
      context.fillStyle = `rgba(${r},${g},${b},${0.55 * heat[x] / 255})`;
      context.fillRect(Math.round(x * step), 0, Math.round((x + 1) * step) - Math.round(x * step), canvas.height - AXIS);
    }
    context.strokeStyle = "#16202a"; context.lineWidth = 1.5;
    for (let c = 0; c < channels; c++) {
      const row = pixels.subarray(c * width, (c + 1) * width), least = Math.min(...row), most = Math.max(...row);
      context.beginPath();
      row.forEach((v, x) => context.lineTo((x + 0.5) * step, (c + 0.9) * lane - 0.8 * lane * (v - least) / (most - least || 1)));
      context.stroke();
      context.font = "13px system-ui, sans-serif";
      const name = `${names[c] || `channel ${c + 1}`}: ${short(least)} to ${short(most)} ${canvas.dataset.unit}`;
      context.fillStyle = "rgba(255,255,255,.75)"; context.fillRect(2, c * lane + 2, context.measureText(name).width + 8, 17);
      context.fillStyle = "#16202a"; context.fillText(name, 6, c * lane + 15);
      context.fillStyle = "#d5dce2"; context.fillRect(0, (c + 1) * lane - 1, canvas.width, 1);
    }
    context.fillStyle = "#55636f"; context.font = "13px system-ui, sans-serif";
    const start = Number(canvas.dataset.start), end = Number(canvas.dataset.end);
    if (AXIS) for (let s = Math.ceil(start); s <= end; s++) {
      const x = (s - start) / (end - start) * canvas.width;
      context.fillRect(x, canvas.height - AXIS, 1, 6);
      context.fillText(`${s} s`, Math.min(x + 3, canvas.width - 30), canvas.height - 4);
    }
  }

  if (drawn) { canvas.width = 900; canvas.height = Math.min(900, 90 * channels) + AXIS; }
  else { canvas.width = width; canvas.height = height; canvas.style.aspectRatio = `${width} / ${height}`; }
  const draw = () => { const c = canvas.getContext("2d"); (drawn ? lanes : image)(c); canvas.dataset.drawn = heat && heatBox.checked ? "heat" : "plain"; };
  draw();

  async function toggled() {
    if (heatBox.checked && !heat) {
      says.textContent = "is computed ...";
      const found = await fetch(`${base}/heat`);
      if (!found.ok) { says.textContent = "could not be made"; heatBox.checked = false; return; }
      heat = new Uint8Array(await found.arrayBuffer());
      says.textContent = `what speaks for ${found.headers.get("X-Classes").replaceAll(",", " or ")} (${found.headers.get("X-Method")})`;
    }
    draw();
  }
  heatBox.addEventListener("change", toggled);
  for (const input of [slice, level, span]) if (input) input.addEventListener("input", draw);

  const move = (input, steps) => { if (input) { input.value = Number(input.value) + steps * (input === slice ? 1 : (input.max - input.min) / 40); draw(); } };
  let from = null;
  canvas.addEventListener("pointerdown", (e) => { from = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointerup", () => { from = null; });
  canvas.addEventListener("pointermove", (e) => {
    if (!from || !level) return;
    move(span, (e.clientX - from[0]) / 20); move(level, (from[1] - e.clientY) / 20);
    from = [e.clientX, e.clientY];
  });
  canvas.addEventListener("wheel", (e) => { if (slice) { e.preventDefault(); move(slice, Math.sign(e.deltaY)); } }, { passive: false });
  const keys = {
    h: () => { if (!heatBox.disabled) { heatBox.checked = !heatBox.checked; toggled(); } },
    ArrowUp: () => move(slice, -1), ArrowDown: () => move(slice, 1), "[": () => move(level, -1), "]": () => move(level, 1),
    "-": () => move(span, -1), "+": () => move(span, 1), "=": () => move(span, 1),
    a: () => { if (at("agree")) { at("agree").click(); at("agree").focus(); } },  // Enter then saves
    d: () => { if (at("disagree")) at("disagree").click(); at("label").focus(); },
    l: () => { location.href = "/read"; },
  };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || ["TEXTAREA", "SELECT"].includes(e.target.tagName)) return;
    if (e.target.tagName === "INPUT" && e.target.type === "range" && e.key.startsWith("Arrow")) return;
    const act = keys[e.key.length === 1 ? e.key.toLowerCase() : e.key];
    if (act) { e.preventDefault(); act(); }
  });
})();
