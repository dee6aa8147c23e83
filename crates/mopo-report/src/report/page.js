(() => {
  "use strict";
  // No ampersand and no less-than sign in this file, so that tests can read the page as XML.
  const root = document.documentElement;
  window.addEventListener("error", (e) => { root.dataset.error = e.message; });

  // Pointing at a marker: shows its text next to the pointer and highlights the policy everywhere.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const mark of document.querySelectorAll("svg .pt")) {
    const title = mark.querySelector("title");
    if (title) {
      mark.dataset.tip = title.textContent;
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    if (mark.classList.contains("main")) {
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "img");
    }
  }
  const leave = () => {
    tip.hidden = true;
    for (const hot of document.querySelectorAll(".hot")) hot.classList.remove("hot");
    for (const group of document.querySelectorAll(".pointed")) group.classList.remove("pointed");
  };
  const point = (mark, x, y) => {
    leave();
    const group = mark.closest(".group");
    if (group) {
      group.classList.add("pointed");
      for (const other of group.querySelectorAll(".pt")) {
        if (other.dataset.key === mark.dataset.key) other.classList.add("hot");
      }
    }
    if (!mark.dataset.tip) return;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const room = 8;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > root.clientWidth - room ? x - 16 - box.width : x + 16;
    const top = y + 16 + box.height > window.innerHeight - room ? y - 16 - box.height : y + 16;
    tip.style.left = Math.max(room, left) + "px";
    tip.style.top = Math.max(room, top) + "px";
  };
  document.addEventListener("pointerover", (e) => {
    const mark = e.target.closest(".pt");
    if (mark) point(mark, e.clientX, e.clientY);
    else leave();
  });
  document.addEventListener("focusin", (e) => {
    const mark = e.target.closest(".pt");
    if (!mark) return;
    const box = mark.getBoundingClientRect();
    point(mark, box.left + box.width / 2, box.top + box.height / 2);
  });
  document.addEventListener("focusout", leave);
  document.addEventListener("scroll", leave, true);
  document.addEventListener("keydown", (e) => { if (e.key === "Escape") leave(); });

  // Examples: filters prompts, and the policies whose answers are shown.
  const form = document.querySelector(".controls");
  if (form) {
    const first = 6;
    const examples = [...document.querySelectorAll(".example")];
    const find = document.getElementById("find");
    const cluster = document.getElementById("cluster");
    const count = document.getElementById("count");
    const more = document.getElementById("more");
    let all = false;
    for (const details of document.querySelectorAll(".example .more")) {
      const answers = details.parentElement.querySelector(".answers");
      for (const answer of details.querySelectorAll(".answer")) answers.append(answer);
      details.remove();
    }
    const texts = examples.map((e) => e.textContent.toLowerCase());
    const update = () => {
      const wanted = find.value.trim().toLowerCase();
      const kind = cluster ? cluster.value : "";
      const matching = examples.filter((e, i) =>
        texts[i].includes(wanted) ? kind === "" || e.dataset.cluster === kind : false);
      const shown = new Set(all ? matching : matching.slice(0, first));
      for (const e of examples) e.hidden = !shown.has(e);
      more.hidden = shown.size === matching.length;
      more.textContent = "Show all " + matching.length;
      count.textContent = shown.size + " of " + examples.length + " prompts shown" +
        (more.hidden ? "" : ", " + matching.length + " match");
      for (const box of form.querySelectorAll("input[type=checkbox]")) {
        const own = document.querySelectorAll('.answer[data-policy="' + box.value + '"]');
        for (const answer of own) answer.hidden = !box.checked;
      }
    };
    form.addEventListener("submit", (e) => e.preventDefault());
    form.addEventListener("input", () => { all = false; update(); });
    more.addEventListener("click", () => { all = true; update(); });
    form.hidden = false;
    update();
  }
  root.dataset.script = "ran";
})();
