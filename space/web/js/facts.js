// What `modeling_mtld.export` stored in an ONNX file beside the network: crop, boxes, names of the landmarks.

const METADATA = 14; // the field `metadata_props` of ONNX's ModelProto
const NAME = "mtld";

/** The facts in an ONNX file (Uint8Array), as `facts_of` in modeling_mtld/export.py describes them. */
export function readFacts(bytes) {
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA) continue;
    const [key, text] = [...fields(entry)].map(([, value]) => new TextDecoder().decode(value));
    if (key === NAME) return JSON.parse(text);
  }
  throw new Error("the network must be a file of modeling_mtld.export");
}

/** Number and bytes of each field of a protobuf message; numbers stored as varints or with a fixed length are skipped. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[place++];
      if (byte === undefined) throw new Error("the network must be an ONNX file");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === 0) varint();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(place, (place += length))];
    } else throw new Error("the network must be an ONNX file");
  }
}
