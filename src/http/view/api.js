// Requests to the App that served this page.

// The address of the App, which may be below a path of a reverse proxy. This file is `view/api.js` there.
const BASE = new URL("../", import.meta.url);
const KEY = "flowright-token";
let token = sessionStorage.getItem(KEY);
let offset = 0;

/** A request that was refused or failed. `status` is 0 when the App does not answer. */
export class Problem extends Error {
  constructor(status, title, detail) {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
    this.detail = detail;
  }
}

export const hasToken = () => token !== null;
export function setToken(value) {
  token = value;
  if (value === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, value);
}

/** Returns the current time by the App's clock, in milliseconds; it may differ from the browser's. */
export const now = () => Date.now() + offset;

async function problemOf(response) {
  let body = null;
  try { body = await response.json(); } catch { /* a proxy may answer without JSON */ }
  return new Problem(response.status, body?.title ?? `status ${response.status}`, body?.detail ?? body?.error);
}

/** Requests a path of the App. Throws a [Problem] unless the response is successful. */
export async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem(0, "the App does not answer", "");
  }
  const date = Date.parse(response.headers.get("date"));
  // The Date header has a resolution of one second, so that smaller differences are noise.
  if (!Number.isNaN(date)) offset = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  if (!response.ok) throw await problemOf(response);
  return response;
}

export const get = async (path) => (await request(`api/v1/${path}`)).json();

export async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await request(`api/v1/${path}`, options);
  const answer = await response.text();
  return answer === "" ? null : JSON.parse(answer);
}

export const workUrl = (path, rest = "") => `works/${encodeURIComponent(path)}${rest}`;
