// Files from the page's own folder.

/** The files (names) as Uint8Arrays; `report` gets the share that has arrived, 0 to 1. */
export async function download(names, report) {
  const responses = await Promise.all(names.map(open));
  const total = responses.reduce((sum, response) => sum + Number(response.headers.get("content-length")), 0);
  let arrived = 0;
  const count = (length) => report(total ? Math.min((arrived += length) / total, 1) : 0);
  return Promise.all(responses.map((response) => read(response, count)));
}

async function open(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing. The page's README says how to make it`);
  return response;
}

async function read(response, count) {
  const parts = [];
  for await (const part of chunks(response.body.getReader())) {
    parts.push(part);
    count(part.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function* chunks(reader) {
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}
