"use strict";
(() => {
  const map = document.getElementById("world"), audio = document.querySelector("audio");
  if (map) {
    const [, , W, H] = map.getAttribute("viewBox").split(" ").map(Number);
    let x = 0, y = 0, zoom = 1;
    const held = new Map();
    const show = () => {
      x = Math.min(Math.max(x, 0), W - W / zoom);
      y = Math.min(Math.max(y, 0), H - H / zoom);
      map.setAttribute("viewBox", `${x} ${y} ${W / zoom} ${H / zoom}`);
      map.style.touchAction = zoom > 1 ? "none" : "pan-y";  // a finger scrolls the page until the map is zoomed
      map.style.setProperty("--dot", 1 / zoom);
    };
    const scale = (by, u = x + W / zoom / 2, v = y + H / zoom / 2) => {
      const next = Math.min(64, Math.max(1, zoom * by));
      x = u - (u - x) * zoom / next;
      y = v - (v - y) * zoom / next;
      zoom = next;
      show();
    };
    const at = (event) => {
      const box = map.getBoundingClientRect();
      return [x + (event.clientX - box.left) / box.width * W / zoom, y + (event.clientY - box.top) / box.height * H / zoom];
    };
    const keys = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    map.addEventListener("keydown", (event) => {
      const way = keys[event.key];
      if (way) { x += way[0] * W / zoom / 8; y += way[1] * H / zoom / 8; show(); }
      else if (event.key === "+" || event.key === "=") scale(1.5);
      else if (event.key === "-") scale(1 / 1.5);
      else if (event.key === "0") scale(0);
      else return;
      event.preventDefault();
    });
    map.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== map) return;  // else the page could not be scrolled past
      event.preventDefault();
      scale(1.2 ** (-Math.sign(event.deltaY)), ...at(event));
    }, {passive: false});
    map.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, event);
      map.setPointerCapture(event.pointerId);
      map.focus({preventScroll: true});
    });
    map.addEventListener("pointermove", (event) => {
      const last = held.get(event.pointerId);
      if (!last) return;
      const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
      if (other) {
        const gap = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
        scale(gap(event) / gap(last), ...at(event));
      } else {
        const [u, v] = at(last), [p, q] = at(event);
        x += u - p; y += v - q;
        show();
      }
      held.set(event.pointerId, event);
    });
    for (const end of ["pointerup", "pointercancel"]) map.addEventListener(end, (event) => held.delete(event.pointerId));
    const buttons = document.getElementById("zoom");
    buttons.hidden = false;
    buttons.addEventListener("click", (event) => {
      const by = event.target.dataset.zoom;
      if (by !== undefined) scale(Number(by));
    });
    show();
  }
  if (audio) {
    const heads = document.querySelectorAll(".playhead"), line = document.querySelector(".timeline");
    const length = Number(line.dataset.length), spans = [...document.querySelectorAll("[data-start]")];
    const chosen = new Set();
    const move = () => {
      const now = audio.currentTime;
      for (const head of heads) head.style.left = `${100 * Math.min(1, now / length)}%`;
      for (const one of spans) one.classList.toggle("on", chosen.has(one) || (!audio.paused && now >= one.dataset.start && now < one.dataset.end));
      if (!audio.paused) requestAnimationFrame(move);
    };
    for (const name of ["play", "pause", "seeked", "timeupdate"]) audio.addEventListener(name, move);
    for (const one of spans) {
      one.disabled = false;
      one.addEventListener("click", () => {
        chosen.clear();
        for (const same of spans) {
          const is = same.dataset.evidence === one.dataset.evidence;
          same.setAttribute("aria-pressed", is);
          if (is) chosen.add(same);
        }
        audio.currentTime = Math.min(Number(one.dataset.start), length);
        move();
      });
    }
    line.querySelector("img").addEventListener("click", (event) => {
      audio.currentTime = event.offsetX / event.target.clientWidth * length;
    });
  }
})();
