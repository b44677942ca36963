// Reads a bundle that mammoth_compiled exported: manifest.json and the files it lists.

export const SCHEMA = 1;
const MAX_MANIFEST_BYTES = 1 << 20;

/** A problem with a bundle; `code` is the same as in the Python and C++ readers. */
export class BundleError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "BundleError";
    this.code = code;
  }
}

export class Bundle {
  /** Opens the bundle in a directory of the server; `url` ends in a slash. */
  static async open(url) {
    const bytes = await download(url, "manifest.json");
    if (bytes.length > MAX_MANIFEST_BYTES) {
      throw new BundleError("damaged", "manifest.json is larger than 1 MiB.");
    }
    let manifest;
    try {
      manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (error) {
      throw new BundleError("damaged", `manifest.json is truncated or not JSON (${error.message}).`);
    }
    return new Bundle(url, checked(manifest));
  }

  constructor(url, manifest) {
    this.url = url;
    this.manifest = manifest;
    const [, ...item] = manifest.contract.input.shape;
    [this.height, this.width, this.channels] =
      manifest.contract.input.layout === "NHWC" ? item : [item[1], item[2], item[0]];
  }

  /** The ONNX files with the output `out`: float32 first, then by number of outputs. */
  get models() {
    const rank = (file) => ["fp32", "fp16", "int8"].indexOf(file.precision);
    return this.manifest.files
      .filter((file) => file.format === "onnx" && file.outputs?.includes("out"))
      .sort((a, b) => rank(a) - rank(b) || a.outputs.length - b.outputs.length);
  }

  /** The name of the class that a column of `out` stands for. */
  className(column) {
    const { ids, names } = this.manifest.classes;
    return names[column] ?? `class ${ids[column]}`;
  }

  /** Whether the model was trained on the class of a column; true if that is unknown. */
  isSeen(column) {
    const { ids, seen } = this.manifest.classes;
    return seen.length === 0 || seen.includes(ids[column]);
  }

  /** Downloads a listed file and compares its SHA-256 with the manifest. */
  async read(path) {
    const entry = this.manifest.files.find((file) => file.path === path);
    if (!entry) throw new BundleError("damaged", `manifest.json does not list ${path}.`);
    const bytes = await download(this.url, path);
    const hash = await sha256(bytes);
    if (hash !== null && hash !== entry.sha256) {
      throw new BundleError(
        "damaged",
        `${path} is not the file that was exported: its SHA-256 is ${hash.slice(0, 12)}…, and the ` +
          `manifest says ${entry.sha256.slice(0, 12)}…. Copy the bundle again.`,
      );
    }
    return bytes;
  }

  /** Reads one of the golden arrays: {shape, data}. */
  async golden(path) {
    return parseNpy(await this.read(path), path);
  }
}

/** Whether hashes can be computed; browsers allow it on https and localhost only. */
export const canHash = globalThis.crypto?.subtle !== undefined;

/** Reads a .npy file of version 1.0 in C order, float32 or uint8. */
export function parseNpy(bytes, name) {
  const damaged = (why) => new BundleError("damaged", `${name} is damaged: ${why}.`);
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0];
  if (!magic.every((byte, i) => bytes[i] === byte)) throw damaged("it is not a .npy file of version 1.0");
  const start = 10 + bytes[8] + 256 * bytes[9];
  const header = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const type = /'descr': *'([^']+)'/.exec(header)?.[1];
  const shape = /'shape': *\(([^)]*)\)/.exec(header)?.[1].split(",").filter((s) => s.trim());
  const arrays = { "<f4": Float32Array, "|u1": Uint8Array };
  if (!(type in arrays) || !shape || !/'fortran_order': *False/.test(header)) {
    throw damaged("it is not a float32 or uint8 array in C order");
  }
  const sizes = shape.map(Number);
  const body = bytes.slice(start).buffer;
  const count = sizes.reduce((product, size) => product * size, 1);
  if (body.byteLength !== count * arrays[type].BYTES_PER_ELEMENT) throw damaged("it is truncated");
  return { shape: sizes, data: new arrays[type](body) };
}

async function download(base, path) {
  let response;
  try {
    response = await fetch(new URL(path, base));
  } catch (error) {
    throw new BundleError("missing", `${path} cannot be fetched from ${base}: ${error.message}.`);
  }
  if (!response.ok) {
    throw new BundleError("missing", `There is no ${path} at ${base} (HTTP ${response.status}).`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function sha256(bytes) {
  if (!canHash) return null;
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns a manifest after checking the fields that this page uses. */
function checked(manifest) {
  const need = (condition, what) => {
    if (!condition) throw new BundleError("damaged", `manifest.json is damaged: ${what}.`);
  };
  const isList = Array.isArray;
  const isCount = (value) => Number.isInteger(value) && value > 0;
  need(isCount(manifest?.schema), "it has no schema number");
  if (manifest.schema > SCHEMA) {
    throw new BundleError(
      "schema",
      `The bundle has schema ${manifest.schema}, and this page reads ${SCHEMA}. ` +
        "Use the page of the version that wrote the bundle.",
    );
  }
  const { contract, classes, files, golden, preprocessing } = manifest;
  const input = contract?.input;
  need(isList(input?.shape) && input.shape.length === 4, "contract.input.shape does not have four sizes");
  need(input.shape.slice(1).every(isCount), "contract.input.shape has a size that is not a number");
  need(["NCHW", "NHWC"].includes(input.layout), "contract.input.layout is not NCHW or NHWC");
  need(["float32", "uint8"].includes(input.dtype), "contract.input.dtype is not float32 or uint8");
  need(isList(contract.outputs), "contract.outputs is not a list");
  const out = contract.outputs.find((output) => output?.name === "out");
  need(isList(out?.shape) && isCount(out.shape[1]), "contract.outputs has no out of known width");
  need(
    isList(classes?.ids) && isList(classes.names) && isList(classes.seen) && isList(classes.tasks),
    "classes lacks ids, names, seen or tasks",
  );
  need(classes.ids.length === out.shape[1], "classes.ids does not have one entry per column of out");
  if (preprocessing && !preprocessing.folded) {
    const channels = input.shape[1];
    need(
      Number.isFinite(preprocessing.scale) &&
        ["mean", "std"].every((key) => preprocessing[key]?.length === channels),
      "preprocessing lacks the scale, or mean and std of every channel",
    );
  }
  need(isList(files), "files is not a list");
  for (const file of files) {
    need(typeof file?.path === "string" && /^[0-9a-f]{64}$/.test(file.sha256), "a file has no hash");
  }
  const golds = golden ? [golden.input, ...Object.values(golden.outputs ?? {})] : [];
  for (const path of [...files.map((file) => file.path), ...golds]) {
    if (!/^[^\\:]+$/.test(path) || path.split("/").some((part) => ["", ".", ".."].includes(part))) {
      throw new BundleError("path", `manifest.json names ${path}, which is outside the bundle.`);
    }
  }
  return manifest;
}
