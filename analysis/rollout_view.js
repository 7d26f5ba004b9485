// Draws one rollout, or two side by side, from plain data. Knows no list, no filter and no key.
// Everything that a model wrote is set with textContent, in HTML and in SVG, never as markup.
"use strict";
const views = (data) => {
  const SVG = "http://www.w3.org/2000/svg";
  const KINDS = [
    ["onset", "injected"], ["inspected", "seen in INSPECT"], ["checked", "seen in CHECK"], ["remarked", "remarked on itself"],
    ["named", "named"], ["amplified", "amplified"], ["countered", "countered"], ["detected", "noticed"], ["removed", "ended"],
    ["readopted", "taken up again"],
  ];

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined && text !== null) element.textContent = text;
    return element;
  };
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const named = (feature) => {
    const label = data.labels[feature];
    return label ? `${label} [${feature}]` : `feature [${feature}]`;
  };
  const signed = (strength) => (strength < 0 ? "\u2212" : "+") + Math.abs(strength).toFixed(2);
  const hue = (feature) => `${(feature * 137.508) % 360} var(--band-s) var(--band-l)`;
  const colour = (feature, strength) => {
    const alpha = 0.35 + 0.65 * Math.min(Math.abs(strength) / data.strongest, 1);
    return `hsl(${hue(feature)} / ${alpha.toFixed(2)})`;
  };
  const inWords = (steering) =>
    steering.length ? steering.map(([f, s, source]) => `${named(f)} ${signed(s)} (${source})`).join(", ") : "unsteered";
  const place = (side, number) => `${side}round-${number}`;

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
  const strip = (rollout, side) => {
    const live = side !== undefined;
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
          segment.addEventListener("click", () => document.getElementById(place(side, round.n)).scrollIntoView());
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

  // What was coded of an injected feature: [round, kind, words], in order of rounds.
  const coded = (injected) =>
    KINDS.filter(([kind]) => injected.at[kind]).map(([kind, words]) => [
      injected.at[kind], kind, kind === "removed" ? `ended by ${injected.how === "targeted" ? "REMOVE" : "CLEAR"}` : words,
    ]).sort((a, b) => a[0] - b[0]);
  const outside = (round, feature) => round.now.some(([f, , source]) => f === feature && source !== "self");
  const takenOut = (rollout, injected) => {
    const last = rollout.rounds.findLastIndex((round) => outside(round, injected.f));
    const next = rollout.rounds[last + 1];
    return last >= 0 && next && injected.at.removed !== rollout.rounds[last].n ? next.n : null;
  };

  // The chart: how active an injected feature was in each response; shaded where it was in force from outside.
  const chart = (rollout, injected, wide) => {
    const [left, right, top, bottom] = [34, 10, 44, 20];
    const width = Math.max(220, Math.min(wide, 700));
    const height = 168;
    const numbers = rollout.rounds.map((round) => round.n);
    const [first, last] = [numbers[0], Math.max(numbers[numbers.length - 1], numbers[0] + 1)];
    const most = Math.max(...injected.values.filter((v) => v !== null), 0) || 1;
    const step = (width - left - right) / (last - first + 1);
    const x = (number) => left + step * (number - first + 0.5);
    const y = (value) => height - bottom - (height - top - bottom) * (value / most);
    const what = `Activation of ${named(injected.f)} by round`;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": what });
    svg.append(draw("title", {}, `${what}: ${numbers.map((n, i) => `${n}: ${injected.values[i] ?? "missing"}`).join(", ")}`));
    for (const round of rollout.rounds) {
      if (outside(round, injected.f)) svg.append(draw("rect", { class: "forced", x: x(round.n) - step / 2, y: top, width: step, height: height - top - bottom }));
    }
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) }));
    for (const value of [0, most]) svg.append(draw("text", { class: "tick end", x: left - 6, y: y(value) + 4 }, value ? most.toPrecision(2) : "0"));
    const every = Math.ceil(numbers.length / Math.max(4, Math.floor(width / 44)));
    numbers.forEach((n, i) => {
      if (i % every === 0) svg.append(draw("text", { class: "tick", x: x(n), y: height - 5 }, n));
    });
    const taken = takenOut(rollout, injected);
    const lines = [["onset", injected.at.onset, "injected", 0], ["detected", injected.at.detected, "noticed", 1]];
    if (injected.at.removed) lines.push(["removed", injected.at.removed, `ended by ${injected.how === "targeted" ? "REMOVE" : "CLEAR"}`, 2]);
    else if (taken) lines.push(["taken", taken, "taken out by the experimenter", 2]);
    for (const [kind, number, words, row] of lines.filter(([, number]) => number)) {
      // outside changes come before a round's turn, what the model does comes at its end
      const at = x(number) + (kind === "onset" || kind === "taken" ? -step / 2 : 0);
      const turned = at > width * 0.6;
      svg.append(draw("line", { class: `mark ${kind}`, x1: at, x2: at, y1: 4 + 13 * row, y2: y(0) }));
      svg.append(draw("text", { class: `word ${kind}${turned ? " end" : ""}`, x: at + (turned ? -4 : 4), y: 12 + 13 * row }, words));
    }
    let path = "";
    injected.values.forEach((value, i) => {
      if (value === null) return;
      path += `${path && injected.values[i - 1] !== null ? "L" : "M"}${x(numbers[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    });
    const line = draw("path", { class: "line", d: path });
    line.style.stroke = `hsl(${hue(injected.f)})`;
    svg.append(line);
    injected.values.forEach((value, i) => {
      if (value === null) return;
      const dot = draw("circle", { class: "dot", cx: x(numbers[i]), cy: y(value), r: 3 });
      dot.style.fill = `hsl(${hue(injected.f)})`;
      dot.append(draw("title", {}, `round ${numbers[i]}: ${value}`));
      svg.append(dot);
    });
    const figure = make("figure", "injected");
    const caption = make("figcaption");
    const told = coded(injected).map(([number, , words]) => `${words} in round ${number}`);
    if (taken) told.push(`taken out by the experimenter before round ${taken}`);
    const gaps = injected.values.filter((v) => v === null).length;
    caption.append(make("b", "", `${named(injected.f)} ${signed(injected.s)}: ${injected.did}`), `. ${told.join(", ")}. `);
    caption.append(`Line: its activation in the response of each round (${injected.read || "no reading"}, steering in force); shaded: in force from outside.`);
    if (gaps) caption.append(` ${gaps} rounds have no value: the reading was full without it, or there is none.`);
    figure.append(svg, caption);
    return figure;
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
  const passage = (className) => {
    const made = make("div", className);
    made.dir = "auto";
    return made;
  };

  const round = (rollout, one, needle, side) => {
    const section = make("section", "round");
    section.id = place(side, one.n);
    const header = make("header");
    header.append(make("b", "", `Round ${one.n}`));
    if (side) header.append(make("span", "which", rollout.id));
    header.append(make("span", "", `in force: ${inWords(one.now)}`));
    header.append(make("span", "", `${one.made === null ? "" : `${one.made} tokens`}${one.why && one.why !== "stop" ? `, ended by ${one.why}` : ""}`));
    for (const injected of rollout.injected) {
      for (const [number, kind, words] of coded(injected)) {
        if (number === one.n) header.append(make("span", `did ${kind}`, `${words}: ${named(injected.f)}`));
      }
    }
    section.append(header);
    for (const event of one.events) section.append(make("p", "event", event));
    if (one.turn !== null) {
      const turn = passage("turn");
      turn.append(marked(one.turn, needle));
      section.append(turn);
    }
    const response = passage("response");
    for (const part of one.parts) {
      if (typeof part === "string") {
        response.append(marked(part, needle));
      } else {
        const call = one.calls[part[1]];
        const span = make("span", "call " + (call.o === "ok" ? "ok" : "bad"));
        span.append(marked(part[0], needle));
        span.title = call.p ? `${call.o}: ${call.p}` : call.o;
        response.append(span);
      }
    }
    section.append(response);
    if (one.calls.length) {
      const calls = make("ul", "calls");
      for (const call of one.calls) {
        const item = make("li", call.o === "ok" ? "" : "bad");
        item.append(call.t, " ", make("span", "outcome", `→ ${call.o}${call.p && call.p !== call.o ? ` (${call.p})` : ""}`));
        calls.append(item);
      }
      section.append(calls);
    }
    if (one.rows) {
      const results = make("details", "results");
      results.append(make("summary", "", `${one.rows.length} lines of results, shown after the last round`));
      for (const [feature, label, value] of one.rows) results.append(make("div", "", `${label} [${feature}] ${value.toFixed(2)}`));
      section.append(results);
    }
    if (one.top.length) {
      const steered = new Set(one.now.map(([feature]) => feature));
      const top = make("ul", "top-features");
      top.append(make("li", "lead", "most active"));
      for (const [feature, value] of one.top) {
        top.append(make("li", steered.has(feature) ? "steered" : "", `${named(feature)} ${value.toFixed(2)}`));
      }
      section.append(top);
    }
    return section;
  };

  const head = (rollout, wide, side) => {
    const whole = make("div", "head");
    const tokens = rollout.rounds.reduce((sum, r) => sum + r.given + r.made, 0);
    whole.append(make("h3", "", rollout.id));
    const unknown = rollout.rounds.some((r) => r.given === null || r.made === null);
    const sum = unknown ? `${tokens} tokens known` : `${tokens} tokens`;
    whole.append(make("p", "note", `${rollout.rounds.length} rounds, ${sum}, ended: ${rollout.ended}`));
    if (rollout.error) whole.append(make("p", "warn", rollout.error));
    const system = data.systems[rollout.system];
    if (system) {
      const told = make("details", "told");
      const prompt = passage("turn");
      prompt.textContent = system;
      told.append(make("summary", "", "System prompt"), prompt);
      whole.append(told);
    }
    whole.append(strip(rollout, side), legend(rollout));
    if (rollout.rounds.length) whole.append(...rollout.injected.map((injected) => chart(rollout, injected, wide)));
    return whole;
  };

  const single = (rollout, needle, wide) => [
    head(rollout, wide, ""), ...rollout.rounds.map((one) => round(rollout, one, needle, "")),
  ];
  // Two rollouts in two columns, a row for each round that either has.
  const pair = (left, right, needle, wide) => {
    const row = (a, b) => {
      const made = make("div", "pair");
      made.append(a, b);
      return made;
    };
    const numbers = [...new Set([...left.rounds, ...right.rounds].map((one) => one.n))].sort((a, b) => a - b);
    const cell = (rollout, number, side) => {
      const one = rollout.rounds.find((r) => r.n === number);
      return one ? round(rollout, one, needle, side) : make("p", "empty", `${rollout.id} has no round ${number}.`);
    };
    return [
      row(head(left, wide, "a-"), head(right, wide, "b-")),
      ...numbers.map((number) => row(cell(left, number, "a-"), cell(right, number, "b-"))),
    ];
  };
  return { make, strip, single, pair };
};
