// The list of rollouts: filters, search, keys, and which one or two are open. Drawing is in rollout_view.js.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { make, strip, single, pair } = views(data);
  const at = (id) => document.getElementById(id);
  const [list, view, bar, search, help] = ["list", "rollout", "bar", "search", "help"].map(at);
  const texts = new Map();
  const facets = [
    { values: data.groups, of: (rollout) => [rollout.group], chosen: new Set(), where: at("filters") },
    { values: data.categories, of: (rollout) => rollout.injected.map((i) => i.did), chosen: new Set(), where: at("outcomes") },
  ];
  let shown = [];
  let current = null;
  let held = null; // the rollout that others are compared with
  let closed = false;

  const textOf = (rollout) => {
    if (!texts.has(rollout)) {
      const parts = rollout.rounds.flatMap((r) => [r.turn || "", ...r.parts.map((p) => (typeof p === "string" ? p : p[0]))]);
      texts.set(rollout, [rollout.id, ...parts].join("\n").toLowerCase());
    }
    return texts.get(rollout);
  };
  const needle = () => search.value.trim().toLowerCase();
  const comparing = () => held !== null && current !== null && held !== current && !closed;

  const action = (text, key, act, pressed) => {
    const button = make("button", "", text);
    button.type = "button";
    button.title = `key ${key}`;
    if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", act);
    return button;
  };
  const show = () => {
    at("rollouts").classList.toggle("comparing", comparing());
    [...list.querySelectorAll("button")].forEach((button, i) => {
      button.setAttribute("aria-current", String(shown[i] === current));
      button.classList.toggle("held", shown[i] === held);
    });
    view.replaceChildren();
    bar.replaceChildren();
    if (!current) return;
    bar.append(action("Previous", "k", () => step(-1)), action("Next", "j", () => step(1)));
    bar.append(action(closed ? "Open" : "Close", "o", toggle));
    bar.append(action(held ? "Stop comparing" : "Compare", "c", compare, held !== null));
    if (held) bar.append(make("span", "note", comparing() ? `${held.id} on the left` : `Choose what to put beside ${held.id}.`));
    if (closed) {
      view.append(make("p", "empty", `${current.id} is closed.`));
    } else if (comparing()) {
      const wide = view.clientWidth < 640 ? view.clientWidth : view.clientWidth / 2 - 14;
      view.append(...pair(held, current, needle(), wide));
    } else {
      view.append(...single(current, needle(), view.clientWidth));
    }
  };
  // As show, for a choice of the reader: in sight, and in the address.
  const open = (rollout) => {
    current = rollout;
    closed = false;
    show();
    const button = list.children[shown.indexOf(rollout)];
    if (button) button.scrollIntoView({ block: "nearest" });
    if (bar.getBoundingClientRect().top < 0 || bar.getBoundingClientRect().top > innerHeight * 0.7) {
      at("rollouts-title").nextElementSibling.scrollIntoView();
    }
    history.replaceState(null, "", "#" + (held ? [held, current] : [current]).map((r) => encodeURIComponent(r.id)).join("&"));
  };
  const step = (by) => {
    const next = shown[shown.indexOf(current) + by];
    if (next) open(next);
  };
  const compare = () => {
    if (!current) return;
    held = held ? null : current;
    open(current);
  };
  const toggle = () => {
    closed = !closed;
    show();
  };

  const refresh = () => {
    const words = needle();
    shown = data.rollouts.filter(
      (r) => facets.every((f) => !f.chosen.size || f.of(r).some((v) => f.chosen.has(v))) && (!words || textOf(r).includes(words)),
    );
    list.replaceChildren();
    for (const rollout of shown) {
      const button = make("button");
      const calls = rollout.rounds.reduce((sum, r) => sum + r.calls.length, 0);
      button.type = "button";
      button.append(make("span", "", rollout.id), make("span", "meta", rollout.ended === "finished" ? `${calls} calls` : rollout.ended));
      if (rollout.injected.length) button.append(make("span", "meta did", rollout.injected.map((i) => i.did).join(", ")));
      button.append(strip(rollout));
      button.addEventListener("click", () => open(rollout));
      list.append(button);
    }
    if (!shown.length) list.append(make("p", "empty", "No rollout matches."));
    at("count").textContent = `${shown.length} of ${data.rollouts.length} rollouts`;
    if (!shown.includes(current)) current = shown[0] || null;
    show();
  };

  for (const facet of facets) {
    for (const value of facet.values) {
      const button = make("button", "", value);
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        const on = !facet.chosen.delete(value);
        if (on) facet.chosen.add(value);
        button.setAttribute("aria-pressed", String(on));
        refresh();
      });
      facet.where.append(button);
    }
    facet.where.hidden = !facet.values.length;
  }
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 120);
  });

  const rounds = (by) => {
    const tops = [...view.querySelectorAll(".round")].map((r) => [r, Math.round(r.getBoundingClientRect().top)]);
    const edge = Math.round(at("controls").getBoundingClientRect().bottom) + 24;
    const next = by > 0 ? tops.find(([, top]) => top > edge) : tops.findLast(([, top]) => top < edge - 48);
    if (next) next[0].scrollIntoView();
  };
  const keys = {
    j: () => step(1), k: () => step(-1), n: () => rounds(1), p: () => rounds(-1), o: toggle, c: compare,
    "/": () => search.focus(), "?": () => help.showModal(), Escape: () => held && compare(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target === search) {
      if (event.key === "Escape") search.blur();
      return;
    }
    if (!Object.hasOwn(keys, event.key)) return;
    keys[event.key]();
    event.preventDefault();
  });
  at("help-open").addEventListener("click", () => help.showModal());
  at("help-close").addEventListener("click", () => help.close());

  refresh();
  let wanted = [];
  try {
    wanted = location.hash.slice(1).split("&").map((id) => data.rollouts.find((r) => r.id === decodeURIComponent(id)));
  } catch {
    wanted = [];
  }
  if (wanted.length && wanted.every((rollout) => rollout)) {
    held = wanted.length > 1 ? wanted[0] : null;
    open(wanted[wanted.length - 1]);
  }
})();
