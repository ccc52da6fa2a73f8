"use strict";
// How the atlas draws: an atom's patch, a clip's spectrogram under the atom's strength, and the map of where it fires.
window.atlasDraw = (() => {
  const MAKO = "0b04051d111d2d1d38382a5440387240498e395d9c3671a03484a53497a938aaac45bdad60ceac91dbb4bbe7c8def5e5";
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));

  function signed(cells, width, height, at) {
    const adds = rgb(colour("--adds").slice(1)), takes = rgb(colour("--takes").slice(1));
    return picture(width, height, (x, y) => {
      const value = at(cells, x, height - 1 - y) / 127;
      return [...(value > 0 ? adds : takes), 255 * Math.abs(value) ** 0.8];
    });
  }

  function picture(width, height, pixel) {
    const canvas = Object.assign(document.createElement("canvas"), {width, height});
    const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) image.data.set(pixel(x, y), 4 * (y * width + x));
    pen.putImageData(image, 0, 0);
    return canvas;
  }

  const LEFT = 46, BELOW = 22, LANE = 40;  // room for frequencies, times and the lane of an atom's strength, px
  function axes(pen, width, height, seconds, from, above = 0) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour("--soft");
    pen.strokeStyle = colour("--soft");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    let free = Infinity;  // labels that would touch are left out
    for (const [text, up] of window.ATLAS.ticks) {
      const y = above + (height - BELOW - above) * (1 - up);
      pen.fillRect(LEFT - 4, Math.round(y), 4, 1);
      if (free - y < 13) continue;
      pen.fillText(text, LEFT - 7, Math.max(above + 6, y));
      free = y;
    }
    pen.textBaseline = "alphabetic";
    const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60], room = (width - LEFT) / 60;
    const step = steps.find((value) => seconds / value <= room) ?? 60;
    for (let tick = 0; tick <= Math.floor((from + seconds) / step + 1e-6); tick++) {
      const x = LEFT + (tick * step - from) / seconds * (width - LEFT);
      if (x < LEFT - 0.5) continue;
      pen.fillRect(Math.min(width - 1, Math.round(x)), height - BELOW, 1, 4);
      const text = `${Number((tick * step).toFixed(2))} s`;
      pen.textAlign = x - LEFT < 10 ? "left" : width - x < 16 ? "right" : "center";
      pen.fillText(text, x, height - BELOW + 16);
    }
  }

  function drawPatch(pen, width, height, patch) {
    const cells = new Int8Array(bytes(patch.cells).buffer);
    const image = signed(cells, patch.frames, patch.bands, (all, x, y) => all[y * patch.frames + x]);
    pen.fillStyle = colour("--page");
    pen.fillRect(LEFT, 0, width - LEFT, height - BELOW);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, LEFT, 0, width - LEFT, height - BELOW);
    axes(pen, width, height, window.ATLAS.patch_s, 0);
  }

  const shades = Array.from({length: 256}, (_, value) => {
    const at = value / 255 * 15, low = Math.min(14, Math.floor(at));
    const [a, b] = [rgb(MAKO.slice(6 * low)), rgb(MAKO.slice(6 * low + 6))];
    return [0, 1, 2].map((c) => a[c] + (at - low) * (b[c] - a[c])).concat(255);
  });

  function drawClip(pen, width, height, clip) {
    const cells = bytes(clip.cells), floor = height - BELOW;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture(clip.frames, clip.bands, (x, y) => shades[cells[(clip.bands - 1 - y) * clip.frames + x]]),
      LEFT, LANE, width - LEFT, floor - LANE);
    // the atom's strength in a lane of its own over the spectrogram, on the same time axis
    const most = Math.max(...clip.active) || 1, base = LANE - 5, tall = base - 3;
    const x = (seconds) => LEFT + Math.min(1, Math.max(0, seconds / clip.length_s)) * (width - LEFT);
    pen.fillStyle = colour("--line");
    pen.fillRect(LEFT, base, width - LEFT, 1);
    pen.fillStyle = colour("--adds");
    clip.active.forEach((value, step) => {
      const from = x(clip.from_s + step * clip.step_s), to = x(clip.from_s + (step + 1) * clip.step_s);
      if (value > 0 && to - from > 1) pen.fillRect(from, base - value / most * tall, to - from - 1, Math.max(1, value / most * tall));
    });
    axes(pen, width, height, clip.length_s, clip.start_s, LANE);
  }

  function line(steps, scale) {
    const path = new Path2D();
    let x = steps[0], y = steps[1];
    path.moveTo(x * scale, y * scale);
    for (let at = 2; at < steps.length; at += 2) path.lineTo((x += steps[at]) * scale, (y += steps[at + 1]) * scale);
    return path;
  }

  function drawMap(pen, width, height, map) {
    const world = window.ATLAS.world, margin = 2, scale = (width - 2 * margin) / world.width;
    pen.translate(margin, margin);
    const globe = line(world.globe[0], scale);
    globe.closePath();
    pen.fillStyle = colour("--sea");
    pen.fill(globe);
    pen.lineWidth = 0.75;
    pen.strokeStyle = colour("--grid");
    for (const steps of world.grid) pen.stroke(line(steps, scale));
    pen.fillStyle = colour("--land");
    for (const steps of world.land) pen.fill(line(steps, scale));
    pen.strokeStyle = colour("--rim");
    pen.stroke(globe);
    const raw = bytes(map.xy), strength = bytes(map.strength), biggest = Math.max(5, width / 110);
    pen.fillStyle = colour("--adds");
    pen.strokeStyle = colour("--card");
    pen.lineWidth = 0.8;
    for (let at = strength.length - 1; at >= 0; at--) {  // the strongest on top
      const x = (raw[4 * at] | raw[4 * at + 1] << 8) * scale, y = (raw[4 * at + 2] | raw[4 * at + 3] << 8) * scale;
      const share = strength[at] / 255;
      pen.beginPath();
      pen.arc(x, y, Math.max(1.6, biggest * Math.sqrt(share)), 0, 2 * Math.PI);
      pen.globalAlpha = 0.35 + 0.55 * share;
      pen.fill();
      pen.globalAlpha = 1;
      pen.stroke();
    }
  }

  return {LEFT, bytes, signed, drawPatch, drawClip, drawMap};
})();
