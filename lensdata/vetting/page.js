"use strict";
// The page of lensdata vet. A press of a key is shown at once, kept in the browser's storage, and sent until the server says
// that it is on the disk; a press that is sent twice is written once, because it carries a key of its own.

const UNSAID = ".", GRADE_OF = { l: "lens", m: "maybe", n: "not", a: "artefact" };
const ZOOMS = [1, 1.5, 2, 3, 4, 6], AHEAD = 8, TILES = 24, RETRY_MS = 1500, BAR_ARCSEC = 2;
const RESERVED = "ugsbrfh"; // letters that are commands; a kind takes the first other letter of its name

const byId = (id) => document.getElementById(id);
const state = {
  about: null, grader: "", marks: [], kinds: {}, number: 1, view: "single",
  stretch: "normal", channel: 0, residual: false, zoom: 0, letters: {}, flushing: false, since: 0, looked: 0,
};

// --- storage: what the server has not confirmed yet -----------------------------------------------------------------

const memory = new Map(); // where a browser forbids storage
const store = {
  get(key) { try { return localStorage.getItem(key); } catch { return memory.get(key) ?? null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { memory.set(key, value); } },
  remove(key) { memory.delete(key); try { localStorage.removeItem(key); } catch { /* it was in memory */ } },
  keys() { try { return [...Object.keys(localStorage), ...memory.keys()]; } catch { return [...memory.keys()]; } },
};
const prefix = () => `lensdata-vet ${state.about.session} ${state.grader} `;
const waiting = () => store.keys().filter((key) => key.startsWith(prefix())).sort();
let pressed = 0;

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function send(path, body) {
  const key = randomKey(), place = `${String(Date.now()).padStart(15, "0")}-${String(pressed++).padStart(6, "0")}-${key}`;
  const whole = { ...body, key, grader: state.grader, session: state.about.session };
  store.set(prefix() + place, JSON.stringify({ path, body: whole }));
  flush();
}

async function flush() {
  if (state.flushing) return;
  state.flushing = true;
  let refused = null;
  try {
    for (let [first] = waiting(); first; [first] = waiting()) {
      tell(`${waiting().length} not yet saved`);
      const { path, body } = JSON.parse(store.get(first));
      const [status, answer] = await ask(path, body);
      if (status === 0 || status === 403 || status === 409 || status >= 500) { // 409: the server of another folder answers here
        tell(`${waiting().length} not saved yet: ${answer.error} They are kept here and sent again.`, true);
        if (state.view === "end") showEnd();
        setTimeout(flush, RETRY_MS);
        return;
      }
      store.remove(first);
      if (status !== 200) { refused = answer.error; await loadMarks(); show(); } else if (path === "api/undo") undone(answer);
    }
    tell(refused ?? "All grades are saved.", refused !== null);
    if (state.view === "end") showEnd();
  } finally { state.flushing = false; }
}

async function ask(path, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  try {
    const response = await fetch(path, { ...options, credentials: "same-origin", cache: "no-store" });
    return [response.status, await response.json()];
  } catch { return [0, { error: "The server does not answer." }]; }
}

// --- what is shown --------------------------------------------------------------------------------------------------

function tell(text, bad = false) { byId("status").textContent = text; byId("status").classList.toggle("bad", bad); }

function element(name, content = "", attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const part of [content].flat()) made.append(part);
  return made;
}

function address(number) {
  const query = new URLSearchParams({ channel: state.about.channels[state.channel], stretch: state.stretch });
  if (state.residual) query.set("residual", "1");
  return `picture/${state.about.session}/${state.grader}/${number}?${query}`;
}

const gradeOf = (number) => GRADE_OF[state.marks[number - 1]] ?? null;
const spoken = (word) => word.replaceAll("_", "-");
const describe = (number) => [gradeOf(number) ?? "not graded", state.kinds[number]].filter(Boolean).map(spoken).join(", ");
const done = () => state.marks.filter((mark) => mark !== UNSAID).length;

function show() {
  const { about, number } = state, total = about.stamps;
  byId("single").hidden = state.view !== "single";
  byId("grid").hidden = state.view !== "grid";
  byId("desk").hidden = state.view === "end";
  byId("end").hidden = state.view !== "end";
  byId("grid-button").setAttribute("aria-pressed", state.view === "grid");
  byId("count").textContent = `${done().toLocaleString("en")} of ${total.toLocaleString("en")}`;
  byId("who").textContent = `graded by ${state.grader}`;
  byId("progress").max = total; byId("progress").value = done();
  document.title = `${done()}/${total} · lensdata vet`;
  showControls();
  if (state.view === "single") showSingle(number);
  if (state.view === "grid") showGrid();
}

function showControls() {
  const { about, number } = state, grade = gradeOf(number);
  for (const button of byId("grades").children) button.setAttribute("aria-pressed", button.dataset.grade === grade);
  for (const button of byId("kinds").children) button.setAttribute("aria-pressed", state.kinds[number] === button.dataset.kind);
  byId("stretch").firstElementChild.textContent = state.stretch;
  byId("channel").firstElementChild.textContent = about.channels[state.channel];
  byId("stretch").setAttribute("aria-label", `Stretch: ${state.stretch}`);
  byId("channel").setAttribute("aria-label", `Band: ${about.channels[state.channel]}`);
  byId("residual").setAttribute("aria-pressed", state.residual);
  byId("previous").disabled = number <= 1; byId("next").disabled = number >= about.stamps;
  byId("smaller").disabled = state.zoom === 0; byId("larger").disabled = state.zoom === ZOOMS.length - 1;
}

function showSingle(number) {
  const { about } = state, picture = byId("picture"), zoom = ZOOMS[state.zoom], source = address(number);
  if (picture.getAttribute("src") !== source) { byId("trouble").hidden = true; picture.src = source; }
  picture.alt = `Stamp ${number}`;
  picture.style.transform = `scale(${zoom})`;
  byId("stage").style.aspectRatio = `${about.width} / ${about.height}`;
  const bar = byId("bar");
  bar.hidden = !about.pixscale_arcsec;
  if (about.pixscale_arcsec) {
    bar.style.width = `${(100 * zoom * BAR_ARCSEC) / about.pixscale_arcsec / about.width}%`;
    bar.firstElementChild.textContent = `${BAR_ARCSEC}″`;
  }
  byId("caption").textContent = `Stamp ${number.toLocaleString("en")} · ${describe(number)}`;
  for (let ahead = 1; ahead <= AHEAD && number + ahead <= about.stamps; ahead++) new Image().src = address(number + ahead);
  if (!about.blind) showFacts(number);
}

async function showFacts(number) {
  const [status, facts] = await ask(`api/facts/${state.grader}/${number}`);
  if (status !== 200 || number !== state.number) return;
  const figures = ["rank", "logit", "score"].filter((name) => facts[name] !== null)
    .map((name) => `${name} ${name === "rank" ? facts[name] : facts[name].toFixed(3)}`);
  const parts = [facts.lens_name, facts.control && `control: ${facts.control}`, ...figures].filter(Boolean);
  byId("facts").replaceChildren(parts.join(" · "), parts.length ? " · " : "", facts.viewer
    ? element("a", `${facts.ra.toFixed(4)} ${facts.dec.toFixed(4)} in the sky viewer`, { href: facts.viewer, target: "_blank", rel: "noopener noreferrer" })
    : `cutout_id ${facts.cutout_id}`);
  byId("facts").hidden = false;
}

function showGrid() {
  const first = Math.floor((state.number - 1) / TILES) * TILES + 1, grid = byId("grid"), tiles = [];
  for (let number = first; number < first + TILES && number <= state.about.stamps; number++) {
    let tile = grid.querySelector(`[data-number="${number}"]`);
    if (!tile) {
      tile = element("button", [element("img", "", { alt: "" }), element("small", String(number)), element("span")], { class: "tile", tabindex: "-1", "data-number": number });
      tile.addEventListener("click", () => choose(number));
    }
    const [picture, , badge] = tile.children, grade = gradeOf(number), here = number === state.number;
    if (picture.getAttribute("src") !== address(number)) picture.src = address(number);
    badge.textContent = grade ?? ""; badge.className = grade ?? "";
    tile.setAttribute("aria-label", `Stamp ${number}, ${describe(number)}`);
    tile.setAttribute("aria-current", here); tile.tabIndex = here ? 0 : -1;
    tiles.push(tile);
  }
  if (tiles.some((tile, place) => grid.children[place] !== tile) || grid.children.length !== tiles.length) grid.replaceChildren(...tiles);
  if (!byId("help").open && (document.activeElement === document.body || grid.contains(document.activeElement))) {
    const here = grid.querySelector('[aria-current="true"]');
    here.focus({ preventScroll: true }); here.scrollIntoView({ block: "nearest" });
  }
}

function choose(number) {
  if (number === state.number) state.view = "single";
  go(number);
}

// --- the end: what all graders did ----------------------------------------------------------------------------------

const figure = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
const withLimits = (entry, digits = 2) => [figure(entry.value, digits), element("small", entry.low === null ? "" : `${figure(entry.low, digits)} to ${figure(entry.high, digits)}`)];
const row = (cells, kind = "td") => element("tr", cells.map((cell) => element(kind, cell)));
const table = (head, rows) => element("div", element("table", [row(head, "th"), ...rows.map((cells) => row(cells))]), { class: "scroll", tabindex: "0" });

async function showEnd() {
  const end = byId("end"), open = waiting().length;
  if (open) { // the last flush comes back here
    const held = "They are kept in this browser and sent again until the server says that they are on the disk; leave this page open.";
    end.replaceChildren(element("h1", `${open} not saved yet`), element("p", held), element("p", byId("status").textContent, { class: "note" }));
    return;
  }
  const [status, told] = await ask(`api/summary/${state.grader}`);
  if (state.view !== "end") return;
  if (status !== 200) { end.replaceChildren(element("h1", "Totals"), element("p", told.error)); return; }
  const left = told.stamps - told.graded, parts = [element("h1", told.finished ? `All ${told.stamps} stamps are graded` : `${told.graded} of ${told.stamps} stamps are graded`)];
  const tiles = Object.entries(told.grades).map(([grade, count]) => element("p", [element("b", String(count)), grade], { class: grade }));
  parts.push(element("p", `By ${state.grader}.`, { class: "note" }), element("div", tiles, { class: "tiles" }));
  const back = element("button", told.finished ? "Look again" : `Go on (${left} left)`, { class: "main", id: "back" });
  back.addEventListener("click", () => { state.view = "single"; go(nextUngraded(0) ?? state.number); });
  const other = element("button", "Another grader", { id: "other" });
  other.addEventListener("click", () => { location.href = location.pathname; });
  parts.push(element("p", [back, other], { class: "line" }));
  if (told.all) parts.push(...ofAll(told.all, told.export));
  else parts.push(element("p", "Agreement and controls are told when the last stamp is graded: before, they would give away which stamps are controls.", { class: "note" }));
  end.replaceChildren(...parts);
  if (document.activeElement === document.body || !document.activeElement.offsetParent) end.focus({ preventScroll: true });
}

function ofAll(all, command) {
  const parts = [], sorts = { lens: "lenses", random: "random" };
  if (all.controls.lens + all.controls.random) {
    parts.push(element("h2", "Controls"), table(["", ...Object.values(sorts).flatMap((sort) => [`${sort}: “lens”`, "or “maybe”"])],
      all.graders.map((one) => [one.name, ...Object.keys(sorts).flatMap((sort) => [withLimits(one[`controls_${sort}`].as_lens), withLimits(one[`controls_${sort}`].as_lens_or_maybe)])])));
    parts.push(element("p", `${all.controls.lens} known lenses and ${all.controls.random} random negatives were mixed in. Shown is the share of them that was called “lens”, or “lens” or “maybe”, with 95% intervals (Jeffreys).`, { class: "note" }));
  }
  parts.push(element("h2", "Graders"), table(["", "graded", "lens", "maybe", "not", "artefact", "median s"],
    all.graders.map((one) => [one.name, ...["graded", "lens", "maybe", "not", "artefact"].map((name) => String(one[name])), figure(one.median_seconds, 1)])));
  parts.push(element("h2", "Agreement"));
  if (!all.agreement) parts.push(element("p", "One grader so far; kappa needs two.", { class: "note" }));
  else {
    const own = all.agreement_without_controls, rows = all.agreement.pairs.map((pair, place) => [pair.graders.join(" and "), String(pair.n), withLimits(pair), ...(own ? [withLimits(own.pairs[place])] : [])]);
    if (all.agreement.mean) rows.push(["mean of pairs", "", withLimits(all.agreement.mean), ...(own ? [own.mean ? withLimits(own.mean) : "–"] : [])]);
    parts.push(table(["", "both graded", "Cohen’s kappa", ...(own ? ["without controls"] : [])], rows));
  }
  parts.push(element("h2", "What comes next"), element("p", "When all graders are done, write the verdicts, a table for the cleaning:"), element("pre", command));
  return parts;
}

// --- what is done ---------------------------------------------------------------------------------------------------

function now() { return performance.now(); }
function startLooking() { state.looked = 0; state.since = now(); }
function looked() { return (state.looked + (document.hidden ? 0 : now() - state.since)) / 1000; }

function go(number) {
  state.number = Math.min(Math.max(number, 1), state.about.stamps);
  startLooking();
  show();
}

function nextUngraded(after) {
  const later = state.marks.indexOf(UNSAID, after);
  const found = later >= 0 ? later : state.marks.indexOf(UNSAID);
  return found >= 0 ? found + 1 : null;
}

function mark(number, grade, kind) {
  state.marks[number - 1] = grade ? grade[0] : UNSAID;
  if (kind) state.kinds[number] = kind; else delete state.kinds[number];
}

function grade(name, kind = null) {
  if (state.view === "end") return;
  const number = state.number, seconds = looked();
  mark(number, name, kind);
  send("api/grade", { number, grade: name, kind, seconds });
  const next = nextUngraded(number);
  if (next === null) return finish();
  go(next);
}

function finish() { state.view = "end"; show(); showEnd(); }

function undo() { send("api/undo", {}); }

function undone(answer) {
  if (answer.number === null) { tell("There is nothing to undo."); return; }
  mark(answer.number, answer.grade, answer.kind);
  if (state.view === "end") state.view = "single";
  go(answer.number);
}

function toggleGrid() {
  state.view = state.view === "grid" ? "single" : "grid";
  show();
  if (state.view === "single") byId("stage").focus({ preventScroll: true });
  else byId("grid").querySelector('[aria-current="true"]').focus();
}

function cycle(list, value, step = 1) { return list[(list.indexOf(value) + step + list.length) % list.length]; }
function stretch() { state.stretch = cycle(state.about.stretches, state.stretch); show(); }
function band() { state.channel = (state.channel + 1) % state.about.channels.length; show(); }
function residual() { state.residual = !state.residual; show(); }
function zoom(step) { state.zoom = Math.min(Math.max(state.zoom + step, 0), ZOOMS.length - 1); show(); }

function columns() { return getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length; }

const COMMANDS = {
  ArrowRight: () => go(state.number + 1), ArrowLeft: () => go(state.number - 1),
  ArrowDown: () => (state.view === "grid" ? go(state.number + columns()) : false),
  ArrowUp: () => (state.view === "grid" ? go(state.number - columns()) : false),
  PageDown: () => (state.view === "grid" ? go(state.number + TILES) : false),
  PageUp: () => (state.view === "grid" ? go(state.number - TILES) : false),
  Home: () => go(1), End: () => go(nextUngraded(state.number) ?? state.about.stamps),
  u: undo, Backspace: undo, g: toggleGrid, s: stretch, b: band, r: residual, "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1), 0: () => zoom(-ZOOMS.length),
};

function onKey(event) {
  if (byId("work").hidden || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (byId("help").open) { if (key === "?" || key === "h") { byId("help").close(); event.preventDefault(); } return; }
  if (key === "?" || key === "h") { byId("help").showModal(); event.preventDefault(); return; }
  if (key === "f") { if (state.view === "end") { state.view = "single"; show(); } else finish(); event.preventDefault(); return; }
  if (state.view === "end" && !["u", "Backspace", "g"].includes(key)) return;
  const onButton = event.target instanceof HTMLButtonElement && !event.target.classList.contains("tile");
  if ((key === " " || key === "Enter") && onButton) return; // the button's own
  if (event.repeat && !key.startsWith("Arrow") && key !== " ") return; // a key held down is one grade
  let act = COMMANDS[key];
  if (key === " ") act = () => go(state.number + (event.shiftKey ? -1 : 1));
  if (key === "Enter" && state.view === "grid") act = toggleGrid;
  if (state.about.grades[key - 1]) act = () => grade(state.about.grades[key - 1]);
  if (state.letters[key]) act = () => grade("not", state.letters[key]);
  if (act && act() !== false) event.preventDefault();
}

// --- the start ------------------------------------------------------------------------------------------------------

function onPress(id, act) {
  byId(id).addEventListener("click", (event) => { act(); if (event.detail && state.view === "single") byId("stage").focus({ preventScroll: true }); });
}

function build() {
  const { about } = state;
  about.grades.forEach((name, place) => {
    byId("grades").append(element("button", [element("span", name[0].toUpperCase() + name.slice(1)), element("kbd", String(place + 1))], { class: name, id: `grade-${name}`, "data-grade": name }));
    onPress(`grade-${name}`, () => grade(name));
  });
  for (const kind of about.kinds) {
    const letter = [...kind].find((one) => /[a-z]/.test(one) && !RESERVED.includes(one) && !state.letters[one]);
    if (letter) state.letters[letter] = kind;
    byId("kinds").append(element("button", [`${spoken(kind)} `, ...(letter ? [element("kbd", letter)] : [])], { id: `kind-${kind}`, "data-kind": kind }));
    onPress(`kind-${kind}`, () => grade("not", kind));
  }
  const acts = { previous: () => go(state.number - 1), next: () => go(state.number + 1), undo, stretch, channel: band, residual, smaller: () => zoom(-1), larger: () => zoom(1), "grid-button": toggleGrid, "end-button": finish, "help-button": () => byId("help").showModal() };
  for (const [id, act] of Object.entries(acts)) onPress(id, act);
  const grades = about.grades.map((name, place) => [[String(place + 1)], name]);
  const kinds = Object.entries(state.letters).map(([letter, kind]) => [[letter], `not a lens, but ${spoken(kind)}`]);
  const keys = [...grades, ...kinds, [["→", "Space"], "next"], [["←"], "back"], [["End"], "next that has no grade"], [["u"], "undo the last grade"], [["g"], "grid or one stamp; arrows move, Enter opens"], [["s"], "stretch: faint light, normal, bright cores"], [["b"], "colours, or one band"], [["r"], "residual: without what is round"], [["+", "-", "0"], "zoom in, out, whole stamp"], [["f"], "totals"], [["?"], "these keys"]];
  byId("keys").append(...keys.flatMap(([names, meaning]) => [element("span", names.flatMap((name) => [element("kbd", name), " "])), element("span", meaning)]));
  byId("picture").addEventListener("error", () => { byId("trouble").hidden = false; byId("trouble").textContent = "This stamp cannot be shown: the server does not answer, or its shard cannot be read (the terminal says why)."; });
  byId("picture").addEventListener("load", () => { byId("trouble").hidden = true; });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => { if (document.hidden) state.looked += now() - state.since; else state.since = now(); });
}

async function loadMarks() {
  const [status, told] = await ask(`api/marks/${state.grader}`);
  if (status !== 200) return told.error;
  state.marks = [...told.marks];
  state.kinds = told.kinds;
  for (const key of waiting()) { // pressed, and not yet confirmed
    const { path, body } = JSON.parse(store.get(key));
    if (path === "api/grade") mark(body.number, body.grade, body.kind);
  }
  return null;
}

async function enter(name) {
  state.grader = name;
  const error = await loadMarks();
  if (error) { state.grader = ""; byId("rule").textContent = error; return; }
  store.set("lensdata-vet grader", name);
  history.replaceState(null, "", `${location.pathname}?grader=${encodeURIComponent(name)}`);
  byId("welcome").hidden = true; byId("work").hidden = false;
  const next = nextUngraded(0);
  if (next === null) finish(); else go(next);
  if (state.view === "single") byId("stage").focus({ preventScroll: true });
  flush();
}

async function main() {
  const asked = new URLSearchParams(location.search), [status, about] = await ask("api/session");
  history.replaceState(null, "", location.pathname + (asked.get("grader") ? `?grader=${encodeURIComponent(asked.get("grader"))}` : ""));
  byId("welcome").hidden = false;
  if (status !== 200) { byId("about").textContent = about.error; byId("naming").hidden = true; return; }
  state.about = about;
  byId("about").textContent = `${about.name}: ${about.stamps.toLocaleString("en")} stamps${about.blind ? ", with controls among them; scores and names are hidden" : ""}.`;
  build();
  byId("naming").addEventListener("submit", (event) => { event.preventDefault(); enter(byId("name").value); });
  byId("naming").hidden = about.closed;
  for (const name of about.graders) {
    const button = element("button", name);
    button.addEventListener("click", () => enter(name));
    byId("known").append(button);
  }
  byId("name").value = about.closed ? "" : (store.get("lensdata-vet grader") ?? "");
  if (asked.get("grader")) enter(asked.get("grader")); else if (!about.closed) byId("name").focus();
}

main();
