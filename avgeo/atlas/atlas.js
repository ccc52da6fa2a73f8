"use strict";
// The atlas in a browser. Data come from scripts (data.js, atoms/N.js), because a page opened from a disk may not fetch.
// Every text of the model goes through textContent or an attribute: none of it is ever markup.
(() => {
  const atlas = window.ATLAS;
  const {LEFT, bytes, signed, drawPatch, drawClip, drawMap} = window.atlasDraw;
  const $ = (id) => document.getElementById(id);
  const PAGE = 50;
  const PLAY = "M4 2.5v11l9.5-5.5z", PAUSE = "M4 2.5h3v11H4zM9 2.5h3v11H9z";
  const number = (n) => n.toLocaleString("en");
  const one = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
  const percent = (share) => share === 0 ? "0 %" : share < 0.001 ? "< 0.1 %"
    : `${share < 0.1 ? (100 * share).toPrecision(2) : Math.round(100 * share)} %`;
  const two = (value) => value === null ? "–" : value.toFixed(2);
  const hertz = (hz) => hz >= 1000 ? `${(hz / 1000).toFixed(1)} kHz` : `${Math.round(hz / 10) * 10} Hz`;

  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  function icon(path) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    svg.firstChild.setAttribute("d", path);
    return svg;
  }

  if (!atlas) {
    $("detail").append(element("p", {textContent: "data.js is missing beside this page: copy the whole folder of the atlas."}));
    return;
  }
  const atoms = atlas.atoms;
  const count = atoms.name.length;
  const called = (atom) => atoms.name[atom] ?? `atom ${atom}`;
  const thumbs = new Int8Array(bytes(atlas.thumbs).buffer);

  // --- one sound at a time

  const player = new Audio();
  let playing = null;  // the list's button whose sound is on
  document.addEventListener("play", (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
    if (event.target !== player) hush();
  }, true);

  function hush() {
    player.pause();
    if (playing) playing.replaceChildren(icon(PLAY));
    playing = null;
  }
  player.addEventListener("ended", hush);

  function toggle(button, atom) {
    const again = playing === button;
    hush();
    if (again) return;
    for (const other of document.querySelectorAll("audio")) other.pause();
    player.src = `atoms/${atom}.mp3`;
    playing = button;
    button.replaceChildren(icon(PAUSE));
    player.play().catch(hush);
  }

  // --- the list: search, filter, sort, pages

  const kinds = {all: count};
  for (const kind of ["named", "unnamed", "dead"]) kinds[kind] = atoms.state.filter((state) => state === kind).length;
  for (const [kind, size] of Object.entries(kinds)) {
    const box = element("input", {type: "radio", name: "kind", value: kind, checked: kind === "all"});
    const small = element("small", {textContent: number(size)});
    $("filter").append(element("label", {}, box, element("span", {}, kind, small)));
  }

  const folded = atoms.name.map((name, atom) => `${name ?? ""} atom ${atom}`.toLocaleLowerCase("en"));
  const last = (value) => value ?? -1;
  const orders = {
    auroc: (a, b) => (atoms.state[b] === "named") - (atoms.state[a] === "named") || last(atoms.low[b]) - last(atoms.low[a]) || a - b,
    fires: (a, b) => atoms.fires[b] - atoms.fires[a] || a - b,
    name: (a, b) => (atoms.name[a] === null) - (atoms.name[b] === null)
      || (atoms.name[a] ?? "").localeCompare(atoms.name[b] ?? "", "en") || a - b,
    number: (a, b) => a - b,
  };
  let found = [], page = 0, chosen = null;

  function choose() {
    const kind = document.querySelector("#filter input:checked").value;
    const words = $("search").value.toLocaleLowerCase("en").split(/\s+/).filter(Boolean);
    const asked = words.length === 1 && /^\d+$/.test(words[0]) ? Number(words[0]) : null;
    found = [];
    for (let atom = 0; atom < count; atom++) {
      if (kind !== "all" && atoms.state[atom] !== kind) continue;
      if (asked === null ? words.every((word) => folded[atom].includes(word)) : atom === asked) found.push(atom);
    }
    found.sort(orders[$("sort").value]);
    page = 0;
    list();
  }

  function list() {
    hush();
    const first = page * PAGE, shown = found.slice(first, first + PAGE);
    $("count").textContent = found.length ? `${one(found.length, "atom")}` : "No atom is called that. Try a part of a word, or a number.";
    $("page").textContent = found.length ? `${first + 1}–${first + shown.length} of ${number(found.length)}` : "";
    $("pages").hidden = found.length <= PAGE;
    $("before").disabled = page === 0;
    $("after").disabled = first + PAGE >= found.length;
    $("list").replaceChildren(...shown.map(row));
    $("list").scrollTop = 0;
    mark();
  }

  function row(atom) {
    const state = atoms.state[atom];
    const told = state === "dead" ? "never fires" : `fires ${percent(atoms.fires[atom])}`;
    const detail = (atoms.name[atom] === null ? told : `atom ${atom} · ${told}`) + (atoms.sound[atom] === "silent" ? " · silent" : "");
    const who = element("span", {className: "who"}, element("b", {textContent: called(atom)}), element("small", {textContent: detail}));
    const score = element("span", {className: "score", title: "AUROC and its 95 % interval, from 0.5 to 1"});
    if (state !== "dead") score.append(element("span", {textContent: two(atoms.auroc[atom])}), range(atom));
    const link = element("a", {href: `#atom-${atom}`}, thumbnail(atom), who, score);
    const sound = atoms.sound[atom] === "heard";
    const play = element("button", {type: "button", className: "play", disabled: !sound,
      "aria-label": sound ? `Play ${called(atom)}${atoms.name[atom] === null ? "" : `, atom ${atom}`}` : `${called(atom)} is silent`});
    play.append(icon(PLAY));
    play.addEventListener("click", () => toggle(play, atom));
    const item = element("li", {className: state}, link, play);
    item.dataset.atom = atom;
    return item;
  }

  function range(atom) {
    const at = (value) => `${100 * Math.min(1, Math.max(0, 2 * value - 1))}%`;
    const bar = element("span", {className: "range", "aria-hidden": "true"});
    if (atoms.low[atom] === null || atoms.auroc[atom] === null) return bar;
    const span = element("i"), dot = element("b");
    span.style.left = at(atoms.low[atom]);
    span.style.right = `calc(100% - ${at(atoms.high[atom])})`;
    dot.style.left = at(atoms.auroc[atom]);
    bar.append(span, dot);
    return bar;
  }

  function mark() {
    for (const item of $("list").children) {
      const on = Number(item.dataset.atom) === chosen;
      item.classList.toggle("chosen", on);
      if (on) {
        item.firstChild.setAttribute("aria-current", "true");
        // not scrollIntoView: in a frame it would also move the page around it
        const all = $("list"), top = item.offsetTop - all.offsetTop;
        if (top < all.scrollTop) all.scrollTop = top;
        if (top + item.offsetHeight > all.scrollTop + all.clientHeight) all.scrollTop = top + item.offsetHeight - all.clientHeight;
      } else item.firstChild.removeAttribute("aria-current");
    }
  }

  // --- pictures

  function thumbnail(atom) {
    const [frames, bands] = atlas.thumb, from = atom * frames * bands;
    if (!frames) return element("span");
    const drawn = signed(thumbs, frames, bands, (cells, x, y) => cells[from + x * bands + y]);
    drawn.setAttribute("aria-hidden", "true");
    return drawn;
  }

  const redraws = [];  // of what is on the page, for another width or another theme
  function plot(label, draw, ratio) {
    const canvas = element("canvas", {role: "img", "aria-label": label});
    redraws.push(() => {
      const dots = window.devicePixelRatio || 1, width = canvas.clientWidth;
      if (!width) return;
      if (ratio) canvas.style.height = `${Math.round(width * ratio)}px`;
      const height = canvas.clientHeight;
      canvas.width = Math.round(width * dots);
      canvas.height = Math.round(height * dots);
      const pen = canvas.getContext("2d");
      pen.scale(dots, dots);
      draw(pen, width, height);
    });
    return canvas;
  }

  // --- one atom

  const known = new Map();
  window.atlasDetail = (atom, detail) => known.get(atom).resolve(detail);

  function load(atom) {
    if (!known.has(atom)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, {resolve, reject}));
      known.set(atom, entry);
      const script = element("script", {src: `atoms/${atom}.js`});
      script.addEventListener("error", () => {
        known.delete(atom);
        entry.reject(new Error(`atoms/${atom}.js is missing beside this page: copy the whole folder of the atlas.`));
      });
      script.addEventListener("load", () => script.remove());
      document.head.append(script);
    }
    return known.get(atom).promise;
  }

  function fact(term, value, small = "") {
    const dd = element("dd", {textContent: value});
    if (small) dd.append(element("small", {textContent: ` ${small}`}));
    return element("div", {}, element("dt", {textContent: term}), dd);
  }

  function sound(source, label) {
    return element("audio", {controls: true, preload: "none", src: source, "aria-label": label});
  }

  function swatch(name, text) {
    const box = element("i");
    box.style.background = `var(--${name})`;
    return element("span", {}, box, text);
  }

  function heading(atom) {
    const name = element("h2", {id: "name", textContent: called(atom)});
    if (atoms.name[atom] !== null) name.append(" ", element("small", {textContent: `atom ${atom}`}));
    const at = found.indexOf(atom);
    const step = (to, text, label) => {
      const button = element("button", {type: "button", className: "step", textContent: text, "aria-label": label});
      button.disabled = at < 0 || found[at + to] === undefined;
      button.addEventListener("click", () => { location.hash = `atom-${found[at + to]}`; });
      return button;
    };
    return element("div", {className: "head"}, name,
      element("div", {}, step(-1, "‹", "Previous atom of the list"), step(1, "›", "Next atom of the list")));
  }

  function facts(atom, map) {
    const list = element("dl", {className: "facts"});
    const interval = `[${two(atoms.low[atom])}, ${two(atoms.high[atom])}]`;
    if (atoms.state[atom] !== "dead") {
      list.append(fact(atoms.name[atom] === null ? "AUROC of its best guess" : "AUROC of its name", two(atoms.auroc[atom]), interval));
    }
    list.append(fact("Fires in", percent(atoms.fires[atom]), "of the time"));
    list.append(fact("Heard at", number(map.heard), `of ${one(map.places, "place")}`));
    return list;
  }

  function why(atom) {
    if (atoms.state[atom] === "dead") return "It never fires on the held-out clips. It is drawn and played at the strength usual for the others.";
    if (atoms.name[atom] !== null) return "";
    return `Unnamed: no source is predicted well enough. The lower end of the interval would have to reach ${two(atlas.threshold)}; a wrong name is worse than none.`;
  }

  function aloneCard(atom, detail) {
    const patch = detail.patch;
    const adds = detail.sound === "silent" ? "adds no power" : `adds most at about ${hertz(patch.loudest_hz)}`;
    const card = element("figure", {className: "card"}, element("h3", {textContent: "The atom alone"}),
      element("div", {className: "plot alone"}, element("p", {className: "note", textContent: `${adds[0].toUpperCase()}${adds.slice(1)}`}), plot(`Spectrogram of ${called(atom)} alone, ${1000 * atlas.patch_s} milliseconds: ${adds}.`,
        (pen, width, height) => drawPatch(pen, width, height, patch))));
    card.append(element("figcaption", {className: "key"}, swatch("adds", "adds power"), swatch("takes", "takes power away")));
    if (detail.sound === "heard") card.append(sound(`atoms/${atom}.mp3`, `The sound of ${called(atom)} alone`));
    else card.append(element("p", {className: "note", textContent: "Silent: it adds no power anywhere, it only takes some away. There is nothing to hear."}));
    return card;
  }

  function clipCard(atom, clip) {
    const peak = clip.active.indexOf(Math.max(...clip.active));
    const at = (clip.start_s + Math.max(0, clip.from_s + (peak + 0.5) * clip.step_s)).toFixed(1);
    const head = element("div", {className: "head-line", hidden: true});
    const audio = sound(`atoms/${atom}-clip.mp3`, `The held-out clip in which ${called(atom)} is strongest`);
    const end = (clip.start_s + clip.length_s).toFixed(1);
    const canvas = plot(`Spectrogram of clip ${clip.id}, ${clip.start_s.toFixed(1)} to ${end} seconds, with the atom's strength over it: strongest at ${at} seconds.`,
      (pen, width, height) => drawClip(pen, width, height, clip));
    const follow = () => {
      const share = Math.min(1, audio.currentTime / clip.length_s);
      head.hidden = audio.paused && (share === 0 || share >= 0.99);
      head.style.left = `${LEFT + share * (canvas.clientWidth - LEFT)}px`;
      if (!audio.paused) requestAnimationFrame(follow);
    };
    for (const event of ["play", "pause", "seeked", "ended"]) audio.addEventListener(event, follow);
    const key = element("figcaption", {className: "key"}, swatch("adds", "strength of the atom"),
      element("span", {textContent: `clip ${clip.id}, levelled`}));
    return element("figure", {className: "card"}, element("h3", {textContent: "Where it is strongest"}),
      element("div", {className: "plot"}, canvas, head), key, audio);
  }

  function mapCard(atom, map) {
    const strongest = map.heard ? `, most strongly at ${map.top[0][0]}` : "";
    const label = `World map of ${called(atom)}: heard at ${map.heard} of ${one(map.places, "place")}${strongest}.`;
    const canvas = plot(label, (pen, width, height) => drawMap(pen, width, height, map), atlas.world.height / atlas.world.width);
    canvas.id = "map";
    const shown = bytes(map.strength).length;
    const note = map.heard === 0 ? "Nowhere among the held-out clips."
      : `A dot for each place, its area by the atom's mean strength there${shown < map.heard ? `: the strongest ${shown} of ${map.heard}` : ""}.`;
    const top = element("ol", {className: "places", "aria-label": "Strongest places"});
    for (const [text, share] of map.top) {
      const bar = element("span", {className: "range", "aria-hidden": "true"}), filled = element("i");
      filled.style.right = `${100 - 100 * share}%`;
      bar.append(filled);
      top.append(element("li", {}, text, bar));
    }
    return element("figure", {className: "card"}, element("h3", {textContent: "Where on Earth"}),
      element("div", {className: "map"}, canvas, top), element("figcaption", {className: "note", textContent: note}));
  }

  async function show(atom) {
    chosen = atom;
    mark();
    const detail = await load(atom).catch((error) => error);
    if (chosen !== atom) return;  // another was asked for meanwhile
    redraws.length = 0;
    const head = heading(atom);
    if (detail instanceof Error) {
      $("detail").replaceChildren(head, element("p", {className: "note", textContent: detail.message}));
      return;
    }
    const parts = [head, facts(atom, detail.map)];
    if (why(atom)) parts.push(element("p", {className: "note", textContent: why(atom)}));
    const cards = element("div", {className: "cards"});
    if (detail.patch) cards.append(aloneCard(atom, detail));
    if (detail.clip) cards.append(clipCard(atom, detail.clip));
    cards.classList.toggle("one", cards.children.length === 1);
    if (cards.children.length) parts.push(cards);
    parts.push(mapCard(atom, detail.map));
    $("detail").replaceChildren(...parts);
    $("detail").scrollTop = 0;
    document.title = `${called(atom)} · ${atlas.title}`;
    redraw();
  }

  const redraw = () => redraws.forEach((draw) => draw());
  window.addEventListener("resize", redraw);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { list(); redraw(); });

  // --- which atom: the address says

  function follow() {
    const asked = /^#atom-(\d+)$/.exec(location.hash);
    if (!asked) return void (found.length && show(found[0]));
    const atom = Number(asked[1]);
    if (atom >= count) {
      chosen = null;
      mark();
      $("detail").replaceChildren(element("p", {className: "note", role: "status",
        textContent: `There is no atom ${asked[1]}: this model has atoms 0 to ${count - 1}.`}));
      return;
    }
    const at = found.indexOf(atom);
    if (at >= 0 && Math.floor(at / PAGE) !== page) {
      page = Math.floor(at / PAGE);
      list();
    }
    show(atom);
  }

  function turn(by) {
    page += by;
    list();
    $("list").querySelector("a")?.focus();
  }

  $("list").addEventListener("keydown", (event) => {
    const item = event.target.closest("li"), by = {ArrowDown: 1, ArrowUp: -1}[event.key];
    if (!item || !by) return;
    const next = by > 0 ? item.nextElementSibling : item.previousElementSibling;
    if (!next) return;
    event.preventDefault();
    const kind = event.target.tagName === "BUTTON" && !next.lastChild.disabled ? "button" : "a";
    next.querySelector(kind).focus();
  });
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("detail").focus();
  });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("search").addEventListener("input", choose);
  $("sort").addEventListener("change", choose);
  $("filter").addEventListener("change", choose);
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  window.addEventListener("hashchange", follow);

  document.title = $("title").textContent = atlas.title;
  const silent = atoms.sound.filter((state) => state === "silent").length;
  $("about").textContent = [
    `${one(count, "atom")}: ${number(kinds.named)} named, ${number(kinds.unnamed)} unnamed, ${number(kinds.dead)} that never fire`
      + (silent ? `, ${number(silent)} silent` : "") + ".",
    `${one(atlas.clips, "held-out clip")} from ${one(atlas.places, "place")}.`,
    atlas.evidence ? `Evidence: ${atlas.evidence}.` : "",
    atoms.sound[0] === "none" ? "These features cannot be turned back into sound: atoms are heard in their clips alone." : "",
  ].filter(Boolean).join(" ");
  choose();
  follow();
})();
