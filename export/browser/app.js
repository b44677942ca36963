// The page: shows a bundle, and classifies test images and the visitor's own images.
// ?bundle=DIR/ and ?samples=FILE.json replace the bundle and the samples beside the page.

import { Bundle, BundleError, canHash } from "./bundle.js";
import { Model, preprocess, probabilities, runtimeVersion } from "./model.js";

const query = new URLSearchParams(location.search);
const folder = query.get("bundle") ?? "bundle/";
const bundleUrl = new URL(folder.endsWith("/") ? folder : `${folder}/`, location.href);
const samplesUrl = new URL(query.get("samples") ?? "samples.json", location.href);

const $ = (id) => document.getElementById(id);
const state = {
  bundle: null,
  model: null,
  samples: [],
  shown: null,
  last: Promise.resolve(),
  pending: 0,
};

guard(start);

async function start() {
  const bundle = (state.bundle = await Bundle.open(bundleUrl));
  describe(bundle);
  if (bundle.models.length === 0) {
    throw new BundleError("missing", "The bundle has no ONNX file with the output out.");
  }
  $("model").replaceChildren(
    ...bundle.models.map((file, i) => new Option(`${file.path} · ${size(file.bytes)}`, i)),
  );
  $("model").addEventListener("change", () => guard(selectModel));
  $("controls").hidden = $("main").hidden = false;
  if (bundle.manifest.preprocessing) {
    await loadSamples();
    listen();
  } else {
    for (const id of ["drop", "invert"]) $(id).closest("label").hidden = true;
    $("no-samples").textContent =
      "The manifest does not say how pixels are preprocessed, so images cannot be classified.";
    $("no-samples").hidden = false;
  }
  await selectModel();
}

/** Opens the selected model file, verifies it on the golden input and classifies all samples. */
async function selectModel() {
  const { bundle } = state;
  const file = bundle.models[Number($("model").value)];
  busy(`Loading ${file.path}…`);
  const previous = state.model;
  state.model = await Model.open(bundle, file);
  await previous?.release();
  for (const row of $("files").rows) row.classList.toggle("chosen", row.dataset.path === file.path);
  await showGolden(file);
  await classifySamples();
  if (state.shown) await show(state.shown);
  else if (state.samples.length) await show(state.samples[0]);
  $("status").textContent = `Ready · ONNX Runtime Web ${runtimeVersion}`;
  $("status").classList.remove("busy");
}

function describe({ manifest, models, channels, height, width }) {
  const { contract, classes, preprocessing, versions } = manifest;
  document.title = `${manifest.name} in the browser`;
  $("name").textContent = manifest.name;
  const { seen, ids } = classes;
  $("subtitle").textContent = [
    manifest.dataset && `trained on ${manifest.dataset}`,
    `${width}×${height}, ${channels} ${channels === 1 ? "channel" : "channels"}`,
    `${ids.length} classes`,
  ]
    .filter(Boolean)
    .join(" · ");
  $("contract").replaceChildren(
    ...[contract.input, ...contract.outputs].map((tensor) =>
      row(code(tensor.name), tensor.dtype, code(`[${tensor.shape.join(", ")}]`)),
    ),
  );
  $("formula").textContent = formula(preprocessing, contract.input);
  $("tasks-seen").textContent = seen.length
    ? `${seen.length} of ${ids.length} classes seen, after task ${manifest.classes.tasks_seen}`
    : "";
  $("tasks").replaceChildren(...tasks(classes));
  $("hashes").textContent = canHash
    ? "each verified by its hash before use"
    : "hashes not verified: browsers allow that on https and localhost only";
  $("files").replaceChildren(
    ...manifest.files.map((file) => {
      const accuracy = file.accuracy?.class_il;
      const line = row(
        code(file.path),
        file.precision ?? "",
        file.outputs?.join(", ") ?? "",
        size(file.bytes),
        accuracy === undefined ? "" : `${(100 * accuracy).toFixed(2)} %`,
        code(`${file.sha256.slice(0, 12)}…`),
      );
      line.dataset.path = file.path;
      line.cells[3].className = line.cells[4].className = "number";
      return line;
    }),
  );
  const writers = Object.entries(versions ?? {}).map(([name, version]) => `${name} ${version}`);
  $("footer").textContent = `Schema ${manifest.schema} · ${writers.join(" · ")}`;
}

function formula(preprocessing, input) {
  if (!preprocessing) return "unknown";
  if (preprocessing.folded) return `the graph normalizes ${input.dtype} pixels itself`;
  const list = (values) => `[${values.map((value) => Number(value.toFixed(4))).join(", ")}]`;
  const { scale, mean, std } = preprocessing;
  const scaled = Math.abs(scale * 255 - 1) < 1e-6 ? "pixel / 255" : `pixel × ${scale}`;
  return `(${scaled} - ${list(mean)}) / ${list(std)}, ${input.layout}`;
}

function tasks({ tasks: ranges, tasks_seen: done, ids, names, seen }) {
  const name = (id) => names[ids.indexOf(id)] ?? `class ${id}`;
  const groups = ranges.length
    ? ranges.map(([first, end]) => Array.from({ length: end - first }, (_, k) => first + k))
    : [ids];
  return groups.map((group, t) => {
    const item = element("li");
    if (ranges.length) item.append(element("span", `Task ${t + 1}`, "task"));
    for (const id of group) {
      const known = seen.length ? seen.includes(id) : t < done || !ranges.length;
      const chip = element("span", name(id), known ? "chip" : "chip unseen");
      if (!known) chip.append(element("span", ", not seen yet", "visually-hidden"));
      item.append(chip);
    }
    return item;
  });
}

/** Runs the golden input and compares the logits with those of PyTorch in eager mode. */
async function showGolden(file) {
  const { golden } = state.bundle.manifest;
  if (!golden?.outputs?.out) return;
  const input = await state.bundle.golden(golden.input);
  const expected = await state.bundle.golden(golden.outputs.out);
  const { logits } = await state.model.run(input);
  const actual = logits.flat();
  const difference = Math.max(...actual.map((value, i) => Math.abs(value - expected.data[i])));
  const largest = Math.max(...expected.data.map(Math.abs));
  // The bound of float32 files at export; smaller variants are judged by their accuracy.
  const equal = difference <= 1e-5 + 1e-4 * largest;
  if (file.precision === "fp32" && !equal) {
    throw new BundleError(
      "backend",
      `${file.path} differs from eager by ${difference.toExponential(1)} on the golden input.`,
    );
  }
  $("golden").dataset.logits = JSON.stringify(actual);
  $("golden").textContent =
    `${equal ? "✓ equals" : "differs from"} eager on ${logits.length} golden inputs ` +
    `(${equal ? "to" : "by"} ${difference.toExponential(1)})`;
}

async function loadSamples() {
  const response = await fetch(samplesUrl).catch(() => null);
  const about = response?.ok ? await response.json().catch(() => null) : null;
  const { width, height } = state.bundle;
  const fits = about && about.width === width && about.height === height;
  if (!fits) {
    if (about) $("no-samples").textContent = `The samples are not ${width}×${height} pixels.`;
    $("no-samples").hidden = false;
    return;
  }
  const sprite = new Image();
  sprite.src = new URL(about.image, samplesUrl);
  await sprite.decode();
  state.samples = about.labels.map((label, i) => {
    const canvas = picture((context) => context.drawImage(sprite, 0, -i * height));
    const name = label === null ? "" : (about.names[label] ?? `class ${label}`);
    const button = element("button");
    button.type = "button";
    button.append(canvas);
    const sample = { canvas, label, name, button };
    button.addEventListener("click", () => guard(() => show(sample)));
    return sample;
  });
  $("samples").replaceChildren(...state.samples.map((sample) => sample.button));
}

/** Marks every test image as right or wrong, or as unseen if its class was not trained. */
async function classifySamples() {
  const { bundle, model, samples } = state;
  if (!samples.length) return;
  const { logits } = await model.run(preprocess(bundle, samples.map(pixels)));
  const { ids } = bundle.manifest.classes;
  const counts = { right: 0, wrong: 0, unseen: 0 };
  samples.forEach(({ label, name, button }, i) => {
    const column = best(probabilities(bundle, logits[i]));
    const known = ids.includes(label) && bundle.isSeen(ids.indexOf(label));
    const mark = !known ? "unseen" : ids[column] === label ? "right" : "wrong";
    const predicted = `predicted as ${bundle.className(column)}`;
    if (label === null) {
      button.title = predicted;
      button.setAttribute("aria-label", `Image ${i + 1}: ${predicted}`);
      return;
    }
    const verdicts = { right: "correct", wrong: predicted, unseen: `unseen class, ${predicted}` };
    counts[mark] += 1;
    button.className = mark;
    button.title = `${name}: ${verdicts[mark]}`;
    button.setAttribute("aria-label", `Test image ${i + 1}, ${name}: ${verdicts[mark]}`);
  });
  const labeled = samples.some((sample) => sample.label !== null);
  $("score").textContent = labeled
    ? `${counts.right} of ${counts.right + counts.wrong} correct` +
      (counts.unseen ? `, ${counts.unseen} of unseen classes` : "")
    : "golden images of the bundle";
}

/** Classifies one image and shows the result. */
async function show(image) {
  state.shown = image;
  const { bundle, model } = state;
  const { logits, milliseconds } = await model.run(preprocess(bundle, [pixels(image)]));
  const shares = probabilities(bundle, logits[0]);
  const top = best(shares);
  const preview = $("preview");
  [preview.width, preview.height] = [bundle.width, bundle.height];
  preview.getContext("2d").drawImage(image.canvas, 0, 0);
  for (const sample of state.samples) {
    sample.button.setAttribute("aria-pressed", String(sample === image));
  }
  $("headline").textContent = `${bundle.className(top)} · ${percent(shares[top])}`;
  $("truth").textContent = image.name
    ? `True class: ${image.name}`
    : image.button
      ? ""
      : "Your image, as the model sees it";
  $("time").textContent = `${milliseconds.toFixed(1)} ms, one thread`;
  $("bars").replaceChildren(
    ...logits[0].map((logit, column) => {
      const seen = bundle.isSeen(column);
      const line = element("tr", "", column === top ? "best" : seen ? "" : "unseen");
      const name = element("th", bundle.className(column));
      name.scope = "row";
      const bar = element("td");
      const track = element("div", "", "track");
      const fill = element("div", "", "fill");
      fill.style.width = `${100 * shares[column]}%`;
      track.append(fill);
      bar.append(track);
      const share = element("td", seen ? percent(shares[column]) : "unseen", "number");
      const value = element("td", logit < -1e30 ? "masked" : logit.toFixed(2), "number");
      line.append(name, bar, share, value);
      line.dataset.logit = logit;
      return line;
    }),
  );
}

function listen() {
  const [drop, file] = [$("drop"), $("file")];
  let own = null;
  const take = (chosen) =>
    guard(async () => {
      if (!chosen) return;
      own = await createImageBitmap(chosen).catch(() => null);
      if (own) await showOwn(own);
      else $("truth").textContent = `${chosen.name} is not an image that this browser can read.`;
    });
  file.addEventListener("change", () => take(file.files[0]));
  $("invert").addEventListener("change", () => guard(() => own && showOwn(own)));
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) {
    drop.addEventListener(type, () => drop.classList.remove("over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

/** Scales an image to fit the model's input, centered on a plain background. */
function showOwn(bitmap) {
  const { width, height } = state.bundle;
  const inverted = $("invert").checked;
  const canvas = picture((context) => {
    const scale = Math.min(width / bitmap.width, height / bitmap.height);
    const [w, h] = [bitmap.width * scale, bitmap.height * scale];
    context.fillStyle = inverted ? "white" : "black";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
    if (inverted) {
      context.globalCompositeOperation = "difference";
      context.fillStyle = "white";
      context.fillRect(0, 0, width, height);
    }
  });
  return show({ canvas });
}

/** Queues an action, so that actions run one at a time, and shows its error if it fails. */
function guard(action) {
  state.pending += 1;
  document.body.ariaBusy = "true";
  state.last = state.last.then(action).catch(fail).finally(() => {
    state.pending -= 1;
    if (state.pending === 0) document.body.ariaBusy = "false";
  });
  return state.last;
}

function fail(error) {
  if (!(error instanceof BundleError)) console.error(error);
  $("main").hidden = $("controls").hidden = true;
  if (!state.bundle) $("name").textContent = "No bundle";
  $("error-message").textContent = error.message;
  $("error").dataset.code = error.code ?? "page";
  $("error-url").textContent = bundleUrl.href;
  $("error").hidden = false;
}

function busy(text) {
  $("status").textContent = text;
  $("status").classList.add("busy");
}

function picture(draw) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [state.bundle.width, state.bundle.height];
  draw(canvas.getContext("2d", { willReadFrequently: true }));
  return canvas;
}

function pixels({ canvas }) {
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
}

function best(values) {
  return values.indexOf(Math.max(...values));
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function element(tag, text = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
}

function code(text) {
  return element("code", text);
}

function row(...cells) {
  const line = element("tr");
  for (const cell of cells) {
    const td = element("td");
    td.append(cell);
    line.append(td);
  }
  return line;
}
