// The conversation: questions, and beside each other the answers of all settings. Text of people and models becomes
// text of the page and nothing else.

import { post, stream } from "./api.js";
import { LETTERS } from "./settings.js";
import { asBody } from "./weights.js";

function make(parent, name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

export class Talk {
  constructor(place, info) {
    this.place = place;
    this.info = info;
    this.turns = [];
    this.running = null;
  }

  clear() {
    this.stop();
    this.turns = [];
    this.place.replaceChildren();
  }

  stop() {
    this.running?.abort();
  }

  // The messages for a setting: with its own earlier answers, where it has some.
  messages(index, question) {
    const messages = [];
    for (const turn of this.turns) {
      const answer = turn.answers[index] || turn.answers[0];
      if (!answer?.text.trim()) continue;
      messages.push({ role: "user", content: turn.question }, { role: "assistant", content: answer.text });
    }
    return [...messages, { role: "user", content: question }];
  }

  // Asks all settings. Ends when all answers and their scores are there.
  async ask(question, settings) {
    const running = (this.running = new AbortController());
    const turn = { question, answers: [] };
    const article = make(this.place, "article", "turn");
    make(article, "p", "question", question);
    const columns = make(article, "div", settings.list.length === 4 ? "answers four" : "answers");
    const jobs = settings.list.map((setting, i) => {
      const messages = this.messages(i, question);
      const answer = { text: "" };
      turn.answers.push(answer);
      return this.answer(columns, i, setting, settings, messages, answer, running.signal);
    });
    this.turns.push(turn);
    article.scrollIntoView({ block: "start" });
    await Promise.all(jobs);
    if (this.running === running) this.running = null;
  }

  async answer(columns, index, setting, settings, messages, answer, signal) {
    const card = make(columns, "section", "answer busy");
    card.dataset.letter = LETTERS[index];
    card.setAttribute("aria-busy", "true");
    const title = make(card, "h3");
    make(title, "span", "letter", LETTERS[index]);
    title.append(` ${settings.label(setting)}`);
    const text = make(card, "p", "text");
    const end = make(card, "p", "end");
    const body = { messages, ...this.model(setting), ...sampling(settings.sampling) };
    try {
      const reason = await stream("/v1/chat/completions", body, signal, (piece) => {
        answer.text += piece;
        text.textContent = answer.text;
      });
      if (reason === "length") end.textContent = "cut at the maximum number of new tokens";
      else if (!answer.text) end.textContent = "an empty answer";
    } catch (error) {
      const isStopped = error.name === "AbortError";
      end.textContent = isStopped ? "stopped" : error.message;
      end.classList.toggle("error", !isStopped);
    } finally {
      card.classList.remove("busy");
      card.removeAttribute("aria-busy");
    }
    if (answer.text && !signal.aborted && this.info.rewards.length > 0) await this.score(card, messages, answer.text);
  }

  async score(card, messages, response) {
    const list = make(card, "ul", "scores");
    try {
      const scored = await post("/v1/scores", { input: [{ messages, response }] });
      for (const name of scored.rewards) {
        const item = make(list, "li", "", `${name} `);
        make(item, "b", "", scored.data[0].scores[name].toFixed(2));
      }
    } catch (error) {
      make(list, "li", "error", `no scores: ${error.message}`);
    }
  }

  model(setting) {
    const { model, objectives } = this.info;
    if (objectives.length === 0) return { model };
    if (setting.sft) return { model: `${model}:sft` };
    return { model, preference_weights: asBody(setting.weights, objectives), normalize_weights: true };
  }
}

function sampling({ temperature, tokens, seed }) {
  const out = {};
  if (temperature !== "") out.temperature = Number(temperature);
  if (tokens !== "") out.max_tokens = Number(tokens);
  if (seed !== "") out.seed = Number(seed);
  return out;
}
