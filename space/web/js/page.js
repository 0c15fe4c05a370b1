// The page: buttons, picture, messages.

import * as ort from "../node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Camera } from "./camera.js";
import { download } from "./download.js";
import { drawFaces } from "./drawing.js";
import { Landmarks } from "./landmarks.js";

const FILES = ["model/model.onnx", "model/detector.onnx"];
const MAX_THREADS = 4;
const MAX_SIDE = 2560; // of the picture shown; browsers refuse larger canvases on some phones

const at = (id) => document.getElementById(id);
const context = at("picture").getContext("2d");
const camera = new Camera(at("video"));
let landmarks;

start();

async function start() {
  ort.env.wasm.proxy = true; // computes in a worker, so that the page answers meanwhile
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MAX_THREADS) : 1;
  try {
    const files = await download(FILES, (share) => (at("progress").value = share));
    say("Starting the networks …");
    landmarks = await Landmarks.load(...files);
  } catch (error) {
    return fail(error);
  } finally {
    at("progress").hidden = true;
  }
  say("Ready. A photo can also be dropped on the page or pasted.");
  at("file").disabled = at("camera").disabled = false;
  at("file").onchange = () => usePhoto(at("file").files[0]);
  at("camera").onclick = () => (camera.runs ? stopCamera() : startCamera());
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => (event.preventDefault(), usePhoto(event.dataTransfer.files[0]));
  document.onpaste = (event) => usePhoto(event.clipboardData.files[0]);
}

async function usePhoto(file) {
  if (!file) return;
  stopCamera();
  at("file").value = ""; // so that the same file can be chosen again
  say("Looking for faces …");
  let photo;
  try {
    photo = await createImageBitmap(file); // upright by its EXIF orientation
  } catch {
    return fail(new Error(`${file.name} must be a picture that this browser reads`));
  }
  await show(photo, photo.width, photo.height, (...frame) => landmarks.find(...frame));
  photo.close();
}

async function startCamera() {
  say("Starting the camera …");
  at("camera").textContent = "Stop the camera";
  landmarks.restart();
  try {
    await camera.start((video) =>
      show(video, video.videoWidth, video.videoHeight, (...frame) => landmarks.follow(...frame)),
    );
  } catch (error) {
    stopCamera();
    fail(new Error(`The camera must be there and allowed, but got: ${error.message}`));
  }
}

function stopCamera() {
  camera.stop();
  at("camera").textContent = "Start the camera";
}

/** Finds the faces of a picture by `find`, then shows both. */
async function show(picture, width, height, find) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const still = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  still.getContext("2d").drawImage(picture, 0, 0, still.width, still.height);
  const began = performance.now();
  let faces;
  try {
    faces = await find(still, still.width, still.height);
  } catch (error) {
    return fail(error);
  }
  const elapsed = performance.now() - began;
  draw(still, faces);
  offer(faces, scale);
  say(faces.length === 0 ? "No face was found." : faces.length === 1 ? "1 face" : `${faces.length} faces`);
  at("times").textContent = `${elapsed.toFixed(0)} ms for detection and landmarks, ${threads()}`;
}

const threads = () => {
  const count = ort.env.wasm.numThreads;
  return count === 1 ? "1 thread" : `${count} threads`;
};

function draw(still, faces) {
  const canvas = at("picture");
  canvas.hidden = false;
  if (canvas.width !== still.width || canvas.height !== still.height) {
    [canvas.width, canvas.height] = [still.width, still.height];
  }
  context.drawImage(still, 0, 0);
  drawFaces(context, faces, landmarks.facts.landmark_names, canvas.width / Math.max(canvas.clientWidth, 1));
}

/** The faces as JSON to save, as the pipeline returns them, in pixels of the photo. */
function offer(faces, scale) {
  const inPhoto = (value) => (value + 0.5) / scale - 0.5;
  const names = landmarks.facts.landmark_names;
  const rows = faces.map((face) => ({
    score: face.score,
    box: Object.fromEntries(["xmin", "ymin", "xmax", "ymax"].map((key, edge) => [key, inPhoto(face.box[edge])])),
    landmarks: face.points.map(([x, y], k) => ({ label: names[k], x: inPhoto(x), y: inPhoto(y), score: face.scores[k] })),
  }));
  const link = at("save");
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([JSON.stringify(rows, null, 2)], { type: "application/json" }));
  link.hidden = faces.length === 0;
}

const say = (text) => (at("status").textContent = text);

function fail(error) {
  say(error.message);
}
