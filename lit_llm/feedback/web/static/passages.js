// Flags: on a whole answer, or on a passage that is selected in it. Offsets count code points of the raw text.

import { cards } from "./ranking.js";

const isControl = (node) => node.nodeType === Node.ELEMENT_NODE && node.classList.contains("control");

/** Leaves of a text in order, however deep: strings, and the marks of control characters, each one code point. */
function* leaves(text) {
  for (const node of text.childNodes) {
    if (isControl(node)) yield [node, 1];
    else if (node.nodeType === Node.TEXT_NODE) yield [node, [...node.data].length];
    else yield* leaves(node);
  }
}

/** Code points from the beginning of a text to a boundary of a selection. */
export function offset(text, node, at) {
  const boundary = new Range();
  boundary.setStart(node, at);
  let sum = 0;
  for (const [leaf, size] of leaves(text)) {
    if (leaf === node && !isControl(leaf)) return sum + [...leaf.data.slice(0, at)].length;
    if (leaf.contains(node)) return sum + (at > 0 ? 1 : 0); // inside the mark of a control character
    if (boundary.comparePoint(leaf, 0) > 0) return sum; // between two elements
    sum += size;
  }
  return sum;
}

/** The range on the page of a passage given in code points. */
export function range(text, start, end) {
  const found = new Range();
  let sum = 0;
  let begun = false;
  for (const [leaf, size] of leaves(text)) {
    const units = (count) => [...leaf.data].slice(0, count).join("").length;
    if (!begun && start < sum + size) {
      if (isControl(leaf)) found.setStartBefore(leaf);
      else found.setStart(leaf, units(start - sum));
      begun = true;
    }
    if (begun && end <= sum + size) {
      if (isControl(leaf)) found.setEndAfter(leaf);
      else found.setEnd(leaf, units(end - sum));
      return found;
    }
    sum += size;
  }
  return null;
}

/** What is selected inside one answer: {card, start, end, quote, box}, or null. */
export function selected(form) {
  const selection = document.getSelection();
  if (!selection || selection.isCollapsed || !selection.rangeCount) return null;
  const here = selection.getRangeAt(0);
  for (const card of cards(form)) {
    const text = card.querySelector(".answer");
    if (!text.contains(here.startContainer) || !text.contains(here.endContainer)) continue;
    const start = offset(text, here.startContainer, here.startOffset);
    const end = offset(text, here.endContainer, here.endOffset);
    if (start < end) return { card, start, end, quote: here.toString(), box: here.getBoundingClientRect() };
  }
  return null;
}

const field = (card, name) => card.querySelector(`[name="flag_${name}.${CSS.escape(card.dataset.key)}"]`);

export class Flags {
  /** change(sentence): called after a flag was added or taken away. */
  constructor(form, words, change) {
    Object.assign(this, { form, words, change });
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.className = "flag-here primary";
    this.button.textContent = words.flag_passage;
    this.button.hidden = true;
    document.body.append(this.button);
    this.button.addEventListener("pointerdown", (event) => event.preventDefault()); // the selection stays
    this.button.addEventListener("click", () => this.open(selected(form)?.card));
    document.addEventListener("selectionchange", () => this.offer());
    form.addEventListener("change", (event) => event.target.name === "flag" && this.highlight());
    for (const card of cards(form)) {
      card.querySelector(".answer").normalize(); // parsers cut long texts into pieces, even inside a surrogate pair
      field(card, "quote").addEventListener("input", () => (field(card, "span").value = "")); // typed: searched instead
    }
    this.highlight();
  }

  offer() {
    const found = selected(this.form);
    this.button.hidden = !found;
    if (!found) return;
    this.button.style.left = `${Math.max(8, found.box.left + window.scrollX)}px`;
    this.button.style.top = `${found.box.bottom + window.scrollY + 6}px`;
  }

  /** Opens the flag's fields of a card, with the selection as its passage. */
  open(card) {
    if (!card) return;
    const found = selected(this.form);
    if (found?.card === card) {
      field(card, "quote").value = found.quote;
      field(card, "span").value = `${found.start}-${found.end}`;
    }
    this.button.hidden = true;
    card.querySelector(".flagging").open = true;
    field(card, "kind").focus();
  }

  /** Adds what the fields of a card say; false (and a word to the reader) when no kind is chosen. */
  add(card) {
    const kind = field(card, "kind");
    if (!kind.value) {
      this.change(this.words.choose_kind);
      kind.focus();
      return false;
    }
    const quote = field(card, "quote").value.trim();
    const span = this.span(card, quote);
    if (span === undefined) return false;
    const [start, end] = span ?? [null, null];
    const severity = field(card, "severity");
    const flag = { key: card.dataset.key, kind: kind.value, severity: Number(severity.value), start, end };
    const row = document.getElementById("flag-row").content.cloneNode(true);
    const passage = quote.length > 60 ? `${quote.slice(0, 59)}…` : quote;
    row.querySelector("input").value = JSON.stringify(flag);
    row.querySelector("span").textContent = [
      kind.selectedOptions[0].textContent,
      severity.selectedOptions[0].textContent,
      span ? `“${passage}”` : this.words.whole,
    ].join(" · ");
    card.querySelector(".flags").append(row);
    for (const name of ["kind", "quote", "span"]) field(card, name).value = "";
    card.querySelector(".flagging").open = false;
    card.focus();
    this.highlight();
    const said = this.words.flagged.replace("{card}", card.dataset.letter);
    this.change(said.replace("{kind}", kind.querySelector(`[value="${CSS.escape(flag.kind)}"]`).textContent));
    return true;
  }

  /** [start, end] of the passage; null for the whole answer; undefined when it does not stand in the answer. */
  span(card, quote) {
    const given = field(card, "span").value.match(/^(\d+)-(\d+)$/);
    if (given) return [Number(given[1]), Number(given[2])];
    if (!quote) return null;
    const text = [...leaves(card.querySelector(".answer"))].map(([leaf]) => (isControl(leaf) ? "\ufffc" : leaf.data)).join("");
    const at = text.indexOf(quote);
    if (at < 0) {
      this.change(this.words.not_found.replace("{card}", card.dataset.letter));
      field(card, "quote").focus();
      return undefined;
    }
    const start = [...text.slice(0, at)].length;
    return [start, start + [...quote].length];
  }

  /** Marks the flagged passages in the texts (CSS Custom Highlights: the text itself stays as it is). */
  highlight() {
    if (!CSS.highlights) return;
    const ranges = [...this.form.querySelectorAll('[name="flag"]:checked')]
      .map((input) => JSON.parse(input.value))
      .filter((flag) => flag.start !== null && flag.end !== null)
      .map((flag) => range(document.getElementById(`text-${flag.key}`), flag.start, flag.end));
    CSS.highlights.set("flagged", new Highlight(...ranges.filter(Boolean)));
  }
}
