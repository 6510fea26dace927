// The panel beside the list: the surfaces of a type, and the contexts of a surface.

const MOST_SURFACES = 300;
const CONTEXTS = 100;
const AROUND = 48; // characters on each side of a surface

function openPanel(title, ...content) {
  const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "✕");
  close.addEventListener("click", closePanel);
  const panel = byId("panel");
  panel.replaceChildren(make("header", {}, make("h3", { dir: "auto" }, title), close), ...content);
  panel.hidden = false;
  panel.scrollTop = 0;
  close.focus({ preventScroll: true });
}

function closePanel() {
  byId("panel").hidden = true;
}

// Shows the surfaces of a type in the passages that the other filters leave, the most frequent first.
function showSurfaces(type) {
  const counts = new Map();
  for (const passage of matching)
    for (const entity of entities[passage]) {
      if (entity.type !== type || !inScore(entity)) continue;
      const key = surfaceKey(entity);
      const known = counts.get(key);
      if (known) known.count++;
      else counts.set(key, { text: surfaceOf(entity), count: 1 });
    }
  const ordered = [...counts].sort((one, two) => two[1].count - one[1].count);
  const rows = ordered.slice(0, MOST_SURFACES).map(([key, { text, count }]) => {
    const button = make("button", { type: "button", class: "surface", dir: "auto" }, text);
    button.addEventListener("click", () => showContexts(key, text));
    return make("li", {}, button, make("span", { class: "number" }, count.toLocaleString("en")));
  });
  const more = ordered.length > MOST_SURFACES ? `, the first ${MOST_SURFACES} shown` : "";
  const said = `${ordered.length.toLocaleString("en")} surfaces${more}`;
  openPanel(data.types[type], make("p", { class: "note" }, said), make("ol", { class: "surfaces" }, ...rows));
}

// Shows each place of a surface, whatever its type, with the text around it.
function showContexts(key, text) {
  const found = entities.flat().filter((entity) => surfaceKey(entity) === key);
  const types = new Map();
  for (const entity of found) types.set(entity.type, (types.get(entity.type) ?? 0) + 1);
  const chips = [...types].map(([type, count]) => typeChip(type, count.toLocaleString("en")));
  const only = make("button", { type: "button" }, "Only passages with it");
  only.addEventListener("click", () => {
    state.surface = key;
    state.type = -1;
    closePanel();
    update();
  });
  const list = make("ol", { class: "contexts" });
  const more = make("button", { type: "button" }, "More");
  const addRows = () => {
    const from = list.childElementCount;
    list.append(...found.slice(from, from + CONTEXTS).map(contextRow));
    more.hidden = list.childElementCount >= found.length;
  };
  more.addEventListener("click", addRows);
  addRows();
  const said = make("p", { class: "note" }, `${found.length.toLocaleString("en")} times`);
  openPanel(text, said, make("p", {}, ...chips), only, list, more);
}

function contextRow(entity) {
  const text = data.text[entity.passage];
  const about = make("small", {}, data.sources[data.source[entity.passage]], " ", scoreText(entity.score));
  const button = make("button", { type: "button", dir: "auto" });
  if (entity.start < 0) button.append(make("i", {}, "not in the text: "), markOf(entity, surfaceOf(entity)));
  else
    button.append(
      visible(`…${text.slice(Math.max(0, entity.start - AROUND), entity.start)}`),
      markOf(entity, surfaceOf(entity)),
      visible(`${text.slice(entity.end, entity.end + AROUND)}…`),
    );
  button.append(about);
  button.addEventListener("click", () => goTo(entity));
  return make("li", {}, button);
}

// Returns a marked surface that is no button of its own.
function markOf(entity, text) {
  const mark = make("mark", {}, text);
  mark.style.setProperty("--h", hue(entity.type));
  return mark;
}

function typeChip(type, count) {
  const chip = make("button", { type: "button", class: "chip", dir: "auto" }, data.types[type]);
  if (count) chip.append(make("span", { class: "number" }, count));
  chip.style.setProperty("--h", hue(type));
  chip.addEventListener("click", () => showSurfaces(type));
  return chip;
}
