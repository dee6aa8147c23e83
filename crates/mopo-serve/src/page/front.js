// Figures: the front with the chosen points, and the triangle of three weights.

import { LETTERS } from "./settings.js";
import { CORNERS, interpolate, onSimplex, place, weightsAt } from "./weights.js";

const SVG = "http://www.w3.org/2000/svg";

function draw(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function mark(svg, x, y, index, isCurrent, size = 1) {
  const group = draw(svg, "g", { "data-letter": LETTERS[index], class: "chosen" });
  draw(group, "circle", { cx: x, cy: y, r: (isCurrent ? 9 : 7) * size, class: "mark" });
  draw(group, "text", { x, y: y + 4 * size, "text-anchor": "middle", class: "mark-text" }, LETTERS[index]);
  return group;
}

const WIDTH = 340;
const HEIGHT = 240;
const MARGIN = { left: 46, right: 16, top: 12, bottom: 40 };

// Round numbers between two values.
function ticks(low, high) {
  const raw = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) out.push(Number(t.toPrecision(6)));
  return out;
}

function scale(values, from, to) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  low -= pad;
  high += pad;
  return { at: (v) => from + ((v - low) / (high - low)) * (to - from), ticks: ticks(low, high) };
}

// Draws the front of two axes with a point for each setting. `onPick` gets the weights of an evaluated point.
export function drawFront(parent, front, settings, onPick) {
  const [ax, ay] = settings.axes;
  const active = document.activeElement?.dataset?.point;
  parent.replaceChildren();
  const svg = draw(parent, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Mean scores of the evaluated mixtures, and the chosen settings among them" });
  const x = scale(front.points.map((p) => p.means[ax]), MARGIN.left, WIDTH - MARGIN.right);
  const y = scale(front.points.map((p) => p.means[ay]), HEIGHT - MARGIN.bottom, MARGIN.top);
  const bottom = HEIGHT - MARGIN.bottom;
  for (const t of x.ticks) {
    draw(svg, "line", { x1: x.at(t), x2: x.at(t), y1: MARGIN.top, y2: bottom, class: "axis" });
    draw(svg, "text", { x: x.at(t), y: bottom + 15, "text-anchor": "middle" }, String(t));
  }
  for (const t of y.ticks) {
    draw(svg, "line", { x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y.at(t), y2: y.at(t), class: "axis" });
    draw(svg, "text", { x: MARGIN.left - 6, y: y.at(t) + 4, "text-anchor": "end" }, String(t));
  }
  draw(svg, "text", { x: (MARGIN.left + WIDTH - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `${front.axes[ax]} →`);
  draw(svg, "text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(11 ${(MARGIN.top + bottom) / 2}) rotate(-90)` }, `${front.axes[ay]} →`);
  front.points.forEach((point, i) => {
    const circle = draw(svg, "circle", { cx: x.at(point.means[ax]), cy: y.at(point.means[ay]), r: point.group === "head" ? 5 : 4, class: `point ${point.group}`, "data-point": i });
    const scores = front.axes.map((axis, j) => `${axis} ${point.means[j].toFixed(3)}`).join(", ");
    draw(circle, "title", {}, `${point.label}: ${scores}`);
    if (point.weights) {
      for (const [name, value] of [["tabindex", 0], ["role", "button"], ["aria-label", `Choose ${point.label}: ${scores}`]]) circle.setAttribute(name, value);
      circle.addEventListener("click", () => onPick(point.weights));
      circle.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        onPick(point.weights);
      });
    }
  });
  const sft = front.points.find((point) => point.group === "sft");
  settings.list.forEach((setting, i) => {
    const means = setting.sft ? sft?.means : interpolate(front.points, front.steps, setting.weights);
    if (!means) return;
    const group = mark(svg, x.at(means[ax]), y.at(means[ay]), i, i === settings.selected);
    group.setAttribute("pointer-events", "none");
    group.dataset.means = means.map((m) => m.toFixed(4)).join(",");
  });
  if (active !== undefined) svg.querySelector(`[data-point="${active}"]`)?.focus();
}

const STEP = 0.02;

// A triangle in which a point chooses three weights, by pointer or arrow keys.
export class Triangle {
  constructor(parent, names, onChange) {
    this.names = names;
    this.onChange = onChange;
    this.svg = draw(parent, "svg", { id: "triangle", viewBox: "0 0 220 200", tabindex: 0, role: "slider", "aria-roledescription": "two-dimensional slider", "aria-valuemin": 0, "aria-valuemax": 100 });
    draw(this.svg, "title", {}, "Drag the point, or use the arrow keys");
    draw(this.svg, "polygon", { points: CORNERS.map((c) => c.join(",")).join(" "), class: "area" });
    for (const share of [0.25, 0.5, 0.75]) {
      for (let i = 0; i < 3; i++) {
        const of = (j) => place([0, 1, 2].map((k) => (k === i ? share : k === (i + j) % 3 ? 1 - share : 0)));
        const [[x1, y1], [x2, y2]] = [of(1), of(2)];
        draw(this.svg, "line", { x1, y1, x2, y2, class: "grid" });
      }
    }
    [[110, 15, "middle"], [2, 193, "start"], [218, 193, "end"]].forEach(([x, y, anchor], i) => {
      draw(this.svg, "text", { x, y, "text-anchor": anchor }, names[i].length > 12 ? `${names[i].slice(0, 11)}…` : names[i]);
    });
    this.marks = draw(this.svg, "g", {});
    this.weights = [1 / 3, 1 / 3, 1 / 3];
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      this.point(event);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (this.svg.hasPointerCapture(event.pointerId)) this.point(event);
    });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) / box.width) * 220, ((event.clientY - box.top) / box.height) * 200];
    this.onChange(weightsAt(x, y));
  }

  key(event) {
    const moves = { ArrowUp: [1, -0.5, -0.5], ArrowDown: [-1, 0.5, 0.5], ArrowLeft: [0, 1, -1], ArrowRight: [0, -1, 1] };
    const corners = { Home: [1, 0, 0], End: [0, 0, 1], PageUp: [1 / 3, 1 / 3, 1 / 3] };
    if (!moves[event.key] && !corners[event.key]) return;
    event.preventDefault();
    const move = moves[event.key];
    this.onChange(move ? onSimplex(this.weights.map((w, i) => w + STEP * move[i])) : corners[event.key]);
  }

  show(settings) {
    this.weights = settings.current.weights;
    this.marks.replaceChildren();
    settings.list.forEach((setting, i) => {
      if (setting.sft) return;
      const [x, y] = place(setting.weights);
      mark(this.marks, x, y, i, i === settings.selected, 1.4);
    });
    const text = settings.label({ ...settings.current, sft: false });
    this.svg.setAttribute("aria-label", `Weights of ${this.names.join(", ")}`);
    this.svg.setAttribute("aria-valuenow", Math.round(this.weights[0] * 100));
    this.svg.setAttribute("aria-valuetext", text);
  }
}
