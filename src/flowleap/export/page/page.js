// The page: state in the address bar, one queue of work, four drawings. `flowleap` is for scripts and tests.
(() => {
  const $ = (id) => document.getElementById(id);
  const about = JSON.parse($("about-model").textContent);
  const size = about.shape.reduce((a, b) => a * b, 1);
  const noiseOf = makeNoise(about.noise.stream, size);
  const [few, more] = Object.keys(about.times).map(Number).sort((a, b) => a - b);
  const gap = Math.max(1, Math.round(about.image[2] / 14)); // pixels between the images of a grid
  const SHEET = 8, MAP = 7, LARGEST_SEED = Number.MAX_SAFE_INTEGER;
  const FRAME = 40; // milliseconds of work between two looks at the pointer
  const state = { seed: 0, label: 0, guidance: about.guidance ?? 1, u: 0.5, v: 0.5, turns: true };
  let run = null, ort = null;

  // ------------------------------------------------------------ the model

  async function load() {
    const total = about.files.reduce((sum, file) => sum + file.bytes, 0);
    let got = 0;
    const bytes = async ({ name, bytes: expected }) => {
      const answer = await fetch(name);
      if (!answer.ok) throw new Error(`${name}: the server answered ${answer.status}`);
      const held = new Uint8Array(expected), reader = answer.body.getReader();
      for (let at = 0; ; ) {
        const { done, value } = await reader.read();
        if (done) {
          if (at !== expected) throw new Error(`${name} has ${at} bytes, ${expected} are expected`);
          return held;
        }
        if (at + value.length > expected) throw new Error(`${name} has more than the expected ${expected} bytes`);
        held.set(value, at);
        at += value.length;
        got += value.length;
        $("bar").value = got / total;
      }
    };
    const [library, model, wasm] = await Promise.all([import(about.library), ...about.files.map(bytes)]);
    $("progress").textContent = "Starting…";
    ort = library;
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = wasm.buffer;
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(model, { executionProviders: about.providers, logSeverityLevel: 3 });
    const asks = new Set(session.inputNames);
    run = async (noise, labels, steps, guidance) => {
      const rows = labels.length;
      const given = { noise: new ort.Tensor("float32", noise, [rows, ...about.shape]) };
      if (asks.has("label")) given.label = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [rows]);
      if (asks.has("guidance")) given.guidance = new ort.Tensor("float32", new Float32Array(rows).fill(guidance), [rows]);
      if (asks.has("times")) given.times = new ort.Tensor("float32", Float32Array.from(about.times[steps]), [about.times[steps].length]);
      const begun = performance.now();
      const image = (await session.run(given)).image;
      const took = performance.now() - begun;
      const data = image.data;
      return { data, shape: image.dims.slice(1), took };
    };
  }

  // ------------------------------------------------------------ noise

  const angle = (a, b) => {
    let dot = 0, aa = 0, bb = 0;
    for (let i = 0; i < size; i++) (dot += a[i] * b[i]), (aa += a[i] * a[i]), (bb += b[i] * b[i]);
    return Math.acos(Math.max(-1, Math.min(1, dot / Math.sqrt(aa * bb))));
  };

  // spherical interpolation: weights sin((1 − f) θ) / sin θ and sin(f θ) / sin θ keep the noise as long as it was
  function between(a, b, f) {
    const theta = angle(a, b), sine = Math.sin(theta);
    const [p, q] = sine < 1e-6 ? [1 - f, f] : [Math.sin((1 - f) * theta) / sine, Math.sin(f * theta) / sine];
    return a.map((value, i) => p * value + q * b[i]);
  }

  const seeds = () => [0, 1, 2, 3].map((i) => (state.seed + i) % LARGEST_SEED);
  let corners = { seed: null, noise: [] };
  function inside(u, v) {
    if (corners.seed !== state.seed) corners = { seed: state.seed, noise: seeds().map((seed) => noiseOf(seed, 0)) };
    const [a, b, c, d] = corners.noise;
    return between(between(a, b, u), between(c, d, u), v);
  }

  function stacked(rows) {
    const all = new Float32Array(rows.length * size);
    rows.forEach((row, i) => all.set(row, i * size));
    return all;
  }

  // ------------------------------------------------------------ pictures

  const byte = (value) => Math.max(0, Math.min(255, Math.round((value + 1) * 127.5)));
  const sideOf = (shape) => ({ channels: shape[0], height: shape[1], width: shape[2] });

  // draw one image of a batch on a canvas, whose place is in images
  function put(canvas, data, shape, row = 0, column = 0, line = 0, gap = 0) {
    const { channels, height, width } = sideOf(shape);
    const pixels = new ImageData(width, height), plane = height * width, from = row * channels * plane;
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = byte(data[from + (channels === 1 ? 0 : c) * plane + i]);
      pixels.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, column * (width + gap), line * (height + gap));
  }

  function fit(canvas, shape, columns = 1, lines = 1, gap = 0) {
    const { height, width } = sideOf(shape);
    const [w, h] = [columns * (width + gap) - gap, lines * (height + gap) - gap];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    canvas.classList.toggle("pixels", width < 64);
  }

  function save(canvas, name) {
    const factor = Math.max(1, Math.ceil(512 / canvas.width));
    const copy = Object.assign(document.createElement("canvas"), { width: canvas.width * factor, height: canvas.height * factor });
    const brush = copy.getContext("2d");
    brush.imageSmoothingEnabled = false;
    brush.drawImage(canvas, 0, 0, copy.width, copy.height);
    copy.toBlob((blob) => {
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }, "image/png");
  }

  const milliseconds = (value) => `${value < 9.95 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ms`;
  const recent = {};
  function usual(name, took) {
    const kept = (recent[name] = [...(recent[name] ?? []), took].slice(-9));
    return [...kept].sort((a, b) => a - b)[kept.length >> 1];
  }

  // ------------------------------------------------------------ work

  // one task of a name at a time, the newest; a task is a generator that yields after each piece of its work
  const ORDER = ["stage", "point", "map", "many"];
  const tasks = new Map();
  let working = false;
  const breathe = () => new Promise((go) => setTimeout(go));
  function want(name, task) {
    tasks.set(name, task);
    if (!working) work();
  }
  async function work() {
    working = true;
    document.body.setAttribute("aria-busy", "true");
    try {
      while (tasks.size) {
        const name = ORDER.find((one) => tasks.has(one)), task = tasks.get(name);
        const { done } = await task.next();
        if (done && tasks.get(name) === task) tasks.delete(name);
        await breathe();
      }
    } catch (error) {
      tasks.clear();
      fail(error);
    }
    working = false;
    document.body.setAttribute("aria-busy", "false");
  }

  async function* stage() {
    const { seed, label, guidance } = state, noise = noiseOf(seed, 0);
    fit($("noise"), about.shape);
    put($("noise"), noise.map((value) => value / 3), about.shape);
    $("noise-is").textContent = `seed ${seed}`;
    for (const [name, steps] of [["short", few], ["long", more]]) {
      const made = await run(noise, [label], steps, guidance);
      fit($(name), made.shape);
      put($(name), made.data, made.shape);
      yield;
      const timed = recent[name] ? made : await run(noise, [label], steps, guidance); // the first call is slower
      $(`${name}-took`).textContent = milliseconds(usual(name, timed.took));
    }
  }

  async function* point() {
    const { u, v, label, guidance } = state;
    const made = await run(inside(u, v), [label], few, guidance);
    fit($("between-image"), made.shape);
    put($("between-image"), made.data, made.shape);
    $("between-took").textContent = milliseconds(usual("short", made.took));
  }

  // images of a list of noises, in batches that are small enough for the page to answer in between
  async function* batches(noises, labels, each) {
    let rows = 1;
    for (let start = 0; start < noises.length; ) {
      const part = noises.slice(start, start + rows);
      const made = await run(stacked(part), labels.slice(start, start + rows), few, state.guidance);
      part.forEach((_, i) => each(made, i, start + i));
      start += part.length;
      rows = Math.max(1, Math.min(16, Math.floor(FRAME / Math.max(made.took / part.length, 1))));
      yield made.took;
    }
  }

  async function* map() {
    const places = [...Array(MAP * MAP).keys()].map((i) => [(i % MAP) / (MAP - 1), Math.floor(i / MAP) / (MAP - 1)]);
    const noises = places.map(([u, v]) => inside(u, v)), labels = places.map(() => state.label);
    yield* batches(noises, labels, (made, i, n) => {
      fit($("map"), made.shape, MAP, MAP, gap);
      put($("map"), made.data, made.shape, i, n % MAP, Math.floor(n / MAP), gap);
    });
  }

  async function* many() {
    const count = SHEET * SHEET, numbers = [...Array(count).keys()];
    const labels = numbers.map((i) => (state.turns && about.classes.length ? i % about.classes.length : state.label));
    let took = 0;
    const noises = numbers.map((i) => noiseOf(state.seed, i));
    for await (const spent of batches(noises, labels, (made, i, n) => {
      fit($("grid"), made.shape, SHEET, SHEET, gap);
      put($("grid"), made.data, made.shape, i, n % SHEET, Math.floor(n / SHEET), gap);
    })) {
      took += spent;
      yield;
    }
    $("many-took").textContent = milliseconds(took / count);
    $("many-total").textContent = `${count} images in ${milliseconds(took)}`;
  }

  // ------------------------------------------------------------ state

  const stale = new Set(), seen = new Set();
  function refresh() {
    for (const [name, section, task] of [["map", "between", map], ["many", "many", many]]) {
      if (run && stale.has(name) && seen.has(section)) {
        stale.delete(name);
        want(name, task());
      }
    }
  }

  function renew(...names) {
    show();
    if (!run) return;
    if (names.includes("stage")) want("stage", stage());
    if (names.includes("point")) want("point", point());
    for (const name of ["map", "many"]) if (names.includes(name)) stale.add(name);
    refresh();
  }
  const everything = () => renew("stage", "point", "map", "many");

  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);

  function show() {
    if (document.activeElement !== $("seed") || $("seed").valueAsNumber !== state.seed) $("seed").value = state.seed;
    for (const chip of document.querySelectorAll("input[name=class]")) chip.checked = Number(chip.value) === state.label;
    if ($("class")) $("class").value = state.label;
    if ($("guidance")) [$("guidance").value, $("guidance-is").textContent] = [state.guidance, state.guidance.toFixed(1)];
    if ($("turns")) $("turns").checked = state.turns;
    [$("across").value, $("down").value] = [state.u, state.v];
    [$("handle").style.left, $("handle").style.top] = [state.u, state.v].map((part) => `${(100 * (part * (MAP - 1) + 0.5)) / MAP}%`);
    seeds().forEach((seed, i) => ($(`corner-${i}`).textContent = `seed ${seed}`));
    const label = about.classes.length ? (state.turns ? " --label all" : ` --label ${quoted(about.classes[state.label])}`) : "";
    const scale = $("guidance") ? ` --guidance ${state.guidance}` : "";
    $("command").textContent = `${about.command} --num 64 --seed ${state.seed}${label}${scale}`;
  }

  function read() {
    const given = new URLSearchParams(location.search);
    const seed = Number(given.get("seed")), at = (given.get("at") ?? "").split(",").map(Number);
    if (given.has("seed") && Number.isSafeInteger(seed) && seed >= 0) state.seed = seed;
    const label = about.classes.indexOf(given.get("class"));
    if (label >= 0) state.label = label;
    const guidance = Number(given.get("guidance"));
    if (guidance >= 1 && guidance <= 8) state.guidance = guidance;
    if (at.length === 2 && at.every((part) => part >= 0 && part <= 1)) [state.u, state.v] = at;
  }

  function write(push = false) {
    const given = new URLSearchParams({ seed: state.seed });
    if (about.classes.length) given.set("class", about.classes[state.label]);
    if ($("guidance")) given.set("guidance", state.guidance);
    if (state.u !== 0.5 || state.v !== 0.5) given.set("at", [state.u, state.v].map((part) => +part.toFixed(3)).join(","));
    history[push ? "pushState" : "replaceState"](null, "", `?${given}${location.hash}`);
  }

  function fresh() {
    state.seed = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
    write(true);
    everything();
  }

  function move(u, v) {
    [state.u, state.v] = [u, v].map((part) => Math.max(0, Math.min(1, part)));
    renew("point");
  }

  // ------------------------------------------------------------ controls

  function listen() {
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    $("new").addEventListener("click", fresh);
    addEventListener("keydown", (event) => {
      const typing = event.target.closest?.("input[type=number], select, textarea");
      if (event.key.toLowerCase() === "n" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) fresh();
    });
    $("seed").addEventListener("input", () => {
      const seed = $("seed").valueAsNumber;
      if (!Number.isSafeInteger(seed) || seed < 0) return;
      state.seed = seed;
      write();
      everything();
    });
    const relabel = (event) => {
      state.label = Number(event.target.value);
      write();
      renew("stage", "point", "map", ...(state.turns ? [] : ["many"]));
    };
    for (const control of document.querySelectorAll("[name=class]")) control.addEventListener("change", relabel);
    $("guidance")?.addEventListener("input", () => {
      state.guidance = $("guidance").valueAsNumber;
      write();
      everything();
    });
    $("turns")?.addEventListener("change", () => {
      state.turns = $("turns").checked;
      renew("many");
    });
    for (const id of ["across", "down"]) $(id).addEventListener("input", () => move($("across").valueAsNumber, $("down").valueAsNumber));
    for (const id of ["across", "down"]) $(id).addEventListener("change", () => write());
    const drag = (event) => {
      const box = $("pad").getBoundingClientRect();
      const place = (part) => (part * MAP - 0.5) / (MAP - 1); // 0 and 1 are the middles of the outer images
      move(place((event.clientX - box.left) / box.width), place((event.clientY - box.top) / box.height));
    };
    $("pad").addEventListener("pointerdown", (event) => {
      $("pad").setPointerCapture(event.pointerId);
      drag(event);
    });
    $("pad").addEventListener("pointermove", (event) => $("pad").hasPointerCapture(event.pointerId) && drag(event));
    $("pad").addEventListener("pointerup", () => write());
    const named = () => `seed-${state.seed}${about.classes.length ? `-class-${state.label}` : ""}`;
    $("save-one").addEventListener("click", () => save($("short"), `${named()}.png`));
    $("save-many").addEventListener("click", () => save($("grid"), `seed-${state.seed}-64.png`));
    addEventListener("popstate", () => {
      const before = JSON.stringify(state);
      read();
      if (JSON.stringify(state) !== before) everything(); // not where only the section changed
    });
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
      refresh();
    }, { rootMargin: "200px" });
    for (const id of ["between", "many"]) watch.observe($(id));
  }

  function fail(error) {
    $("notice").hidden = $("failed").hidden = false;
    $("loading").hidden = true;
    $("reason").textContent = `${error?.message ?? error}. Is the folder whole, and is the browser up to date?`;
  }

  async function start() {
    read();
    show();
    if (location.protocol === "file:") {
      [$("loading").hidden, $("served").hidden] = [true, false];
      return;
    }
    listen();
    try {
      await load();
    } catch (error) {
      fail(error);
      return;
    }
    $("notice").hidden = true;
    document.body.classList.remove("waiting");
    everything();
  }

  globalThis.flowleap = {
    about,
    noise: noiseOf,
    ready: start(),
    generate: async (noise, label = 0, steps = few, guidance = state.guidance) => Array.from((await run(Float32Array.from(noise), [label], steps, guidance)).data),
  };
})();
