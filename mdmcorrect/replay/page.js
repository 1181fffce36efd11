"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const extra = JSON.parse(document.getElementById("extra").textContent);
  const $ = (id) => document.getElementById(id);
  const BINS = 5;
  // Scores that say how sure the model is: their least and most, and whether more is surer.
  const SCORES = { quality: 1, confidence: 1, margin: 1, logprob: 1, current_logprob: 1, max_logprob: 1, entropy: -1 };
  const breaks = new Set(extra.breaks);
  const isGrid = extra.columns > 0;
  const text = (token) => extra.named ? (extra.texts[token] ?? `⟨${token}⟩`) : String(token);
  let row, frames, cells = [], gaps = [], at = 0, timer = null, focused = 0, pinned = null, hovered = null, score = "";

  // ---- what is known after each step ----

  function unfold(entry) {
    const made = [{ canvas: entry.tokens.slice(), kinds: new Map(), step: null, known: {}, taken: new Map(), was: new Map(), seen: {} }];
    const names = new Set(entry.steps.flatMap((step) => Object.keys(step.scores ?? {})));
    const known = {};
    for (const name of names) known[name] = new Array(entry.tokens.length).fill(null);
    const stood = entry.tokens.slice();
    let seen = {};
    for (const step of entry.steps) {
      const before = made[made.length - 1].canvas, canvas = before.slice();
      const kinds = new Map(), taken = new Map(), was = new Map(), asked = { ...seen };
      for (const [place, token, kind] of step.changes) {
        canvas[place] = token;
        if (kind === "mended" || kind === "rewritten") was.set(place, stood[place]);
        if (token !== run.mask_id) stood[place] = token;
        kinds.set(place, kind);
        if (kind === "masked" && before[place] !== run.mask_id) taken.set(place, before[place]);
      }
      for (const [place, pairs] of step.candidates ?? []) asked[place] = { pairs, step: step.step };
      for (const name of names) {
        const scores = step.scores?.[name], kept = known[name];
        for (let place = 0; place < canvas.length; place++) {
          const value = scores ? scores[place] : null;
          // Quality judges the token that stood there; the others, the one that is proposed.
          const judges = value !== null && (name !== "quality" || before[place] !== run.mask_id);
          if (judges) kept[place] = value;
          if (name === "quality" && canvas[place] !== before[place] && canvas[place] !== run.mask_id) kept[place] = null;
          if (canvas[place] === run.mask_id && !taken.has(place) && !judges) kept[place] = null;
        }
      }
      const copy = {};
      for (const name of names) copy[name] = kept_copy(known[name]);
      made.push({ canvas, kinds, step, known: copy, taken, was, seen: asked });
      seen = asked;
    }
    return { made, names: [...names] };
  }
  const kept_copy = (values) => values.slice();

  function limits(name) {
    if (name === "quality" || name === "confidence" || name === "margin") return [0, 1];
    const all = frames.flatMap((frame) => (frame.known[name] ?? []).filter((value) => value !== null));
    return all.length ? [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))] : [0, 1];
  }
  let range = [0, 1];
  // Where one colour ends and the next, surer one begins; probabilities crowd below 1.
  function edges() {
    const [least, most] = SCORES[score] < 0 ? [range[1], range[0]] : range;
    if (["quality", "confidence"].includes(score)) return [0.5, 0.7, 0.85, 0.95];
    return Array.from({ length: BINS - 1 }, (_, n) => least + (most - least) * (n + 1) / BINS);
  }
  let steps = [];
  const bin = (value) => steps.filter((edge) => SCORES[score] < 0 ? value <= edge : value >= edge).length;
  const number = (value) => Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(3) : value.toExponential(1);

  // ---- the tokens ----

  function state(place) {
    const frame = frames[at], kind = frame.kinds.get(place);
    if (frame.taken.has(place)) return "taken";
    if (frame.canvas[place] === run.mask_id && !row.fixed[place]) return "masked";
    if (row.fixed[place]) return "given";
    return { filled: "filled", mended: "mended", returned: "filled", rewritten: "rewritten" }[kind] ?? "";
  }
  const WORDS = { taken: "masked again", masked: "masked", given: "given", filled: "filled in this step",
    mended: "mended in this step", rewritten: "rewritten in this step", "": "standing" };

  function layOut() {
    const box = $("tokens");
    box.replaceChildren();
    $("stage").classList.toggle("board", isGrid && extra.columns <= 16);
    box.className = (isGrid ? "grid" : "") + (extra.named ? "" : " ids");
    box.style.gridTemplateColumns = isGrid ? `repeat(${extra.columns}, auto)` : "";
    const final = frames[frames.length - 1].canvas.map(text).join("");
    box.dir = !isGrid && /^[^A-Za-z\u00c0-\u024f]*[\u0590-\u08ff\ufb1d-\ufefc]/.test(final) ? "rtl" : "ltr";
    gaps = [];
    cells = row.tokens.map((_, place) => {
      if (!isGrid) { // the space before a word stands outside its frame, where lines may break
        const gap = document.createElement("span");
        gap.setAttribute("aria-hidden", "true");
        gaps.push(gap);
        box.append(gap);
      }
      const cell = document.createElement("span");
      cell.setAttribute("role", "option");
      cell.dataset.place = place;
      cell.tabIndex = place === focused ? 0 : -1;
      box.append(cell);
      return cell;
    });
  }

  function walls(place) {
    const [high, wide] = extra.boxes;
    if (!isGrid || !high) return "";
    const line = Math.floor(place / extra.columns), column = place % extra.columns, lines = row.tokens.length / extra.columns;
    return (line % high ? "" : " top") + (column % wide ? "" : " left") +
      (line === lines - 1 ? " bottom" : "") + (column === extra.columns - 1 ? " right" : "");
  }

  function paint(place) {
    const frame = frames[at], is = state(place), cell = cells[place];
    const token = is === "taken" ? frame.taken.get(place) : frame.canvas[place];
    const value = frame.known[score]?.[place] ?? null;
    const colour = value !== null && is !== "masked" && is !== "given" ? ` b${bin(value)}` : "";
    const whole = is === "masked" ? (isGrid ? "" : "\u00a0") : text(token);
    const space = isGrid || !whole.trim() ? "" : whole.match(/^ */)[0], label = whole.slice(space.length);
    if (!isGrid && gaps[place].textContent !== space) gaps[place].textContent = space;
    const line = !isGrid && is !== "masked" && breaks.has(token) ? " nl" : "";
    const name = `token ${is}${colour}${line}${walls(place)}${place === pinned ? " pinned" : ""}`;
    if (cell.className !== name) cell.className = name;
    if (cell.textContent !== label) cell.textContent = label;
    const judged = colour ? `, ${score} ${number(value)}` : "";
    cell.setAttribute("aria-label", `Position ${place}: ${is === "masked" ? "" : text(token) + ", "}${WORDS[is]}${judged}`);
    cell.setAttribute("aria-selected", String(place === pinned));
  }

  function about(place) {
    const box = $("about"), frame = frames[at];
    box.replaceChildren();
    const add = (tag, content, where = box) => {
      const made = document.createElement(tag);
      made.textContent = content;
      where.append(made);
      return made;
    };
    if (place === null || place >= cells.length) return add("p", "Point at a token, or reach one by the Tab and arrow keys, to see what the model thought of it.");
    const is = state(place), token = is === "taken" ? frame.taken.get(place) : frame.canvas[place];
    add("h2", is === "masked" ? "masked" : text(token));
    add("p", `Position ${place}${is === "masked" ? "" : `, id ${token}`}: ${WORDS[is]}.`);
    if (frame.was.has(place)) add("p", `It was ${text(frame.was.get(place))} before.`);
    for (const [name, values] of Object.entries(frame.known)) {
      if (values[place] !== null && !row.fixed[place]) add("p", `${name}: ${number(values[place])}`);
    }
    if (frame.step?.rescored) add("p", "Scores are those of the corrector's last forward.");
    const asked = frame.seen[place];
    if (!asked) return;
    const table = add("table", "");
    const when = asked.step === frame.step?.step ? "in this step" : `in step ${asked.step + 1}`;
    add("caption", `The model's best, ${when}`, table);
    for (const [candidate, logprob] of asked.pairs) {
      const line = add("tr", "", table), share = Math.exp(logprob);
      add("th", text(candidate), line).scope = "row";
      add("td", number(share), line);
      const bar = add("td", "", line);
      bar.className = "bar";
      add("span", "", bar).style.width = `${(100 * share).toFixed(1)}%`;
      if (candidate === token) line.className = "chosen";
    }
  }

  // ---- counts ----

  function counts(frame) {
    const found = { filled: 0, mended: 0, returned: 0, masked: 0, rewritten: 0, other: 0 };
    for (const kind of frame.kinds.values()) found[kind]++;
    return found;
  }
  function sentence(frame) {
    const free = row.fixed.filter((each) => !each).length;
    const left = frame.canvas.filter((token, place) => token === run.mask_id && !row.fixed[place]).length;
    const found = counts(frame), parts = [];
    const names = { filled: "filled", mended: "mended", returned: "filled as before", masked: "masked again", rewritten: "rewritten", other: "changed otherwise" };
    for (const [kind, count] of Object.entries(found)) if (count) parts.push(`${count} ${names[kind]}`);
    return `${free - left} of ${free} filled · NFE ${frame.step ? frame.step.nfe : 0}${frame.step ? " · this step: " + (parts.join(", ") || "nothing changed") : ""}`;
  }
  function mean(frame) {
    const values = (frame.known[score] ?? []).filter((value, place) => value !== null && frame.canvas[place] !== run.mask_id && !row.fixed[place]);
    return values.length ? values.reduce((a, b) => a + b) / values.length : null;
  }

  const SVG = "http://www.w3.org/2000/svg";
  function strip() {
    const svg = $("strip"), count = frames.length, width = 1000, height = 84, base = 52;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const draw = (tag, values, name) => {
      const made = document.createElementNS(SVG, tag);
      for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
      if (name) made.setAttribute("class", name);
      svg.append(made);
      return made;
    };
    const each = width / count, all = frames.map(counts);
    const kinds = [["filled", (found) => found.filled + found.returned], ["mended", (found) => found.mended], ["rewritten", (found) => found.rewritten]];
    const most = all.reduce((high, found) => Math.max(high, kinds.reduce((sum, [, of]) => sum + of(found), 0), found.masked), 1);
    draw("rect", { x: at * each, y: 0, width: each, height, id: "now" }, "now");
    all.forEach((found, n) => {
      const x = n * each + each * 0.15, wide = each * 0.7, unit = (base - 6) / most;
      let top = base;
      for (const [name, of] of kinds) {
        if (!of(found)) continue;
        top -= of(found) * unit;
        draw("rect", { x, y: top, width: wide, height: of(found) * unit }, name);
      }
      if (found.masked) draw("rect", { x, y: base, width: wide, height: found.masked * (height - base - 12) / most }, "taken");
      const made = n ? (frames[n].step.nfe - (frames[n - 1].step?.nfe ?? 0)) : 0, marks = Math.min(made, 12);
      for (let mark = 0; mark < marks; mark++) draw("rect", { x: x + mark * wide / marks, y: height - 8, width: wide / marks * 0.85, height: 5 }, "made");
    });
    draw("line", { x1: 0, x2: width, y1: base, y2: base }, "axis");
    const points = frames.map((frame, n) => [n, mean(frame)]).filter(([, value]) => value !== null)
      .map(([n, value]) => `${((n + 0.5) * each).toFixed(1)},${(base - 4 - (base - 10) * (value - range[0]) / (range[1] - range[0] || 1)).toFixed(1)}`);
    if (points.length) draw("polyline", { points: points.join(" ") }, "mean");
    const last = frames[frames.length - 1], taken = all.reduce((sum, found) => sum + found.masked, 0);
    const named = score ? ` The line is the mean ${score} of what stands.` : "";
    svg.setAttribute("aria-label", `${count - 1} steps, ${last.step ? last.step.nfe : 0} forwards; ${taken} times a token was masked again. Bars above the line: filled; below: masked again.${named}`);
    $("line").textContent = score ? ` Line: mean ${score} of what stands.` : "";
  }

  // ---- moving ----

  function show(to, aloud = true) {
    at = Math.max(0, Math.min(frames.length - 1, to));
    const frame = frames[at], merged = frame.step?.merged ?? 1;
    cells.forEach((_, place) => paint(place));
    $("scrub").value = at;
    const where = `step ${at} of ${frames.length - 1}${merged > 1 ? ` (${merged} in one)` : ""}`;
    $("scrub").setAttribute("aria-valuetext", where);
    $("where").textContent = where;
    $("counts").textContent = sentence(frame);
    if (aloud) $("said").textContent = `Step ${at}. ${sentence(frame)}`;
    $("plain").textContent = frame.canvas.map((token, place) => token === run.mask_id && !row.fixed[place] ? "▁" : text(token)).join(extra.named && !isGrid ? "" : " ");
    $("now")?.setAttribute("x", at * 1000 / frames.length);
    about(pinned ?? hovered ?? (cells[focused] === document.activeElement ? focused : null));
    const picture = extra.pictures[extra.molecules[run.rows.indexOf(row)]?.[at]] ?? "";
    $("molecule").hidden = !picture;
    if (picture) {
      $("molecule").querySelector("img").src = picture;
      $("molecule").querySelector("img").alt = `The molecule ${frame.canvas.map(text).join("")}`;
      $("molecule").querySelector("figcaption").textContent = "Drawn by RDKit.";
    }
  }
  function stop() {
    clearInterval(timer);
    timer = null;
    $("play").textContent = "Play";
    $("play").setAttribute("aria-label", "Play");
  }
  function play() {
    if (timer !== null) { stop(); show(at); return; }
    if (at === frames.length - 1) show(0, false);
    $("play").textContent = "Pause";
    $("play").setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      if (at + 1 >= frames.length - 1) { stop(); show(at + 1); } else show(at + 1, false);
    }, Number($("speed").value));
  }
  const go = (to) => { stop(); show(to); };

  function colourBy(name) {
    score = name;
    range = limits(name);
    steps = edges();
    $("scale").hidden = !name;
    const sure = SCORES[name] < 0 ? "≤" : "≥", short = (value) => String(Number(value.toFixed(2)));
    $("scale").querySelectorAll(".token").forEach((cell, n) => {
      cell.textContent = n ? `${sure} ${short(steps[n - 1])}` : `${SCORES[name] < 0 ? ">" : "<"} ${short(steps[0])}`;
    });
    strip();
    show(at, false);
  }
  function open(index) {
    stop();
    row = run.rows[index];
    const unfolded = unfold(row);
    frames = unfolded.made;
    at = 0; focused = 0; pinned = null; hovered = null;
    const names = ["quality", ...Object.keys(SCORES)].filter((name, n, all) => all.indexOf(name) === n && unfolded.names.includes(name));
    $("score").replaceChildren(...[...names, ""].map((name) => new Option(name || "nothing", name)));
    $("scrub").max = frames.length - 1;
    const last = frames[frames.length - 1].step;
    $("facts").textContent = `${run.method || "sampler"} · ${row.tokens.length} positions · ${row.steps.length ? last.step + 1 : 0} steps · NFE ${last ? last.nfe : 0} · ${run.stopped} · seed ${row.seed}`;
    layOut();
    colourBy(names[0] ?? "");
    about(null);
  }

  function focus(place) {
    cells[focused].tabIndex = -1;
    focused = Math.max(0, Math.min(cells.length - 1, place));
    cells[focused].tabIndex = 0;
    cells[focused].focus();
  }

  run.rows.forEach((each, n) => $("row").append(new Option(String(each.row), n)));
  $("row").parentElement.hidden = run.rows.length < 2;
  $("row").addEventListener("change", (event) => open(Number(event.target.value)));
  $("score").addEventListener("change", (event) => colourBy(event.target.value));
  $("speed").addEventListener("change", () => { if (timer !== null) { stop(); play(); } });
  $("scrub").addEventListener("input", (event) => go(Number(event.target.value)));
  $("first").addEventListener("click", () => go(0));
  $("back").addEventListener("click", () => go(at - 1));
  $("play").addEventListener("click", play);
  $("next").addEventListener("click", () => go(at + 1));
  $("last").addEventListener("click", () => go(frames.length - 1));
  $("strip").addEventListener("click", (event) => {
    const box = $("strip").getBoundingClientRect();
    go(Math.floor((event.clientX - box.left) / box.width * frames.length));
  });
  const placeOf = (event) => event.target.closest?.("[data-place]")?.dataset.place;
  $("tokens").addEventListener("mouseover", (event) => {
    const place = placeOf(event);
    if (place === undefined) return;
    hovered = Number(place);
    if (pinned === null) about(hovered);
  });
  $("tokens").addEventListener("mouseleave", () => { hovered = null; });
  $("tokens").addEventListener("focusin", (event) => { const place = placeOf(event); if (place !== undefined && pinned === null) about(Number(place)); });
  const pin = (place) => {
    const old = pinned;
    pinned = pinned === place ? null : place;
    for (const each of [old, place]) if (each !== null) paint(each);
    about(place);
  };
  $("tokens").addEventListener("click", (event) => { const place = placeOf(event); if (place !== undefined) { focus(Number(place)); pin(Number(place)); } });
  $("tokens").addEventListener("keydown", (event) => {
    const across = isGrid ? extra.columns : 10, turn = $("tokens").dir === "rtl" ? -1 : 1;
    const moves = { ArrowRight: turn, ArrowLeft: -turn, ArrowDown: across, ArrowUp: -across, Home: -cells.length, End: cells.length };
    if (event.key in moves) focus(focused + moves[event.key]);
    else if (event.key === "Enter") pin(focused);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (/^(SELECT|INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === " " && /^(BUTTON|SUMMARY)$/.test(event.target.tagName)) return;
    const keys = { " ": play, ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1), Home: () => go(0), End: () => go(frames.length - 1) };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  // page.html#row=1&step=12 opens there.
  const asked = new URLSearchParams(location.hash.slice(1));
  const wanted = run.rows.findIndex((each) => String(each.row) === asked.get("row"));
  $("row").value = String(Math.max(0, wanted));
  open(Math.max(0, wanted));
  if (/^\d+$/.test(asked.get("step") ?? "")) show(Number(asked.get("step")), false);
})();
