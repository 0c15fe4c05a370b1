// Faces by YuNet, in the file that modeling_mtld.export wrote for photos of any size.

import * as ort from "../node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { overlap } from "./boxes.js";
import { pixelsOf } from "./pixels.js";

export const PHOTO_SIDES = [320, 1000]; // longer sides in pixels of the copies of a photo that it sees
export const VIDEO_SIDES = [320];
const STRIDES = [8, 16, 32];
const MIN_SCORE = 0.3; // the network then rejects what is no face
const MAX_OVERLAP = 0.5; // above it two boxes are of one face
// Side of the landmark box over the geometric mean of YuNet's width and height, and the shift of its centre from the
// eyes towards the mouth, over the same length: modeling_mtld/yunet_mtld.py.
const BOX_SIDE = 0.927;
const BOX_SHIFT = 0.134;

export class Detector {
  /** bytes: Uint8Array, YuNet's file. */
  static async load(bytes) {
    const detector = new Detector();
    detector.session = await ort.InferenceSession.create(bytes);
    return detector;
  }

  /** Landmark boxes of the faces in a photo (image, video or canvas of `width` x `height`), the surest first. */
  async find(photo, width, height, sides) {
    const longest = Math.max(width, height);
    const found = [];
    for (const side of new Set(sides.map((side) => Math.min(side, longest)))) {
      found.push(...(await this.findInCopy(photo, width, height, side / longest)));
    }
    found.sort((one, other) => other.score - one.score);
    const kept = [];
    for (const { box } of found) {
      if (kept.every((other) => overlap(box, other) <= MAX_OVERLAP)) kept.push(box);
    }
    return kept;
  }

  async findInCopy(photo, width, height, scale) {
    const [columns, rows] = [width, height].map((length) => Math.ceil((length * scale) / STRIDES.at(-1)));
    const size = [columns * STRIDES.at(-1), rows * STRIDES.at(-1)];
    const pixels = pixelsOf(photo, [0, 0, size[0] / scale, size[1] / scale], ...size);
    const input = new ort.Tensor("float32", planesBgr(pixels), [1, 3, size[1], size[0]]);
    const outputs = await this.session.run({ input });
    const found = STRIDES.flatMap((stride) => decode(outputs, stride, size[0] / stride));
    return found.map(({ score, box }) => ({ score, box: box.map((value) => (value + 0.5) / scale - 0.5) }));
  }
}

/** RGBA pixels to the planes B, G, R, 0 to 255. */
function planesBgr(pixels) {
  const count = pixels.length / 4;
  const planes = new Float32Array(3 * count);
  for (let index = 0; index < count; index++) {
    for (let plane = 0; plane < 3; plane++) planes[plane * count + index] = pixels[4 * index + 2 - plane];
  }
  return planes;
}

/** Scores and landmark boxes, in pixels of the copy, of one stride's cells. */
function decode(outputs, stride, columns) {
  const values = (name) => outputs[`${name}_${stride}`].data;
  const [share, present, boxes, points] = ["cls", "obj", "bbox", "kps"].map(values);
  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const found = [];
  for (let cell = 0; cell < share.length; cell++) {
    const score = Math.sqrt(clip(share[cell]) * clip(present[cell]));
    if (score < MIN_SCORE) continue;
    const corner = [cell % columns, Math.floor(cell / columns)];
    const [x, y, width, height] = boxes.subarray(4 * cell, 4 * cell + 4);
    const center = [(x + corner[0]) * stride, (y + corner[1]) * stride];
    const size = Math.sqrt(Math.exp(width) * Math.exp(height)) * stride;
    found.push({ score, box: landmarkBox(center, size, points.subarray(10 * cell, 10 * cell + 10)) });
  }
  return found;
}

/** Square from YuNet's box and its eyes, nose and corners of the mouth (x, y, x, y, ...). */
function landmarkBox(center, size, points) {
  const down = [0, 1].map((axis) => (points[6 + axis] + points[8 + axis] - points[axis] - points[2 + axis]) / 2);
  const length = Math.max(Math.hypot(...down), 1e-9);
  const middle = center.map((value, axis) => value + (BOX_SHIFT * size * down[axis]) / length);
  const half = (BOX_SIDE * size) / 2;
  return [middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half];
}
