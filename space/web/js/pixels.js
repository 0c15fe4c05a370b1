// Pixels of a part of a photo, resampled by the browser.

const canvas = document.createElement("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });

/**
 * RGBA of the part [x, y, width, height] of a photo (image, video or canvas), resampled to `columns` x `rows`; black
 * outside the photo. The corner of the top-left pixel is (0, 0).
 */
export function pixelsOf(photo, part, columns, rows) {
  [canvas.width, canvas.height] = [columns, rows];
  context.fillStyle = "black";
  context.fillRect(0, 0, columns, rows);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, ...part, 0, 0, columns, rows);
  return context.getImageData(0, 0, columns, rows).data;
}
