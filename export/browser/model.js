// Runs a bundle's ONNX model: preprocessing, inference and probabilities.

import * as ort from "onnxruntime-web";
import { BundleError } from "./bundle.js";

// More threads would need SharedArrayBuffer, and so headers that a plain static server does not send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", import.meta.url).href;

export const runtimeVersion = ort.env.versions.web;

export class Model {
  /** Opens one of `bundle.models` after checking its hash. */
  static async open(bundle, file) {
    const bytes = await bundle.read(file.path);
    let session;
    try {
      session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new BundleError("damaged", `${file.path} cannot be run: ${error.message}`);
    }
    return new Model(bundle, session);
  }

  constructor(bundle, session) {
    this.bundle = bundle;
    this.session = session;
    this.input = bundle.manifest.contract.input;
  }

  /** Runs a batch, {data, shape}, and returns one array of logits per image and the elapsed time. */
  async run({ data, shape }) {
    const feeds = { [this.input.name]: new ort.Tensor(this.input.dtype, data, shape) };
    const start = performance.now();
    let outputs;
    try {
      outputs = await this.session.run(feeds, ["out"]);
    } catch (error) {
      throw new BundleError("backend", `ONNX Runtime fails: ${error.message}`);
    }
    const milliseconds = performance.now() - start;
    const values = await outputs.out.getData();
    const width = values.length / shape[0];
    const logits = Array.from({ length: shape[0] }, (_, i) =>
      Array.from(values.subarray(i * width, (i + 1) * width)),
    );
    for (const output of Object.values(outputs)) output.dispose();
    return { logits, milliseconds };
  }

  /** Closes the model and frees its memory. */
  release() {
    return this.session.release();
  }
}

/**
 * Turns images (ImageData of the bundle's size) into a batch for the model: normalized per
 * channel, or unchanged pixels if the graph normalizes them itself.
 */
export function preprocess(bundle, images) {
  const { input } = bundle.manifest.contract;
  const { preprocessing } = bundle.manifest;
  const { channels, height, width } = bundle;
  const size = height * width;
  const data = new (input.dtype === "uint8" ? Uint8Array : Float32Array)(
    images.length * channels * size,
  );
  const planar = input.layout === "NCHW";
  const { scale, mean, std } = preprocessing.folded
    ? { scale: 1, mean: Array(channels).fill(0), std: Array(channels).fill(1) }
    : preprocessing;
  images.forEach(({ data: rgba }, n) => {
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < channels; c++) {
        const pixel = channels === 1 ? luminance(rgba, 4 * i) : rgba[4 * i + c];
        const at = planar ? (n * channels + c) * size + i : (n * size + i) * channels + c;
        data[at] = (pixel * scale - mean[c]) / std[c];
      }
    }
  });
  return { data, shape: [images.length, ...input.shape.slice(1)] };
}

/**
 * Returns the probability of every class among the classes seen in training. It is 0 for unseen
 * classes, whose logits were never trained.
 */
export function probabilities(bundle, logits) {
  if (bundle.manifest.classes.softmax) return logits;
  const seen = logits.map((value, column) => (bundle.isSeen(column) ? value : -Infinity));
  const top = Math.max(...seen);
  const weights = seen.map((value) => Math.exp(value - top));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

function luminance(rgba, at) {
  const [r, g, b] = [rgba[at], rgba[at + 1], rgba[at + 2]];
  return r === g && g === b ? r : Math.round(0.299 * r + 0.587 * g + 0.114 * b);
}
