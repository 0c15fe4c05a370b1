// Faces drawn on a canvas that shows the photo.

const LINE = "rgb(0, 225, 190)";
const POINT = "rgb(255, 240, 60)";
const CLOSED_PARTS = ["eye", "lip", "lips", "mouth"]; // last word of a part whose last landmark is joined to its first

/** Draws the faces of `Landmarks`; `names` are the landmarks' names, and `pixel` is that of the screen, in the photo's. */
export function drawFaces(context, faces, names, pixel) {
  const lines = contours(names);
  for (const face of faces) {
    const size = Math.max(face.box[2] - face.box[0], face.box[3] - face.box[1]);
    const radius = Math.max(size / 110, 1.3 * pixel);
    context.lineWidth = Math.max(size / 180, pixel);
    context.strokeStyle = LINE;
    for (const line of lines) drawContour(context, face, line);
    context.fillStyle = context.strokeStyle = POINT;
    face.points.forEach(([x, y], index) => {
      context.beginPath();
      context.arc(x + 0.5, y + 0.5, radius, 0, 2 * Math.PI);
      face.hidden[index] ? context.stroke() : context.fill();
    });
  }
}

/** Lists of landmarks to join, by their names: jaw_0, jaw_1, ... */
function contours(names) {
  const parts = new Map();
  names.forEach((name, index) => {
    const part = name.replace(/_?\d+$/, "");
    parts.set(part, [...(parts.get(part) ?? []), index]);
  });
  const joined = [...parts].filter(([part, run]) => part !== "" && run.length > 1);
  const closed = (part, run) => run.length > 3 && CLOSED_PARTS.includes(part.split("_").at(-1));
  return joined.map(([part, run]) => (closed(part, run) ? [...run, run[0]] : run));
}

function drawContour(context, face, line) {
  context.beginPath();
  for (let step = 1; step < line.length; step++) {
    const [from, to] = [line[step - 1], line[step]];
    if (face.hidden[from] || face.hidden[to]) continue;
    context.moveTo(face.points[from][0] + 0.5, face.points[from][1] + 0.5);
    context.lineTo(face.points[to][0] + 0.5, face.points[to][1] + 0.5);
  }
  context.stroke();
}
