// Up to four settings, and the link that restores them.

import { equal, onSimplex, percent } from "./weights.js";

export const LETTERS = ["A", "B", "C", "D"];

// Everything that the link holds.
export class Settings {
  constructor(names) {
    this.names = names;
    this.list = [this.fresh()];
    this.selected = 0;
    this.sampling = { temperature: "", tokens: "", seed: "" };
    this.axes = [0, Math.min(1, Math.max(0, names.length - 1))];
  }

  fresh() {
    return { weights: equal(this.names.length), sft: false };
  }

  get current() {
    return this.list[this.selected];
  }

  // Adds a copy of the selected setting, and selects it.
  add() {
    if (this.list.length >= LETTERS.length) return;
    this.list.push({ ...this.current, weights: [...this.current.weights] });
    this.selected = this.list.length - 1;
  }

  remove() {
    if (this.list.length < 2) return;
    this.list.splice(this.selected, 1);
    this.selected = Math.min(this.selected, this.list.length - 1);
  }

  label(setting) {
    if (this.names.length === 0) return "the model";
    if (setting.sft) return "SFT model";
    const parts = this.names.map((name, i) => [name, setting.weights[i]]).filter(([, w]) => w >= 0.005);
    return parts.map(([name, w]) => (parts.length === 1 ? name : `${name} ${percent(w)}`)).join(", ");
  }

  toFragment() {
    const out = new URLSearchParams();
    for (const setting of this.list) {
      out.append("s", setting.sft ? "sft" : setting.weights.map((w) => Number(w.toFixed(4))).join(","));
    }
    out.set("on", String(this.selected));
    for (const [name, value] of Object.entries(this.sampling)) if (value !== "") out.set(name, value);
    out.set("axes", this.axes.join(","));
    return out.toString().replaceAll("%2C", ",");
  }

  // Takes what a link says and is possible here; the rest stays as it is.
  fromFragment(text) {
    const found = new URLSearchParams(text);
    const n = this.names.length;
    const list = found.getAll("s").slice(0, LETTERS.length).map((part) => {
      if (part === "sft" && n > 0) return { ...this.fresh(), sft: true };
      const weights = part.split(",").map(Number);
      const fits = weights.length === n && weights.every((w) => Number.isFinite(w) && w >= 0);
      return fits && weights.some((w) => w > 0) ? { weights: onSimplex(weights), sft: false } : null;
    }).filter(Boolean);
    if (list.length > 0) this.list = list;
    const on = Number(found.get("on"));
    this.selected = Number.isInteger(on) && on >= 0 && on < this.list.length ? on : 0;
    for (const name of Object.keys(this.sampling)) {
      const value = found.get(name);
      this.sampling[name] = value !== null && value !== "" && Number.isFinite(Number(value)) ? value : "";
    }
    const axes = (found.get("axes") || "").split(",").map(Number);
    if (axes.length === 2 && axes.every((axis) => Number.isInteger(axis) && axis >= 0)) this.axes = axes;
  }
}
