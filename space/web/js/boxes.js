// Boxes [x0, y0, x1, y1] in pixels of the photo, where the centre of the top-left pixel is (0, 0).

export const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);

/** Area that two boxes share. */
export function intersection(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  return Math.max(width, 0) * Math.max(height, 0);
}

/** Intersection over the smaller box: 1 where one box lies in the other. */
export const overlap = (one, other) => intersection(one, other) / Math.min(area(one), area(other));

/** Intersection over union. */
export function iou(one, other) {
  const shared = intersection(one, other);
  return shared / (area(one) + area(other) - shared);
}

/** The box around points [[x, y], ...]. */
export function boxAround(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}
