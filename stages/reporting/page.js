"use strict";
// The gallery: a slider that sets the threshold of all masks at once, and two filters.
(() => {
  const background = document.getElementById("background");
  if (!background) return; // the report has no gallery
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const entries = [...document.querySelectorAll(".entry")];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const opacity = Math.round(facts.strength * 255);

  const masks = entries.map((entry, index) => {
    const { width, height, scores, labels } = facts.sliders[index];
    const layer = document.createElement("canvas"); // the mask without the photograph, at the size of its scores
    layer.width = width;
    layer.height = height;
    return {
      canvas: entry.querySelector("canvas"),
      photograph: entry.querySelector("img"),
      layer,
      scores: bytes(scores),
      labels: bytes(labels),
    };
  });

  function draw(mask, threshold) {
    const { canvas, photograph, layer } = mask;
    const context = layer.getContext("2d");
    const pixels = context.createImageData(layer.width, layer.height);
    for (let place = 0; place < mask.scores.length; place++) {
      const label = mask.labels[place];
      if (!label || mask.scores[place] <= threshold) continue;
      const colour = facts.colours[label - 1];
      pixels.data.set([colour[0], colour[1], colour[2], opacity], 4 * place);
    }
    context.putImageData(pixels, 0, 0);
    canvas.width = photograph.naturalWidth;
    canvas.height = photograph.naturalHeight;
    const page = canvas.getContext("2d");
    page.filter = "grayscale(1)";
    page.drawImage(photograph, 0, 0);
    page.filter = "none";
    page.imageSmoothingEnabled = false;
    page.drawImage(layer, 0, 0, canvas.width, canvas.height);
  }

  function measured(score) {
    if (!facts.curve.length) return "";
    const nearest = facts.curve.reduce((a, b) =>
      Math.abs(b.background - score) < Math.abs(a.background - score) ? b : a);
    return `, mIoU ${(100 * nearest.miou).toFixed(1)} % at ${nearest.background}`;
  }

  function move() {
    const score = Number(background.value);
    document.getElementById("background-value").textContent = score.toFixed(2) + measured(score);
    for (const mask of masks) draw(mask, Math.round(100 * score));
  }

  function filter() {
    const number = document.getElementById("class-filter").value;
    const rank = document.getElementById("rank-filter").value;
    let shown = 0;
    for (const entry of entries) {
      const fits = (!number || entry.dataset.classes.split(" ").includes(number)) &&
        (!rank || entry.dataset.rank === rank);
      entry.hidden = !fits;
      shown += fits;
    }
    document.getElementById("shown").textContent = `${shown} of ${entries.length} images`;
  }

  background.addEventListener("input", move);
  document.getElementById("reset").addEventListener("click", () => {
    background.value = background.dataset.used;
    move();
  });
  for (const name of ["class-filter", "rank-filter"]) document.getElementById(name).addEventListener("change", filter);
  filter();
  // The photographs are data URLs: they are loaded, but perhaps not decoded yet.
  Promise.all(masks.map((mask) => mask.photograph.decode())).then(move);
})();
