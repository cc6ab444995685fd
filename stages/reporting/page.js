"use strict";
const element = (id) => document.getElementById(id);

// The gallery: a slider that sets the threshold of all masks at once, two filters, a first part that can be extended,
// and a viewer that shows the pictures of one image large.
(() => {
  const background = element("background");
  if (!background) return; // the report has no gallery
  const MORE = 6; // images that are shown at first; each "Show more" adds three times as many
  const facts = JSON.parse(element("facts").textContent);
  const entries = [...document.querySelectorAll("#gallery .entry")];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const opacity = Math.round(facts.strength * 255);
  let most = MORE;

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
      drawn: null, // the threshold for which the canvas was drawn
    };
  });

  const threshold = () => Math.round(100 * Number(background.value));

  function draw(index) {
    const mask = masks[index];
    if (mask.drawn === threshold()) return;
    mask.drawn = threshold();
    const { canvas, photograph, layer } = mask;
    const context = layer.getContext("2d");
    const pixels = context.createImageData(layer.width, layer.height);
    for (let place = 0; place < mask.scores.length; place++) {
      const label = mask.labels[place];
      if (!label || mask.scores[place] <= mask.drawn) continue;
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

  // The photographs are data URLs: they are loaded, but perhaps not decoded yet.
  const drawWhenDecoded = (index) => masks[index].photograph.decode().then(() => draw(index));
  const drawVisible = () => entries.forEach((entry, index) => entry.hidden || drawWhenDecoded(index));

  function measured(score) {
    if (!facts.curve.length) return "";
    const nearest = facts.curve.reduce((a, b) =>
      Math.abs(b.background - score) < Math.abs(a.background - score) ? b : a);
    return `, mIoU ${(100 * nearest.miou).toFixed(1)} % at ${nearest.background}`;
  }

  function move() {
    const score = Number(background.value);
    element("background-value").textContent = score.toFixed(2) + measured(score);
    entries.forEach((entry, index) => entry.hidden || !masks[index].photograph.naturalWidth || draw(index));
  }

  const fitting = () => {
    const number = element("class-filter").value;
    const rank = element("rank-filter").value;
    return entries.filter((entry) =>
      (!number || entry.dataset.classes.split(" ").includes(number)) && (!rank || entry.dataset.rank === rank));
  };

  function filter() {
    const found = fitting();
    for (const entry of entries) entry.hidden = true;
    for (const entry of found.slice(0, most)) entry.hidden = false;
    element("shown").textContent = `${Math.min(most, found.length)} of ${found.length} images`;
    element("more").hidden = found.length <= most;
    drawVisible();
  }

  background.addEventListener("input", move);
  element("reset").addEventListener("click", () => {
    background.value = background.dataset.used;
    move();
  });
  for (const name of ["class-filter", "rank-filter"]) {
    element(name).addEventListener("change", () => {
      most = MORE;
      filter();
    });
  }
  element("more").addEventListener("click", () => {
    const first = fitting()[most];
    most += 3 * MORE;
    filter();
    first.querySelector(".name").focus();
  });

  // The viewer goes through all images that fit the filters, also those that are not shown yet.
  const viewer = element("viewer");
  let viewed = 0;

  async function show(index) {
    viewed = index;
    const entry = entries[index];
    element("viewer-title").textContent = entry.querySelector(".name").textContent;
    element("viewer-classes").replaceChildren(
      entry.querySelector("small").cloneNode(true),
      ...[...entry.querySelectorAll(".tag")].map((tag) => tag.cloneNode(true)),
    );
    await drawWhenDecoded(index);
    if (viewed !== index) return; // another image was chosen meanwhile
    const figures = [...entry.querySelectorAll("figure")].map((figure) => figure.cloneNode(true));
    const canvas = figures.map((figure) => figure.querySelector("canvas")).find(Boolean);
    canvas.getContext("2d").drawImage(masks[index].canvas, 0, 0);
    element("viewer-pictures").replaceChildren(...figures);
  }

  function step(by) {
    const found = fitting();
    const place = found.indexOf(entries[viewed]) + by;
    show(entries.indexOf(found[(place + found.length) % found.length]));
  }

  function enlarge(entry) {
    show(entries.indexOf(entry));
    viewer.showModal();
    viewer.scrollTop = 0;
    document.documentElement.style.overflow = "hidden";
  }

  for (const entry of entries) {
    for (const one of entry.querySelectorAll(".name, .row")) one.addEventListener("click", () => enlarge(entry));
  }
  // In the viewer, a click gives a picture the whole width, and takes it back.
  element("viewer-pictures").addEventListener("click", (event) => {
    const figure = event.target.closest("figure");
    for (const one of element("viewer-pictures").children) {
      one.classList.toggle("alone", one === figure && !one.classList.contains("alone"));
    }
    viewer.scrollTop = 0;
  });
  element("previous").addEventListener("click", () => step(-1));
  element("next").addEventListener("click", () => step(1));
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("close", () => {
    document.documentElement.style.overflow = "";
    const button = entries[viewed].querySelector(".name");
    if (!entries[viewed].hidden) button.focus();
  });
  filter();
  move();
})();

// The charts: the pointer, a finger or the arrow keys read the values at the nearest point.
for (const plot of document.querySelectorAll(".plot")) {
  const { x: axis, names, curves } = JSON.parse(plot.dataset.plot);
  const cursor = plot.querySelector(".cursor");
  const readout = plot.parentElement.querySelector(".readout");
  const points = curves.flatMap((curve) => curve.points);
  const places = [...new Map(points.map((point) => [point[0], point[2]]))].sort((a, b) => a[0] - b[0]); // x, its position
  let chosen = -1;

  function read(index) {
    chosen = Math.max(0, Math.min(places.length - 1, index));
    const [x, left] = places[chosen];
    const values = curves.flatMap((curve) => {
      const point = curve.points.find((one) => one[0] === x);
      return point ? [curves.length > 1 ? `${curve.name} ${point[1]}` : `${point[1]}`] : [];
    });
    cursor.setAttribute("d", `M${left} 0V100`);
    readout.textContent = `${axis} ${names.length ? names[x - 1] : x}: ${values.join(", ")}`;
  }

  function nearest(event) {
    const box = plot.getBoundingClientRect();
    const left = 100 * (event.clientX - box.left) / box.width;
    let best = 0;
    places.forEach((place, index) => {
      if (Math.abs(place[1] - left) < Math.abs(places[best][1] - left)) best = index;
    });
    read(best);
  }

  plot.addEventListener("pointermove", nearest);
  plot.addEventListener("pointerdown", nearest);
  plot.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    read(chosen + (event.key === "ArrowRight" ? 1 : -1));
  });
}

// The confusion matrix: pointer or finger name the cell.
(() => {
  const table = document.querySelector(".confusion");
  if (!table) return;
  const columns = [...table.querySelectorAll("thead th")].map((one) => one.textContent);
  const read = (event) => {
    const cell = event.target.closest("td[data-value]");
    if (!cell) return;
    const row = cell.parentElement.querySelector("th").textContent;
    element("confusion-value").textContent =
      `${cell.dataset.value} % of ${row} predicted as ${columns[cell.cellIndex - 1]}`;
  };
  table.addEventListener("pointerover", read);
  table.addEventListener("click", read);
})();
