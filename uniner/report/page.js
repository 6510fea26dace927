// The list of passages, its filters' controls, the keys, and the switch between light and dark.

const root = document.documentElement;

function setTheme(theme) {
  root.dataset.theme = theme;
  try {
    localStorage.setItem("uniner-theme", theme);
  } catch {
    // A page from a file may have no storage: the choice then lasts until the page is closed.
  }
}

function changeTheme() {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
}

function restoreTheme() {
  let theme = null;
  try {
    theme = localStorage.getItem("uniner-theme");
  } catch {
    // As above.
  }
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
}

// Chooses the entities to draw in the text: those asked for come first, and no two overlap.
function drawable(side) {
  const inText = side.filter((entity) => entity.start >= 0);
  const chosen = [];
  for (const entity of [...inText.filter(isWanted), ...inText.filter((each) => !isWanted(each))])
    if (!chosen.some((other) => other.start < entity.end && other.end > entity.start)) chosen.push(entity);
  return chosen.sort((one, two) => one.start - two.start);
}

function drawnText(passage, side) {
  const text = data.text[passage];
  const paragraph = make("p", { class: "text", dir: "auto" });
  const drawn = drawable(side);
  let position = 0;
  for (const entity of drawn) {
    paragraph.append(visible(text.slice(position, entity.start)), entityMark(entity));
    position = entity.end;
  }
  paragraph.append(visible(text.slice(position)));
  const left = side.filter((entity) => isWanted(entity) && !drawn.includes(entity));
  if (left.length) paragraph.append(make("span", { class: "left" }, ...left.map(entityMark)));
  return paragraph;
}

function entityMark(entity) {
  const mark = make("mark", { tabindex: "0", role: "button" }, surfaceOf(entity));
  mark.append(make("small", {}, data.types[entity.type]));
  mark.style.setProperty("--h", hue(entity.type));
  mark.className = [
    isWanted(entity) ? "" : "dim",
    entity.score >= 0 && entity.score < UNSURE ? "unsure" : "",
    entity.start < 0 ? "loose" : "",
    entity.status,
  ].join(" ");
  const place = entity.start < 0 ? ", not found in the text" : "";
  mark.title = visible(`${data.types[entity.type]} ${scoreText(entity.score)}${place}`);
  mark.entity = entity;
  return mark;
}

function passageCard(passage) {
  const card = make("article", { class: "passage", tabindex: "-1" });
  card.passage = passage;
  const outcome = data.outcomes[data.outcome[passage]];
  const head = make("header", {}, make("b", { dir: "auto" }, data.sources[data.source[passage]] || "no source"));
  head.append(make("span", { dir: "auto" }, data.id[passage]));
  if (outcome !== "ok") head.append(make("span", { class: "outcome" }, outcome));
  card.append(head);
  if (!others) card.append(drawnText(passage, entities[passage]));
  else card.append(pairOfTexts(passage));
  return card;
}

function pairOfTexts(passage) {
  const ours = make("div", {}, make("h4", { dir: "auto" }, data.name), drawnText(passage, entities[passage]));
  const theirs = make("div", {}, make("h4", { dir: "auto" }, data.other));
  if (lacking.has(passage)) theirs.append(make("p", { class: "note" }, "Does not have this passage."));
  else theirs.append(drawnText(passage, others[passage]));
  return make("div", { class: "pair" }, ours, theirs);
}

function drawPage() {
  state.page = Math.min(Math.max(0, state.page), pageCount() - 1);
  const first = state.page * PER_PAGE;
  byId("list").replaceChildren(...matching.slice(first, first + PER_PAGE).map(passageCard));
  byId("page").value = state.page + 1;
  byId("page").max = pageCount();
  byId("pages").textContent = pageCount().toLocaleString("en");
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page + 1 >= pageCount();
  const shown = Math.min(matching.length, first + PER_PAGE);
  const range = matching.length ? `, ${(first + 1).toLocaleString("en")} to ${shown.toLocaleString("en")} shown` : "";
  const surface = state.surface ? ` with “${state.surface}”` : "";
  byId("said").textContent = visible(`${matching.length.toLocaleString("en")} passages${surface}${range}`);
}

function drawTypes() {
  const order = [...typeCounts.keys()].sort((one, two) => typeCounts[two] - typeCounts[one]);
  const most = Math.max(1, ...typeCounts);
  byId("type-list").replaceChildren(
    ...order.map((type) => {
      const button = make("button", { type: "button", dir: "auto", "aria-pressed": String(state.type === type) });
      button.append(make("span", {}, data.types[type]), make("span", { class: "number" }, typeCounts[type].toLocaleString("en")));
      button.style.setProperty("--h", hue(type));
      button.style.setProperty("--share", `${(100 * typeCounts[type]) / most}%`);
      button.addEventListener("click", () => chooseType(type));
      return make("li", {}, button);
    }),
  );
}

function chooseType(type) {
  state.type = state.type === type ? -1 : type;
  update();
  if (state.type >= 0) showSurfaces(type);
  else closePanel();
}

// Counts the entities of each type that both runs have: in both, and in one alone.
function countAgreement() {
  const counts = new Map([...comparable].map((type) => [type, { both: 0, ours: 0, theirs: 0 }]));
  const add = (sides, name) =>
    sides.forEach((side, passage) => {
      if (lacking.has(passage)) return;
      for (const entity of side)
        if (entity.status === "both") counts.get(entity.type).both += name === "ours" ? 1 : 0;
        else if (entity.status !== "apart") counts.get(entity.type)[name]++;
    });
  add(entities, "ours");
  add(others, "theirs");
  return [...counts].sort((one, two) => two[1].ours + two[1].theirs - one[1].ours - one[1].theirs);
}

function drawAgreement() {
  const table = make("table", {}, headRow(["Type", "Both", data.name, data.other, "Agreement"]));
  for (const [type, row] of countAgreement()) {
    const all = 2 * row.both + row.ours + row.theirs;
    const cells = [row.both, row.ours, row.theirs].map((count) => count.toLocaleString("en"));
    const share = all ? `${((200 * row.both) / all).toFixed(1)} %` : "";
    const numbers = [...cells, share].map((text) => make("td", { class: "number" }, text));
    table.append(make("tr", {}, make("td", {}, typeChip(type)), ...numbers));
  }
  const said = ["Entities of both with the same span and type, and those of one alone. Agreement: F1."];
  for (const [name, types] of [[data.name, typesHere], [data.other, typesThere]]) {
    const apart = [...types].filter((type) => !comparable.has(type)).map((type) => data.types[type]);
    const more = apart.length > 12 ? ` and ${apart.length - 12} more` : "";
    if (apart.length) said.push(`Not compared, only ${name} has: ${apart.slice(0, 12).join(", ")}${more}.`);
  }
  const notes = said.map((text) => make("p", { class: "note", dir: "auto" }, text));
  byId("agreement").replaceChildren(
    make("details", { open: "" }, make("summary", {}, "Agreement by type"), table, ...notes),
  );
}

function headRow(names) {
  const cells = names.map((name, place) => make("th", place ? { class: "number" } : {}, name));
  return make("tr", {}, ...cells);
}

// Brings the whole browser up to the filters.
function update() {
  applyFilters();
  state.page = 0;
  drawTypes();
  drawPage();
  byId("text").value = state.text;
  for (const name of ["source", "outcome", "difference", "order"]) byId(name).value = String(state[name]);
  for (const name of ["low", "high"]) {
    byId(name).value = state[name];
    byId(`${name}-value`).textContent = scoreText(state[name]);
  }
}

let awaited = false;
// Updates before the next frame, however many inputs come until then.
function updateSoon() {
  if (awaited) return;
  awaited = true;
  requestAnimationFrame(() => {
    awaited = false;
    update();
  });
}

function turnTo(page) {
  state.page = page;
  drawPage();
  if (byId("results").getBoundingClientRect().top < 0) byId("results").scrollIntoView();
}

// Shows an entity in its passage, and lifts the filters that hide it.
function goTo(entity) {
  if (!matching.includes(entity.passage) || !isWanted(entity)) clearFilters();
  turnTo(Math.floor(matching.indexOf(entity.passage) / PER_PAGE));
  if (innerWidth < 1100) closePanel();
  const mark = [...byId("list").querySelectorAll("mark")].find((each) => each.entity === entity);
  const card = [...byId("list").children].find((each) => each.passage === entity.passage);
  (mark ?? card).scrollIntoView({ block: "center" });
  (mark ?? card).focus({ preventScroll: true });
}

function clearFilters() {
  Object.assign(state, NO_FILTERS);
  update();
}

function fillSelect(id, options) {
  byId(id).replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

function setUpFilters() {
  const numbered = (names) => names.map((name, number) => [String(number), name || "(none)"]);
  fillSelect("source", [["-1", "all sources"], ...numbered(data.sources)]);
  fillSelect("outcome", [["-1", "all outcomes"], ...numbered(data.outcomes)]);
  fillSelect("difference", Object.entries(DIFFERENCES));
  fillSelect("order", Object.entries(ORDERS));
  byId("difference-label").hidden = !others;
  byId("scores").hidden = ![data.entities, data.others].some((side) => side?.score.some((score) => score >= 0));
  const listen = (id, read) =>
    byId(id).addEventListener("input", (event) => {
      state[id] = read(event.target.value);
      updateSoon();
    });
  for (const id of ["text", "difference", "order"]) listen(id, String);
  for (const id of ["source", "outcome", "low", "high"]) listen(id, Number);
  byId("clear").addEventListener("click", clearFilters);
  byId("previous").addEventListener("click", () => turnTo(state.page - 1));
  byId("next").addEventListener("click", () => turnTo(state.page + 1));
  byId("page").addEventListener("change", (event) => turnTo(Math.round(Number(event.target.value)) - 1 || 0));
  byId("list").addEventListener("click", (event) => openEntity(event.target));
  byId("close-help").addEventListener("click", () => byId("help").close());
  if (innerWidth < 800) byId("filters").open = false;
}

// Opens what was clicked: a type's surfaces by its small name, else the contexts of the surface.
function openEntity(target) {
  const entity = target.closest("mark")?.entity;
  if (!entity) return;
  if (target.closest("small")) showSurfaces(entity.type);
  else showContexts(surfaceKey(entity), surfaceOf(entity));
}

function moveFocus(by) {
  const cards = [...byId("list").children];
  const place = cards.indexOf(document.activeElement.closest?.(".passage"));
  const next = cards[Math.min(cards.length - 1, Math.max(0, place + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  n: () => turnTo(state.page + 1),
  p: () => turnTo(state.page - 1),
  j: () => moveFocus(1),
  k: () => moveFocus(-1),
  c: clearFilters,
  "/": () => {
    byId("filters").open = true;
    byId("text").focus();
  },
  "?": () => byId("help").showModal(),
};

function onKey(event) {
  const typing = event.target.closest?.("input:not([type=range]), select, textarea");
  if (event.key === "Escape") {
    if (data) closePanel();
    if (typing) event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const onMark = event.target.matches?.("mark[role=button]");
  if (onMark && (event.key === "Enter" || event.key === " ")) openEntity(event.target);
  else if (event.key === "t") changeTheme();
  else if (data && KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
}

restoreTheme();
byId("theme").addEventListener("click", changeTheme);
document.addEventListener("keydown", onKey);
if (data) {
  setUpFilters();
  if (others) drawAgreement();
  update();
}
