// Opens rollouts from the JSON in this page. Everything that a model wrote is set with textContent, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("list");
  const view = document.getElementById("rollout");
  const search = document.getElementById("search");
  const groups = new Set();
  const texts = new Map();
  let shown = [];
  let current = -1;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  };
  const named = (feature) => {
    const label = data.labels[feature];
    return label ? `${label} [${feature}]` : `feature [${feature}]`;
  };
  const signed = (strength) => (strength < 0 ? "\u2212" : "+") + Math.abs(strength).toFixed(2);
  const colour = (feature, strength) => {
    const alpha = 0.35 + 0.65 * Math.min(Math.abs(strength) / data.strongest, 1);
    return `hsl(${(feature * 137.508) % 360} var(--band-s) var(--band-l) / ${alpha.toFixed(2)})`;
  };
  const inWords = (steering) =>
    steering.length ? steering.map(([f, s, source]) => `${named(f)} ${signed(s)} (${source})`).join(", ") : "unsteered";

  // The strip: every token of the context, as wide as it is long, in the colours of what was in force on it.
  const bands = (segment, steering) => {
    if (!steering.length) return;
    segment.style.background = "none";
    for (const [feature, strength, source] of steering) {
      const band = make("span", "band" + (strength < 0 ? " negative" : "") + (source === "self" ? "" : " external"));
      band.style.backgroundColor = colour(feature, strength);
      segment.append(band);
    }
  };
  const strip = (rollout, live) => {
    const whole = make("div", "strip");
    for (const round of rollout.rounds) {
      for (const [kind, count, steering] of [["given", round.given, round.then], ["made", round.made, round.now]]) {
        if (!count) continue;
        const segment = make(live ? "button" : "i", kind);
        segment.style.flexGrow = count;
        bands(segment, steering);
        if (live) {
          const what = kind === "given" ? "turn" : "response";
          segment.type = "button";
          segment.tabIndex = -1;
          segment.title = `round ${round.n}, ${what}, ${count} tokens: ${inWords(steering)}`;
          segment.addEventListener("click", () => document.getElementById(`round-${round.n}`).scrollIntoView());
        }
        whole.append(segment);
      }
    }
    return whole;
  };
  const legend = (rollout) => {
    const seen = new Map();
    for (const round of rollout.rounds) {
      for (const [feature, strength, source] of [...round.then, ...round.now]) {
        const entry = seen.get(feature) || { low: strength, high: strength, sources: new Set() };
        entry.low = Math.min(entry.low, strength);
        entry.high = Math.max(entry.high, strength);
        entry.sources.add(source);
        seen.set(feature, entry);
      }
    }
    const items = make("ul", "legend");
    if (!seen.size) items.append(make("li", "", "Nothing was steered."));
    for (const [feature, { low, high, sources }] of seen) {
      const item = make("li");
      const swatch = make("span", "swatch");
      swatch.style.background = colour(feature, data.strongest);
      const range = low === high ? signed(low) : `${signed(low)} to ${signed(high)}`;
      item.append(swatch, `${named(feature)} ${range}, ${[...sources].join(" and ")}`);
      items.append(item);
    }
    return items;
  };

  // Text with the searched words marked.
  const marked = (text, needle) => {
    const whole = document.createDocumentFragment();
    const lower = text.toLowerCase();
    let at = 0;
    for (let hit = needle ? lower.indexOf(needle) : -1; hit >= 0 && lower.length === text.length; hit = lower.indexOf(needle, at)) {
      whole.append(text.slice(at, hit), make("mark", "", text.slice(hit, hit + needle.length)));
      at = hit + needle.length;
    }
    whole.append(text.slice(at));
    return whole;
  };

  const roundView = (round, needle) => {
    const section = make("section", "round");
    section.id = `round-${round.n}`;
    const header = make("header");
    header.append(make("b", "", `Round ${round.n}`), make("span", "", `in force: ${inWords(round.now)}`));
    header.append(make("span", "", `${round.made === null ? "" : `${round.made} tokens`}${round.why && round.why !== "stop" ? `, ended by ${round.why}` : ""}`));
    section.append(header);
    for (const event of round.events) section.append(make("p", "event", event));
    if (round.turn !== null) {
      const turn = make("div", "turn");
      turn.dir = "auto";
      turn.append(marked(round.turn, needle));
      section.append(turn);
    }
    const response = make("div", "response");
    response.dir = "auto";
    for (const part of round.parts) {
      if (typeof part === "string") {
        response.append(marked(part, needle));
      } else {
        const call = round.calls[part[1]];
        const span = make("span", "call " + (call.o === "ok" ? "ok" : "bad"));
        span.append(marked(part[0], needle));
        span.title = call.p ? `${call.o}: ${call.p}` : call.o;
        response.append(span);
      }
    }
    section.append(response);
    if (round.calls.length) {
      const calls = make("ul", "calls");
      for (const call of round.calls) {
        const item = make("li", call.o === "ok" ? "" : "bad");
        item.append(call.t, " ", make("span", "outcome", `→ ${call.o}${call.p && call.p !== call.o ? ` (${call.p})` : ""}`));
        calls.append(item);
      }
      section.append(calls);
    }
    if (round.rows) {
      const results = make("details", "results");
      results.append(make("summary", "", `${round.rows.length} lines of results, shown after the last round`));
      for (const [feature, label, value] of round.rows) results.append(make("div", "", `${label} [${feature}] ${value.toFixed(2)}`));
      section.append(results);
    }
    if (round.top.length) {
      const steered = new Set(round.now.map(([feature]) => feature));
      const top = make("ul", "top-features");
      top.append(make("li", "lead", "most active"));
      for (const [feature, value] of round.top) {
        top.append(make("li", steered.has(feature) ? "steered" : "", `${named(feature)} ${value.toFixed(2)}`));
      }
      section.append(top);
    }
    return section;
  };

  const textOf = (rollout) => {
    if (!texts.has(rollout)) {
      const parts = rollout.rounds.flatMap((r) => [r.turn || "", ...r.parts.map((p) => (typeof p === "string" ? p : p[0]))]);
      texts.set(rollout, [rollout.id, ...parts].join("\n").toLowerCase());
    }
    return texts.get(rollout);
  };

  const open = (index, quiet) => {
    current = index;
    view.replaceChildren();
    [...list.querySelectorAll("button")].forEach((b, i) => b.setAttribute("aria-current", String(i === index)));
    const rollout = shown[index];
    if (!rollout) return;
    const needle = search.value.trim().toLowerCase();
    const tokens = rollout.rounds.reduce((sum, r) => sum + r.given + r.made, 0);
    view.append(make("h3", "", rollout.id));
    const unknown = rollout.rounds.some((r) => r.given === null || r.made === null);
    const sum = unknown ? `${tokens} tokens known` : `${tokens} tokens`;
    view.append(make("p", "note", `${rollout.rounds.length} rounds, ${sum}, ended: ${rollout.ended}`));
    if (rollout.error) view.append(make("p", "warn", rollout.error));
    const system = data.systems[rollout.system];
    if (system) {
      const told = make("details", "told");
      const prompt = make("div", "turn", system);
      prompt.dir = "auto";
      told.append(make("summary", "", "System prompt"), prompt);
      view.append(told);
    }
    view.append(strip(rollout, true), legend(rollout), ...rollout.rounds.map((r) => roundView(r, needle)));
    if (quiet) return;
    list.children[index].scrollIntoView({ block: "nearest" });
    if (view.getBoundingClientRect().top < 0 || view.getBoundingClientRect().top > innerHeight * 0.7) {
      document.getElementById("rollouts-title").nextElementSibling.scrollIntoView();
    }
    history.replaceState(null, "", "#" + encodeURIComponent(rollout.id));
  };

  const refresh = (quiet) => {
    const needle = search.value.trim().toLowerCase();
    const before = shown[current];
    shown = data.rollouts.filter((r) => (!groups.size || groups.has(r.group)) && (!needle || textOf(r).includes(needle)));
    list.replaceChildren();
    shown.forEach((rollout, index) => {
      const button = make("button");
      const calls = rollout.rounds.reduce((sum, r) => sum + r.calls.length, 0);
      button.type = "button";
      button.append(make("span", "", rollout.id), make("span", "meta", rollout.ended === "finished" ? `${calls} calls` : rollout.ended));
      button.append(strip(rollout, false));
      button.addEventListener("click", () => open(index));
      list.append(button);
    });
    if (!shown.length) list.append(make("p", "empty", "No rollout matches."));
    document.getElementById("count").textContent = `${shown.length} of ${data.rollouts.length} rollouts`;
    open(Math.max(shown.indexOf(before), shown.length ? 0 : -1), quiet);
  };

  const filters = document.getElementById("filters");
  for (const group of data.groups) {
    const button = make("button", "", group);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const on = !groups.delete(group);
      if (on) groups.add(group);
      button.setAttribute("aria-pressed", String(on));
      refresh(true);
    });
    filters.append(button);
  }
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => refresh(true), 120);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    if (event.key === "j" && current + 1 < shown.length) open(current + 1);
    else if (event.key === "k" && current > 0) open(current - 1);
    else if (event.key === "/") search.focus();
    else return;
    event.preventDefault();
  });

  refresh(true);
  let wanted = "";
  try {
    wanted = decodeURIComponent(location.hash.slice(1));
  } catch {
    wanted = "";
  }
  const linked = shown.findIndex((r) => r.id === wanted);
  if (linked >= 0) open(linked);
})();
