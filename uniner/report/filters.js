// What the reader asks for, and which passages and entities are that.

const PER_PAGE = 20;
const NO_FILTERS = { text: "", type: -1, source: -1, outcome: -1, low: 0, high: 1000, surface: "", difference: "" };
const state = { ...NO_FILTERS, order: "corpus", page: 0 };
const DIFFERENCES = {
  "": "all passages",
  any: "any difference",
  only: "only in this run",
  other: "only in the other",
  type: "other type",
  bounds: "other boundaries",
};
const ORDERS = { corpus: "as in the corpus", score: "least sure first", most: "most entities first" };

let lowered = null; // the texts in lower case, made at the first search
let matching = []; // the passages that are asked for, by number
let typeCounts = []; // entities by type, whatever type is chosen

const inScore = (entity) => entity.score < 0 || (entity.score >= state.low && entity.score <= state.high);

// Tells whether an entity is asked for, its type aside.
function isWantedButType(entity) {
  return inScore(entity) && (!state.surface || surfaceKey(entity) === state.surface);
}

const isWanted = (entity) => (state.type < 0 || entity.type === state.type) && isWantedButType(entity);

function differs(passage) {
  if (!state.difference) return true;
  if (lacking.has(passage)) return false;
  const has = (side, statuses) => side.some((entity) => statuses.includes(entity.status) && isWanted(entity));
  if (state.difference === "any")
    return has(entities[passage], ["only", "type", "bounds"]) || has(others[passage], ["only", "type", "bounds"]);
  if (state.difference === "other") return has(others[passage], ["only"]);
  return has(entities[passage], [state.difference]);
}

function passesPassage(passage, words) {
  if (state.source >= 0 && data.source[passage] !== state.source) return false;
  if (state.outcome >= 0 && data.outcome[passage] !== state.outcome) return false;
  if (words && !lowered[passage].includes(words)) return false;
  return differs(passage);
}

const bothSides = (passage) => (others ? entities[passage].concat(others[passage]) : entities[passage]);

function applyFilters() {
  const words = state.text.toLowerCase();
  if (words) lowered ??= data.text.map((text) => text.toLowerCase());
  const filtersEntities = state.type >= 0 || state.surface || state.low > 0 || state.high < 1000;
  matching = [];
  typeCounts = new Array(data.types.length).fill(0);
  for (let passage = 0; passage < data.text.length; passage++) {
    if (!passesPassage(passage, words)) continue;
    let wanted = false;
    for (const entity of bothSides(passage)) {
      if (!isWantedButType(entity)) continue;
      wanted ||= state.type < 0 || entity.type === state.type;
    }
    for (const entity of entities[passage]) if (isWantedButType(entity)) typeCounts[entity.type]++;
    if (wanted || !filtersEntities) matching.push(passage);
  }
  putInOrder();
}

function putInOrder() {
  if (state.order === "corpus") return;
  const rank = new Map(matching.map((passage) => [passage, rankOf(passage)]));
  matching.sort((one, two) => rank.get(one) - rank.get(two) || one - two);
}

function rankOf(passage) {
  const wanted = entities[passage].filter(isWanted);
  if (state.order === "most") return -wanted.length;
  return Math.min(...wanted.map((entity) => (entity.score < 0 ? 1000 : entity.score)), 1001);
}

const pageCount = () => Math.max(1, Math.ceil(matching.length / PER_PAGE));
