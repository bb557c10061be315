// Elements without a library. What comes from the server is only ever set as
// text or as an attribute, so no name of a workflow can become markup.

/** el makes an element: el("td", {class: "word"}, "text", child, [more, children]). */
export function el(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (v !== undefined && v !== null && v !== false) e.setAttribute(k, v === true ? "" : String(v));
  }
  e.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== ""));
  return e;
}

/** pill is a state: its colour says no more than its word. */
export function pill(word, level, title) {
  return el("span", { class: "pill", "data-level": level, title }, word);
}

/** button asks for something; of is whom it is about, for those who hear the page. */
export function button(label, of, act, ask) {
  return el("button", { type: "button", class: ask.danger ? "danger" : undefined, "data-act": true, "aria-label": `${label}: ${of}`, onclick: () => act(ask) }, label);
}

/** text sets an element's text if it is another: what is read aloud is read once. */
export function text(e, words) {
  if (e.textContent !== words) e.textContent = words;
  e.hidden = words === "";
}

/**
 * lock marks everything that asks for something as not to be used, and says
 * why; "" lets it go. Buttons keep their place for the keyboard: what they say
 * when pressed is the reason.
 */
export function lock(why) {
  for (const e of document.querySelectorAll("[data-act]")) {
    if (e.tagName === "SELECT") e.disabled = why !== "";
    if ((e.getAttribute("aria-disabled") === "true") === (why !== "") && (e.title || "") === why) continue;
    e.setAttribute("aria-disabled", String(why !== ""));
    e.title = why;
  }
}

/**
 * rows fills parent with one element per item. An item whose key and text are
 * as before keeps its element, so focus and selection survive an update.
 */
export function rows(parent, items, key, make, empty) {
  const old = new Map([...parent.children].map((e) => [e.dataset.key, e]));
  const next = items.map((item) => {
    const k = key(item);
    const json = JSON.stringify(item);
    const before = old.get(k);
    if (before && before.comfyume === json) return before;
    const e = make(item);
    e.dataset.key = k;
    e.comfyume = json;
    if (before && before.contains(document.activeElement)) keepFocus(before, e);
    return e;
  });
  if (next.length === 0 && empty) next.push(parent.tagName === "TBODY" ? el("tr", {}, el("td", { colspan: 20, class: "quiet" }, empty)) : el("li", { class: "quiet" }, empty));
  next.forEach((e, i) => { if (parent.children[i] !== e) parent.insertBefore(e, parent.children[i] ?? null); });
  while (parent.children.length > next.length) parent.lastElementChild.remove();
}

/** keepFocus moves the focus to the button of the same name in a remade row, or to its first. */
function keepFocus(before, after) {
  const name = document.activeElement.textContent;
  queueMicrotask(() => {
    const all = [...after.querySelectorAll("button")];
    (all.find((b) => b.textContent === name) ?? all[0])?.focus();
  });
}
