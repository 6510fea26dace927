"use strict";
// The passages and their entities, decoded from the page's JSON. Texts reach the page by textContent alone.

const UNSURE = 500; // thousandths: a mention with a lower score is drawn as unsure
const byId = (id) => document.getElementById(id);
const data = byId("data") ? JSON.parse(byId("data").textContent) : null;

// Control characters, marks of direction and lone surrogates: shown by their code points.
const HIDDEN =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\p{Surrogate}/gu;

function visible(text) {
  return text.replace(HIDDEN, (mark) => `[U+${mark.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

// Returns an element with attributes, such as {class: "x"}, and children: elements, or texts of the run.
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return made;
}

// Returns each passage's entities: {passage, type, start, end, score, loose, status}. start is -1 where the
// mention is not in the text; then `loose` is its own text.
function decode(columns) {
  const perPassage = [];
  let next = 0;
  columns.count.forEach((count, passage) => {
    const entities = [];
    for (const stop = next + count; next < stop; next++) {
      const start = columns.start[next];
      entities.push({
        passage,
        type: columns.type[next],
        start,
        end: start + columns.length[next],
        score: columns.score[next],
        loose: start < 0 ? columns.loose[next] : null,
        status: "",
      });
    }
    perPassage.push(entities);
  });
  return perPassage;
}

const surfaceOf = (entity) =>
  entity.start < 0 ? entity.loose : data.text[entity.passage].slice(entity.start, entity.end);
const surfaceKey = (entity) => surfaceOf(entity).toLowerCase().replace(/\s+/g, " ").trim();

// Says of each entity of one side what the other side has: both, type (another type for the same span), bounds
// (the same type for an overlapping span), only, or apart: the other run has no entity of that type at all, most
// likely because it was not asked for.
function compareSides(ours, theirs) {
  for (const entity of ours) entity.status = comparable.has(entity.type) ? statusOf(entity, theirs) : "apart";
}

function statusOf(entity, theirs) {
  const sameSpan = theirs.filter((other) =>
    entity.start < 0
      ? other.start < 0 && other.loose === entity.loose
      : other.start === entity.start && other.end === entity.end,
  );
  if (sameSpan.some((other) => other.type === entity.type)) return "both";
  if (sameSpan.length) return "type";
  const overlaps = (other) => other.start < entity.end && other.end > entity.start;
  const moved = entity.start >= 0 && theirs.some((other) => other.type === entity.type && overlaps(other));
  return moved ? "bounds" : "only";
}

const lacking = new Set(data ? data.lacking : []);
const entities = data ? decode(data.entities) : [];
const others = data && data.others ? decode(data.others) : null;
const typesHere = new Set(others ? data.entities.type : []);
const typesThere = new Set(others ? data.others.type : []);
const comparable = new Set([...typesHere].filter((type) => typesThere.has(type)));
if (others)
  entities.forEach((ours, passage) => {
    if (lacking.has(passage)) return;
    compareSides(ours, others[passage]);
    compareSides(others[passage], ours);
  });

// Types keep their colours in all parts of the page: the golden angle keeps neighbours apart.
const hue = (type) => Math.round((type * 137.5 + 200) % 360);
const scoreText = (score) => (score < 0 ? "" : (score / 1000).toFixed(2));
