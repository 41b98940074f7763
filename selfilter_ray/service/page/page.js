// The live page: asks every two seconds while somebody looks, and draws what it is told.

import { deal } from "./cards.js";
import { bars, line, make, measure, shown, table } from "./charts.js";
import { ask, Away, fetchPicture, key, KeyWanted } from "./service.js";

const EVERY_MS = 2000;
const LONGEST_MS = 30_000;
const CARDS = 12;
const FEWEST_STEPS = 24; // of a chart over time
const LATELY = 6; // steps that the pace is taken over

const at = (id) => document.getElementById(id);
let timer = 0;
let failures = 0;
let asking = false;
let last = null; // what was drawn, for a change of size

async function look() {
  if (asking) return;
  clearTimeout(timer);
  asking = true;
  let wait = EVERY_MS;
  try {
    const [ready] = await ask("readyz", [503]);
    drawParts(ready.parts);
    const [[stats, now], [recent]] = await Promise.all([
      ask("v1/stats"), ask(`v1/recent?limit=${CARDS}`)]);
    failures = 0;
    show(stats, recent, now);
    say(ready.ready ? "live" : "away", ready.ready ? "live" : "some parts are not ready");
  } catch (error) {
    wait = failed(error);
  } finally {
    asking = false;
  }
  if (wait && !document.hidden) timer = setTimeout(look, wait);
}

/** How long to wait after what went wrong; 0 to wait for a key. */
function failed(error) {
  if (error instanceof KeyWanted) {
    wantKey();
    return 0;
  }
  failures += 1;
  const backoff = Math.min(EVERY_MS * 2 ** Math.min(failures, 8), LONGEST_MS);
  const wait = Math.max(backoff, error instanceof Away ? error.seconds * 1000 : 0);
  say("away", `${error.message}; asking again in ${Math.round(wait / 1000)} s`);
  if (!(error instanceof Away)) console.error(error);
  return wait;
}

function wantKey() {
  const tried = key.read() !== null;
  key.forget();
  at("content").hidden = true;
  at("ask").hidden = false;
  at("ask-error").textContent = tried ? "The service does not take this key." : "";
  at("summary").textContent = "The service is protected by keys.";
  say("waiting", "waiting for a key");
  at("key").focus();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  key.keep(at("key").value.trim());
  at("key").value = "";
  look();
});

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && at("ask").hidden) look();
});

for (const details of document.querySelectorAll("figure details")) {
  details.addEventListener("toggle", () => last && drawCharts(last));
}
new ResizeObserver(() => last && drawCharts(last)).observe(document.querySelector("main"));

function say(state, text) {
  at("status").dataset.state = state;
  if (at("status-text").textContent !== text) at("status-text").textContent = text;
}

function show(stats, recent, now) {
  at("ask").hidden = true;
  at("content").hidden = false;
  at("summary").textContent = summary(stats);
  pairs(at("keys"), keyNumbers(stats), "key");
  last = stats;
  drawCharts(stats);
  deal(at("admitted"), recent.admitted, fetchPicture, "Nothing was admitted yet.");
  deal(at("rejected"), recent.rejected, fetchPicture, "Nothing was rejected yet.");
  pairs(at("pairs"), stateNumbers(stats, now));
}

function summary(stats) {
  const seen = `of ${shown(stats.sequence)} samples`;
  if (stats.mode === "budget") {
    return `Keeps the best ${shown(stats.budget)} of a stream: ${shown(stats.kept)} ${seen} are kept now.`;
  }
  const wanted = `${percent(stats.rate)} are wanted`;
  if (!stats.sequence) return `No sample has been decided on yet; ${wanted}.`;
  return `${shown(stats.admitted)} ${seen} admitted, ${percent(stats.admitted / stats.sequence)}; ${wanted}.`;
}

function keyNumbers(stats) {
  const { admitted, rejected, seconds } = whole(stats.series);
  const decided = sum(admitted.slice(-LATELY)) + sum(rejected.slice(-LATELY));
  const lately = decided / (LATELY * seconds);
  const share = stats.sequence ? percent(stats.admitted / stats.sequence) : "";
  return [
    ["Decided", shown(stats.sequence), `${shown(lately)} a second`],
    ["Admitted", shown(stats.admitted), share, "strong"],
    ["Kept", shown(stats.kept), size(stats.bytes)],
    ["Threshold", measure(stats.threshold), "at the last decision"],
  ];
}

function stateNumbers(stats, now) {
  const { snapshot } = stats;
  const refused = Object.entries(stats.refused).map(([code, count]) => `${shown(count)} ${code}`);
  return [
    ["Decisions in the log", shown(stats.sequence)],
    ["Last decision", ago(stats.log.last_decided_at, now)],
    ["Too easy", shown(stats.rejected.too_easy)],
    ["Near duplicates", shown(stats.rejected.near_duplicate)],
    ["Evicted", shown(stats.evicted)],
    ["Refused since the start", refused.join(", ") || "0"],
    ["Writer's epoch", shown(stats.epoch)],
    ["Started", ago(stats.started_at, now)],
    ["Replayed at the start", `${shown(stats.replayed)} in ${span(stats.recovery_seconds)}`],
    ["Snapshot at decision", snapshot ? shown(snapshot.sequence) : "none yet"],
    ["Snapshot's age", snapshot ? span(snapshot.age_seconds) : "none yet"],
    ["Snapshot's size", snapshot ? size(snapshot.bytes) : "none yet"],
    ["Vectors in memory", size(stats.bytes)],
    ["Features", shown(stats.features)],
  ];
}

/** Rows of [name, value, aside, class] as a list of definitions. */
function pairs(host, rows, className = "") {
  host.replaceChildren(...rows.map(([name, value, aside, strong]) => {
    const body = className ? [make("b", {}, value), make("span", {}, aside)] : [value];
    return make("div", { className: strong ? `${className} ${strong}` : className },
      make("dt", {}, name), make("dd", {}, ...body));
  }));
}

function drawParts(parts) {
  at("parts").replaceChildren(...Object.entries(parts).map(([name, part]) => {
    const said = part.ready ? "ready" : "not ready";
    const detail = part.detail && part.detail !== said ? `${said}: ${part.detail}` : said;
    const entry = make("li", {}, make("span", { className: "lamp" }), make("b", {}, name),
      make("span", { className: "detail" }, detail));
    entry.dataset.state = part.ready ? "live" : "away";
    return entry;
  }));
}

function drawCharts(stats) {
  drawStream(whole(stats.series), stats.threshold);
  drawHistogram("difficulty", stats.difficulty);
  drawHistogram("similarity", stats.similarity);
}

function drawStream(series, now) {
  const length = series.admitted.length * series.seconds;
  const ticks = [[0, `${span(length)} ago`], [0.5, `${span(length / 2)} ago`], [1, "now"]];
  const admitted = series.admitted.map((count) => count / series.seconds);
  const rejected = series.rejected.map((count) => count / series.seconds);
  const passed = `${shown(sum(series.admitted))} admitted, ${shown(sum(series.rejected))} rejected`;
  bars(at("pace"), { admitted, rejected, ticks, label: `In ${span(length)}: ${passed}.` });
  line(at("threshold"), { values: series.threshold, ticks, label: `Threshold, now ${measure(now)}.` });
  const times = series.admitted.map((_, place) =>
    new Date((series.start + place * series.seconds) * 1000).toLocaleTimeString("en-GB"));
  const decided = times.map((time, place) => place)
    .filter((place) => series.admitted[place] + series.rejected[place]).reverse();
  numbers("pace", ["from", "admitted/s", "rejected/s"], () =>
    decided.map((place) => [times[place], shown(admitted[place]), shown(rejected[place])]));
  numbers("threshold", ["from", "threshold"], () =>
    decided.map((place) => [times[place], measure(series.threshold[place], 4)]));
}

function drawHistogram(name, { edges, admitted, rejected }) {
  const ticks = [0, 0.5, 1].map((share) => {
    const low = edges[0], high = edges.at(-1);
    return [share, measure(low + share * (high - low), 1)];
  });
  const label = `${name}, ${ticks[0][1]} to ${ticks[2][1]}: ` +
    `${shown(sum(admitted))} admitted, ${shown(sum(rejected))} rejected.`;
  bars(at(name), { admitted, rejected, ticks, label, fraction: 0.9 });
  numbers(name, ["from", "to", "admitted", "rejected"], () => admitted.map((count, place) =>
    [measure(edges[place]), measure(edges[place + 1]), shown(count), shown(rejected[place])]));
}

/** Tables are made only while they are open. */
function numbers(name, head, rows) {
  const host = at(`${name}-table`);
  if (host.parentElement.open) table(host, head, rows());
}

/** Without the last step, which is not over yet, and without the time before the first sample. */
function whole(series) {
  const first = series.admitted.findIndex((count, place) => count + series.rejected[place]);
  const start = Math.max(0, Math.min(first - 1, series.admitted.length - 1 - FEWEST_STEPS));
  const cut = (values) => values.slice(start, -1);
  return { seconds: series.seconds, start: series.start + start * series.seconds,
    admitted: cut(series.admitted), rejected: cut(series.rejected),
    threshold: cut(series.threshold) };
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const ago = (time, now) => time === null ? "never" : `${span(Math.max(0, now - time))} ago`;

function span(seconds) {
  if (seconds < 60) return `${shown(seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const step = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), 3);
  return `${shown(step ? bytes / 1024 ** step : bytes)} ${units[step]}`;
}

look();
