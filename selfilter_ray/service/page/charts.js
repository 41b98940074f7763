// Charts as SVG, drawn in pixels of their box, and the same numbers as tables.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 6, TOP = 8, BOTTOM = 22;

/** An element of HTML; children are nodes or text, never markup. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A number for people: few digits, thousands apart. */
export function shown(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "none";
  const options = Number.isInteger(value) ? {} : { maximumSignificantDigits: digits };
  return new Intl.NumberFormat("en", options).format(value).replace("-", "\u2212");
}

/** A measure with a fixed number of decimals, so that neighbours can be compared. */
export function measure(value, decimals = 2) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace("-", "\u2212") : "none";
}

/** Stacked bars: admitted below, rejected on them. ``ticks`` are [share of the width, text]. */
export function bars(host, { admitted, rejected, ticks, label, fraction = 0.82 }) {
  const tops = admitted.map((count, place) => count + rejected[place]);
  const frame = framed(host, 0, Math.max(...tops, 0), ticks, label);
  if (!frame) return;
  const step = frame.width / tops.length;
  tops.forEach((top, place) => {
    const x = frame.left + step * (place + (1 - fraction) / 2);
    const parts = [["admitted", 0, admitted[place]], ["rejected", admitted[place], top]];
    for (const [name, low, high] of parts) {
      if (high <= low) continue;
      const y = frame.at(high);
      const height = Math.max(frame.at(low) - y, 1);
      frame.svg.append(shape("rect", { class: `bar ${name}`, x, y, width: step * fraction, height }));
    }
  });
  if (!tops.some((top) => top > 0)) quiet(frame, "nothing decided");
}

/** One line through the values that are not null. */
export function line(host, { values, ticks, label }) {
  const known = values.filter((value) => value !== null);
  const [low, high] = widened(Math.min(...known), Math.max(...known));
  const frame = framed(host, known.length ? low : 0, known.length ? high : 0, ticks, label);
  if (!frame) return;
  if (!known.length) return quiet(frame, "no threshold yet");
  const step = frame.width / values.length;
  const points = values.flatMap((value, place) =>
    value === null ? [] : [[frame.left + step * (place + 0.5), frame.at(value)]]);
  const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  frame.svg.append(shape("polyline", { class: "curve", points: path }));
  const [x, y] = points.at(-1);
  frame.svg.append(shape("circle", { class: "point", cx: x, cy: y, r: 3 }));
}

/** The numbers of a chart; ``rows`` are lists of text, the first of each its heading. */
export function table(host, head, rows) {
  const heading = (text, scope) => {
    const cell = make("th", {}, text);
    cell.scope = scope;
    return cell;
  };
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, heading(first, "row"), ...rest.map((text) => make("td", {}, text))));
  host.replaceChildren(make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => heading(text, "col")))),
    make("tbody", {}, ...body)));
}

/** An empty chart with its grid and axes; null while its box has no size. */
function framed(host, low, high, ticks, label) {
  const width = host.clientWidth, height = host.clientHeight;
  if (!width || !height) return null;
  const steps = nice(low, high);
  const [bottom, top] = [steps[0], steps.at(-1)];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const frame = {
    svg, left: LEFT, width: width - LEFT - RIGHT, height,
    at: (value) => height - BOTTOM - (value - bottom) / (top - bottom) * (height - BOTTOM - TOP),
  };
  for (const value of steps) {
    const y = Math.round(frame.at(value)) + 0.5;
    const kind = value === bottom ? "base" : "grid";
    svg.append(shape("line", { class: kind, x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
    svg.append(words(LEFT - 8, y + 4, shown(value, 6), "end"));
  }
  for (const [share, text] of ticks) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    svg.append(words(LEFT + share * frame.width, height - 5, text, anchor));
  }
  host.replaceChildren(svg);
  return frame;
}

/** Three to six round values that reach from at most ``low`` to at least ``high``. */
function nice(low, high) {
  if (!(high > low)) high = low + 1;
  const rough = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let count = Math.floor(low / step); ; count += 1) {
    values.push(Number((count * step).toPrecision(12)));
    if (count * step >= high) return values;
  }
}

function widened(low, high) {
  const margin = (high - low) * 0.1 || Math.abs(low) * 0.1 || 0.1;
  return [low - margin, high + margin];
}

function quiet(frame, text) {
  const element = words(frame.left + frame.width / 2, frame.height / 2, text, "middle");
  element.setAttribute("class", "quiet");
  frame.svg.append(element);
}

function words(x, y, text, anchor) {
  const element = shape("text", { class: "tick", x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
