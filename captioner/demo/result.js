// Renders the result of `answers.page_answer`: the caption, the maps of its words over the photo, the other captions;
// and of `answers.clip_answer`: a player with the captions as a track, and a list of them to jump to.
// Runs once, when Gradio has added the component to the page: `element` is its root, `props.value` the answer, `watch`
// reports changes, `props.palette` has the colours of the maps from 0 to their peak. Text is only set as text, not HTML.

const root = element.querySelector(".cap-result");
const said = element.querySelector(".cap-said"); // what a screen reader announces, unseen
let answer = null; // the rendered answer
let chosen = 0; // the index of its chosen caption
let pinned = null; // the word still shown after the pointer leaves; null for none

const make = (tag, className, text = "", attributes = {}) => {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

const two = (value) => Number(value.toPrecision(2));

// 41 %, 4.1 %, 0.41 %, and below that 1 in 2,400: percentages of a whole sentence would be mostly zeros.
const share = (probability) => {
  const value = 100 * probability;
  if (value >= 0.1) return `${value >= 10 ? Math.round(value) : two(value)} %`;
  const one = two(1 / probability);
  if (one < 1e6) return `1 in ${one.toLocaleString("en")}`;
  if (one < 1e9) return `1 in ${two(one / 1e6)} million`;
  return one < 1e12 ? `1 in ${two(one / 1e9)} billion` : "hardly any";
};

// The weight of each cell at each pixel's centre: cubic B-splines, mirrored at the edges, as in captioner.explain.
const spline = (cells, pixels) =>
  Array.from({ length: pixels }, (_, pixel) => {
    const centre = ((pixel + 0.5) * cells) / pixels - 0.5;
    const weights = new Array(cells).fill(0);
    for (let cell = -2; cell < cells + 2; cell++) {
      const distance = Math.abs(centre - cell);
      if (distance >= 2) continue;
      const near = 2 / 3 - distance ** 2 + distance ** 3 / 2;
      const mirrored = cell < 0 ? -1 - cell : cell < cells ? cell : 2 * cells - 1 - cell;
      weights[((mirrored % cells) + cells) % cells] += distance < 1 ? near : (2 - distance) ** 3 / 6;
    }
    return weights;
  });

const enlarge = (map, height, width) => {
  const rows = spline(map.length, height);
  const columns = spline(map[0].length, width);
  const wide = map.map((row) => columns.map((weights) => weights.reduce((sum, weight, i) => sum + weight * row[i], 0)));
  return rows.map((weights) => columns.map((_, x) => weights.reduce((sum, weight, i) => sum + weight * wide[i][x], 0)));
};

const colour = (value) => {
  const position = value * (props.palette.length - 1);
  const index = Math.min(Math.floor(position), props.palette.length - 2);
  const [from, to] = [props.palette[index], props.palette[index + 1]];
  return from.map((channel, i) => channel + (position - index) * (to[i] - channel));
};

const drawHeat = (canvas, map) => {
  canvas.width = 8 * map[0].length; // the browser smooths the rest of the way
  canvas.height = 8 * map.length;
  const values = enlarge(map, canvas.height, canvas.width).flat();
  const peak = Math.max(...values) || 1;
  const image = new ImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const height = Math.max(0, value / peak);
    image.data.set([...colour(height), 255 * 0.75 * height], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
};

const words = () => answer.captions[chosen].words;
const hasMaps = () => words().some((word) => word.map);

// Show the map of a word, or the plain photo.
const show = (index) => {
  if (!answer?.captions || !hasMaps()) return;
  const figure = root.querySelector(".cap-figure");
  figure.classList.toggle("cap-dim", index !== null);
  figure.dataset.shown = index ?? "";
  for (const node of root.querySelectorAll("[data-word]")) {
    node.classList.toggle("cap-shown", Number(node.dataset.word) === index);
    node.setAttribute("aria-pressed", Number(node.dataset.word) === pinned);
  }
  const note = root.querySelector(".cap-note");
  if (index === null) {
    note.textContent = "Hover over or tap a word to see where the model looked when it chose it.";
    return;
  }
  const { word, probability, map } = words()[index];
  drawHeat(figure.querySelector("canvas"), map);
  note.replaceChildren(
    "Bright is where the model looked when it chose ", make("b", "", word), `, with a probability of ${share(probability)}.`,
  );
};

const sentence = () => {
  const line = make("p", "cap-sentence", "", { lang: "en" });
  words().forEach(({ word, joined, map }, index) => {
    if (!joined) line.append(" ");
    line.append(map ? make("button", "cap-word", word, { type: "button", "data-word": index }) : make("span", "", word));
  });
  return line;
};

const photo = (className) => {
  const frame = make("span", className);
  frame.style.aspectRatio = `${answer.width} / ${answer.height}`;
  frame.append(make("img", "", "", { src: answer.photo, alt: "" }), make("canvas", "", "", { "aria-hidden": "true" }));
  return frame;
};

const strip = () => {
  const list = make("div", "cap-strip", "", { role: "group", "aria-label": "Where the model looked, word by word" });
  words().forEach(({ word, probability, map }, index) => {
    const panel = make("button", "cap-panel", "", { type: "button", "data-word": index });
    const frame = photo("cap-thumb cap-dim");
    drawHeat(frame.querySelector("canvas"), map);
    const head = make("span", "cap-panel-word", word);
    head.style.setProperty("--letters", word.length);
    panel.append(head, frame, make("span", "cap-share", share(probability)));
    list.append(panel);
  });
  return list;
};

const best = () => {
  const list = make("ol", "cap-best");
  const most = Math.max(...answer.captions.map((caption) => caption.probability));
  answer.captions.forEach(({ text, probability }, index) => {
    const button = make("button", "cap-other", "", {
      type: "button", "data-caption": index, "aria-pressed": index === chosen,
    });
    const bar = make("span", "cap-bar");
    bar.style.width = `${Math.max(1, (100 * probability) / most)}%`;
    button.append(make("span", "cap-other-text", text), make("span", "cap-share", share(probability)), bar);
    const item = make("li", "");
    item.append(button);
    list.append(item);
  });
  return list;
};

const tags = () => {
  const list = make("ul", "cap-tags", "", { "aria-label": "What the model recognises" });
  for (const { noun, probability } of answer.tags) {
    const item = make("li", "", noun);
    item.append(" ", make("span", "cap-share", share(probability)));
    list.append(item);
  }
  return list;
};

// The probability that the best caption is good; the other captions have none.
const confidence = () => {
  const line = make("p", "cap-confidence", `Confidence ${Math.round(100 * answer.confidence)} %`);
  line.title = "The probability that this caption is good, calibrated on photos with captions by people";
  return line;
};

const clock = (seconds) => {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

let track = null; // the URL of the player's captions

const timeline = () => {
  const player = make("video", "cap-video", "", { controls: "", preload: "metadata", src: answer.src });
  URL.revokeObjectURL(track);
  track = URL.createObjectURL(new Blob([answer.vtt], { type: "text/vtt" }));
  const attributes = { kind: "captions", srclang: "en", label: "Captions", src: track, default: "" };
  player.append(make("track", "", "", attributes));
  const list = make("ol", "cap-timeline");
  const buttons = answer.shots.map(({ start, text }) => {
    const button = make("button", "cap-shot", "", { type: "button", "data-start": start });
    button.append(make("span", "cap-share", clock(start)), make("span", "cap-shot-text", text));
    const item = make("li", "");
    item.append(button);
    list.append(item);
    return button;
  });
  const note = make("p", "cap-note", "Choose a caption to jump to its shot.");
  player.addEventListener("timeupdate", () => {
    const now = answer.shots.findLastIndex(({ start }) => start <= player.currentTime + 0.01);
    buttons.forEach((button, index) => button.setAttribute("aria-current", index === now));
  });
  player.addEventListener("error", () => {
    note.textContent = "Your browser cannot play this clip, but these are its captions.";
  });
  root.replaceChildren(make("p", "cap-sentence", answer.summary, { lang: "en" }), player, note, list);
};

const render = () => {
  pinned = null;
  if (answer?.shots) {
    timeline();
    return;
  }
  if (!answer?.captions) {
    const [title, text] = answer?.message
      ? ["That didn’t work", answer.message]
      : ["The caption will appear here", "Choose a photo or a clip, or one of the examples."];
    const box = make("div", answer?.message ? "cap-message cap-sorry" : "cap-message");
    box.append(make("strong", "", title), make("p", "", text));
    root.replaceChildren(box);
    return;
  }
  const figure = photo("cap-figure");
  const limit = answer.width / answer.height;
  figure.style.maxWidth = `min(100%, calc(${limit} * var(--cap-tallest)))`;
  figure.querySelector("img").alt = "The photo as the model saw it";
  const note = make("p", "cap-note");
  root.replaceChildren(sentence(), figure, note);
  if (answer.confidence !== null && chosen === 0) figure.before(confidence());
  if (answer.tags.length) figure.before(tags());
  if (hasMaps()) root.append(strip());
  else note.textContent = "This model has no attention: it sees the whole photo at once, so no word has a map.";
  if (answer.captions.length > 1) {
    root.append(make("h3", "cap-heading", "Captions and their probabilities"), best());
    const order = "The best caption is first; a longer caption may be better although it is less probable.";
    root.append(make("p", "cap-note", order));
  }
  show(null);
};

const wordOf = (event) => {
  const node = event.target.closest?.("[data-word]");
  return node ? Number(node.dataset.word) : null;
};

element.addEventListener("pointerover", (event) => show(wordOf(event) ?? pinned));
element.addEventListener("pointerleave", () => show(pinned));
element.addEventListener("focusin", (event) => show(wordOf(event) ?? pinned));
element.addEventListener("focusout", () => show(pinned));
element.addEventListener("click", (event) => {
  const index = wordOf(event);
  if (index !== null) {
    pinned = pinned === index ? null : index;
    show(pinned);
    return;
  }
  const shot = event.target.closest("[data-start]");
  if (shot) {
    root.querySelector("video").currentTime = Number(shot.dataset.start);
    return;
  }
  const other = event.target.closest("[data-caption]");
  if (other && Number(other.dataset.caption) !== chosen) {
    chosen = Number(other.dataset.caption);
    render();
    root.querySelector(`[data-caption="${chosen}"]`).focus();
  }
});
element.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const node = event.target.closest("[data-word]");
  if (!step || !node) return;
  const row = [...node.parentElement.querySelectorAll("[data-word]")];
  row[row.indexOf(node) + step]?.focus();
  event.preventDefault();
});

const update = () => {
  answer = props.value;
  chosen = 0;
  render();
  const failed = answer?.message && `That didn’t work: ${answer.message}`;
  said.textContent = failed || answer?.summary || answer?.captions?.[0].text || "";
};
watch("value", update);
update();
