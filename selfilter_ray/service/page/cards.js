// Samples as cards: picture, numbers, text, and the neighbour that pushed a rejected one down.

import { make, measure } from "./charts.js";

const REASONS = { too_easy: "too easy", near_duplicate: "repeats a kept sample" };

/** Show items; cards that are there already stay, so that their pictures are not fetched again. */
export function deal(host, items, fetchPicture, nothing) {
  const known = new Map([...host.children].map((card) => [card.dataset.sequence, card]));
  const cards = items.map((item) =>
    known.get(String(item.sequence)) ?? card(item, fetchPicture));
  if (!cards.length) cards.push(make("p", { className: "empty" }, nothing));
  const same = cards.length === host.children.length &&
    cards.every((card, place) => card === host.children[place]);
  if (!same) host.replaceChildren(...cards);
}

function card(item, fetchPicture) {
  const element = make("article", { className: item.admitted ? "card is-chosen" : "card" });
  element.dataset.sequence = item.sequence;
  element.append(
    picture(item, fetchPicture),
    make("p", { className: "measures" },
      make("b", {}, measure(item.difficulty)), make("span", {}, `adjusted ${measure(item.adjusted)}`)),
    make("p", { className: "why" }, why(item)),
  );
  if (item.text) element.append(make("p", { className: "text" }, make("bdi", {}, item.text)));
  element.append(name(item.id));
  if (item.neighbour) element.append(neighbour(item.neighbour, fetchPicture));
  return element;
}

function why(item) {
  if (item.reason === "near_duplicate") return REASONS.near_duplicate;
  if (item.threshold === null) return item.admitted ? "no threshold yet" : "nothing passes yet";
  const side = item.admitted ? "reaches" : "below";
  return `${item.admitted ? "" : "too easy, "}${side} ${measure(item.threshold)}`;
}

function neighbour(near, fetchPicture) {
  return make("div", { className: "near" },
    picture(near, fetchPicture),
    make("div", {},
      make("p", {}, `nearest kept: ${measure(near.similarity, 3)}`), name(near.id)));
}

function name(id) {
  return make("code", { className: "id", title: id }, make("bdi", {}, id));
}

function picture(item, fetchPicture) {
  const frame = make("div", { className: "picture" }, make("div", { className: "tile" }, "no picture"));
  if (item.thumbnail) fill(frame, item, fetchPicture);
  return frame;
}

async function fill(frame, item, fetchPicture) {
  const blob = await fetchPicture(item.sequence);
  if (!blob) return;
  const address = URL.createObjectURL(blob);
  const image = make("img", { alt: `picture of ${item.id}`, src: address });
  try {
    await image.decode();
    frame.replaceChildren(image);
  } catch {
    // Not a picture after all: the tile stays.
  } finally {
    URL.revokeObjectURL(address);
  }
}
