// Landmarks of faces with ONNX Runtime Web: what modeling_mtld/onnx_landmarks.py does, in a browser.

import * as ort from "../node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { boxAround, iou } from "./boxes.js";
import { Detector, PHOTO_SIDES, VIDEO_SIDES } from "./detector.js";
import { readFacts } from "./facts.js";
import { pixelsOf } from "./pixels.js";

const MIN_IOU = 0.25; // of the landmarks with the detected box, below which they do not move the second crop
const VISIBLE = 0.5; // visibility of a landmark, below which the head hides it
const DETECTION_FRAMES = 15; // of a video, after which new faces are looked for
const MAX_FACES = 16; // of a frame of a video

export class Landmarks {
  /** network, detector: Uint8Array, the files of modeling_mtld.export and of YuNet. */
  static async load(network, detector) {
    const landmarks = new Landmarks();
    landmarks.facts = readFacts(network);
    landmarks.session = await ort.InferenceSession.create(network);
    landmarks.detector = await Detector.load(detector);
    landmarks.restart();
    return landmarks;
  }

  /** The next frame is the first of a video. */
  restart() {
    this.tracked = [];
    this.frames = 0;
  }

  /**
   * The faces of a photo (image, video or canvas of `width` x `height`): a list of {score, box, points, scores, hidden}
   * in pixels of the photo, where the centre of the top-left pixel is (0, 0).
   */
  async find(photo, width, height) {
    const boxes = await this.detector.find(photo, width, height, PHOTO_SIDES);
    const first = await this.locate(photo, boxes);
    const second = first.map((face, index) => (iou(face.box, boxes[index]) >= MIN_IOU ? face.box : boxes[index]));
    return this.keepFaces(await this.locate(photo, second));
  }

  /** The faces of a video's next frame: around the landmarks of the last frame, and now and then by the detector. */
  async follow(frame, width, height) {
    const detects = this.tracked.length === 0 || this.frames % DETECTION_FRAMES === 0;
    this.frames += 1;
    let faces = this.keepFaces(await this.locate(frame, this.tracked.map((face) => face.box)));
    if (detects) {
      const boxes = await this.detector.find(frame, width, height, VIDEO_SIDES);
      const isNew = (box) => faces.every((face) => iou(face.box, box) < MIN_IOU);
      faces = [...faces, ...this.keepFaces(await this.locate(frame, boxes.filter(isNew)))].slice(0, MAX_FACES);
    }
    this.tracked = faces;
    return faces;
  }

  keepFaces(faces) {
    return faces.filter((face) => face.score >= this.facts.min_face_score);
  }

  /** A face for each landmark box. */
  async locate(photo, boxes) {
    if (boxes.length === 0) return [];
    const squares = boxes.map((box) => this.cropOf(box));
    const outputs = await this.session.run({ crops: this.crops(photo, squares) });
    return squares.map((square, index) => this.read(outputs, index, square));
  }

  /** Top-left corner and side [x, y, side] of the crop around a landmark box. */
  cropOf(box) {
    const longer = Math.max(box[2] - box[0], box[3] - box[1]);
    const signs = [-1, -1, 1, 1];
    const wide = box.map((value, edge) => value + signs[edge] * this.facts.box_margins[edge] * longer);
    const side = Math.max(wide[2] - wide[0], wide[3] - wide[1]) * this.facts.box_enlargement;
    return [(wide[0] + wide[2] - side) / 2, (wide[1] + wide[3] - side) / 2, side];
  }

  /** The network's input (faces, side, side, 3). */
  crops(photo, squares) {
    const side = this.facts.image_size;
    const values = new Uint8Array(squares.length * side * side * 3);
    squares.forEach(([x, y, length], face) => {
      const pixels = pixelsOf(photo, [x + 0.5, y + 0.5, length, length], side, side);
      const start = face * side * side * 3;
      for (let index = 0; index < side * side; index++) {
        for (let color = 0; color < 3; color++) values[start + 3 * index + color] = pixels[4 * index + color];
      }
    });
    return new ort.Tensor("uint8", values, [squares.length, side, side, 3]);
  }

  read(outputs, index, [x, y, length]) {
    const count = this.facts.landmark_names.length;
    const row = (name, width = 1) => outputs[name]?.data.subarray(index * count * width, (index + 1) * count * width);
    const places = row("landmarks", 2);
    const points = Array.from({ length: count }, (_, k) => [x + places[2 * k] * length, y + places[2 * k + 1] * length]);
    const scores = Array.from(row("scores") ?? new Float32Array(count).fill(1));
    const visibilities = row("visibilities");
    const hidden = points.map((_, k) => visibilities !== undefined && visibilities[k] < VISIBLE);
    const counted = hidden.every(Boolean) ? hidden : hidden.map((value) => !value);
    const score = scores.filter((_, k) => counted[k]).reduce((sum, one) => sum + one, 0) / counted.filter(Boolean).length;
    return { score, box: boxAround(points.filter((_, k) => counted[k])), points, scores, hidden };
  }
}
