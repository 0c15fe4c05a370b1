// Pixels of a part of a photo, resampled by the browser.

const canvas = document.createElement("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });

/**
 * RGBA of the square [x, y, width, height] of a photo (image, video or canvas), `side` x `side`; black outside the photo.
 * The corner of the top-left pixel is (0, 0).
 */
export function pixelsOf(photo, square, side) {
  canvas.width = canvas.height = side;
  context.fillStyle = "black";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, ...square, 0, 0, side, side);
  return context.getImageData(0, 0, side, side).data;
}
