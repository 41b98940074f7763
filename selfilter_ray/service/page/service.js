// Asking the service: the key, and what its answers mean.

const KEY = "selfilter-key";
const PATIENCE_MS = 10_000;

/** The service wants a key, or another one. */
export class KeyWanted extends Error {}

/** No answer now; ``seconds`` is when the service wants to be asked again. */
export class Away extends Error {
  constructor(message, seconds) {
    super(message);
    this.seconds = seconds;
  }
}

export const key = {
  read: () => sessionStorage.getItem(KEY),
  keep: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** The JSON of an address; also of a 503 where that is an answer. */
export async function ask(path, also = []) {
  const response = await send(path);
  if (response.status === 401) throw new KeyWanted(path);
  if (!response.ok && !also.includes(response.status)) {
    const seconds = Number(response.headers.get("Retry-After")) || 0;
    throw new Away(await said(response), seconds);
  }
  try {
    return [await response.json(), clock(response)];
  } catch {
    throw new Away("the answer broke off", 0);
  }
}

/** The thumbnail of a sample, or null. */
export async function fetchPicture(sequence) {
  try {
    const response = await send(`v1/thumbnails/${sequence}`, "default");
    return response.ok ? await response.blob() : null;
  } catch {
    return null; // its card shows that there is none
  }
}

async function send(path, cache = "no-store") {
  const headers = key.read() === null ? {} : { Authorization: `Bearer ${key.read()}` };
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    return await fetch(path, { headers, cache, signal, credentials: "omit" });
  } catch {
    throw new Away("the service cannot be reached", 0);
  }
}

async function said(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `the service answered ${response.status}`;
  }
}

/** Seconds of the service's clock: ages must not depend on that of this machine. */
function clock(response) {
  return (Date.parse(response.headers.get("Date")) || Date.now()) / 1000;
}
