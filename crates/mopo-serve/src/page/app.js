// The page: binds what people do to settings, figures and the conversation.

import { hasKey, read, setKey } from "./api.js";
import { drawFront, Triangle } from "./front.js";
import { LETTERS, Settings } from "./settings.js";
import { Talk } from "./talk.js";
import { percent, withOne } from "./weights.js";

const $ = (id) => document.getElementById(id);

let info;
let settings;
let talk;
let front = null;
let triangle = null;
let saving;

function say(text) {
  $("status").textContent = text;
}

// After any change of a setting.
function changed() {
  show();
  clearTimeout(saving);
  // Browsers allow only so many changes of the address per second.
  saving = setTimeout(save, 150);
}

function save() {
  clearTimeout(saving);
  history.replaceState(null, "", `#${settings.toFragment()}`);
}

function setWeights(weights) {
  settings.current.weights = weights;
  settings.current.sft = false;
  changed();
}

function show() {
  showTabs();
  settings.names.forEach((name, i) => {
    const slider = $(`slider-${i}`);
    const weight = settings.current.weights[i];
    // The one that is being moved has its value.
    if (Math.abs(slider.value / 100 - weight) >= 0.005) slider.value = Math.round(weight * 100);
    slider.setAttribute("aria-valuetext", percent(weight));
    $(`weight-${i}`).textContent = percent(weight);
  });
  $("sft").checked = settings.current.sft;
  $("sliders").classList.toggle("off", settings.current.sft);
  triangle?.show(settings);
  if (front) drawFront($("front-place"), front, settings, setWeights);
  for (const name of ["temperature", "tokens", "seed"]) {
    if (document.activeElement !== $(name)) $(name).value = settings.sampling[name];
  }
}

function showTabs() {
  const place = $("settings");
  const hadFocus = place.contains(document.activeElement);
  place.replaceChildren();
  const button = (text, title, act) => {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = text;
    if (title) element.setAttribute("aria-label", title);
    element.addEventListener("click", () => {
      act();
      changed();
    });
    place.append(element);
    return element;
  };
  settings.list.forEach((setting, i) => {
    const tab = button("", "", () => (settings.selected = i));
    tab.dataset.letter = LETTERS[i];
    tab.setAttribute("aria-pressed", i === settings.selected);
    tab.setAttribute("aria-label", `Setting ${LETTERS[i]}: ${settings.label(setting)}`);
    const letter = document.createElement("span");
    letter.className = "letter";
    letter.textContent = LETTERS[i];
    tab.append(letter);
  });
  if (settings.names.length > 0 && settings.list.length < LETTERS.length) {
    button("Compare", "Add a setting to compare", () => settings.add()).id = "add";
  }
  if (settings.list.length > 1) {
    button("Remove", `Remove setting ${LETTERS[settings.selected]}`, () => settings.remove()).id = "remove";
  }
  if (hadFocus) place.querySelector("[aria-pressed=true]").focus();
}

function buildSliders() {
  settings.names.forEach((name, i) => {
    const row = document.createElement("div");
    row.className = "slider";
    const label = document.createElement("label");
    label.htmlFor = `slider-${i}`;
    label.textContent = name;
    const output = document.createElement("output");
    output.id = `weight-${i}`;
    output.htmlFor = `slider-${i}`;
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", id: `slider-${i}`, min: 0, max: 100, step: 1 });
    slider.addEventListener("input", () => setWeights(withOne(settings.current.weights, i, slider.value / 100)));
    row.append(label, output, slider);
    $("sliders").append(row);
  });
  if (settings.names.length === 3) {
    triangle = new Triangle($("triangle-place"), settings.names, setWeights);
    $("weights").classList.add("with-triangle");
  }
  const n = settings.names.length;
  // One policy has all the weight.
  $("sliders").hidden = n < 2;
  $("sft-row").hidden = n === 0;
  $("choose-title").textContent = n === 0 ? "Settings" : "Trade-off";
  $("settings").hidden = n === 0;
}

async function loadFront() {
  if (!info.has_front) return;
  $("front").hidden = false;
  $("front").open = matchMedia("(min-width: 60rem)").matches;
  try {
    front = await read("/api/front");
  } catch (error) {
    // A run that has not been evaluated has none.
    $("front-note").textContent = error.message;
    return;
  }
  const last = front.axes.length - 1;
  settings.axes = settings.axes.map((axis) => Math.min(axis, last));
  if (last > 0 && settings.axes[0] === settings.axes[1]) settings.axes = [0, 1];
  for (const [k, id] of ["axis-x", "axis-y"].entries()) {
    const select = $(id);
    front.axes.forEach((axis, i) => select.add(new Option(axis, i)));
    select.value = settings.axes[k];
    select.addEventListener("change", () => {
      settings.axes[k] = Number(select.value);
      changed();
    });
  }
  $("axes").hidden = last < 2;
  const words = `Mean scores over ${front.n_prompts} held-out prompts; larger is better. The letters are your settings, placed between the mixtures that were evaluated; choose a point to take its weights.`;
  $("front-note").textContent = front.warning ? `${words} Warning: ${front.warning}` : words;
}

async function ask() {
  const question = $("question").value.trim();
  if (!question || talk.running) return;
  $("empty")?.remove();
  $("question").value = "";
  $("ask").disabled = true;
  $("stop").hidden = false;
  say("answering…");
  const began = performance.now();
  try {
    await talk.ask(question, settings);
    say(`answered in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  } finally {
    $("ask").disabled = false;
    $("stop").hidden = true;
    $("question").focus();
  }
}

function bind() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") talk.stop();
  });
  $("stop").addEventListener("click", () => talk.stop());
  $("clear").addEventListener("click", () => {
    talk.clear();
    say("");
    $("question").focus();
  });
  $("sft").addEventListener("change", () => {
    settings.current.sft = $("sft").checked;
    changed();
  });
  for (const name of ["temperature", "tokens", "seed"]) {
    $(name).addEventListener("input", () => {
      settings.sampling[name] = $(name).validity.valid ? $(name).value : "";
      changed();
    });
  }
  $("copy").addEventListener("click", async () => {
    save();
    try {
      await navigator.clipboard.writeText(location.href);
      say("the link is copied");
    } catch {
      say("the address of this page is the link");
    }
  });
  addEventListener("hashchange", () => {
    settings.fromFragment(location.hash.slice(1));
    show();
  });
}

// Asks for the key until the server takes it.
function login(message) {
  $("key").hidden = false;
  $("login-error").textContent = message;
  const dialog = $("login");
  if (!dialog.open) dialog.showModal();
}

async function start() {
  try {
    info = await read("/api/info");
  } catch (error) {
    if (error.status === 401) login(hasKey() ? error.message : "");
    else say(error.message);
    return;
  }
  $("login").close();
  $("model").textContent = info.model;
  document.title = `MOPO: ${info.model}`;
  $("tokens").max = info.max_new_tokens;
  settings = new Settings(info.objectives);
  settings.fromFragment(location.hash.slice(1));
  talk = new Talk($("turns"), info);
  buildSliders();
  await loadFront();
  bind();
  show();
  document.body.dataset.ready = "true";
}

$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key-input").value.trim());
  $("key-input").value = "";
  if (info) $("login").close();
  else start();
});
$("key").addEventListener("click", () => login(""));
start();
