// The board: a place for each rank, a letter for each card; letters and cards are dragged onto it.

import { cards, inserted, ranked, ranks } from "./ranking.js";

const EDGE = 0.26; // the part of a filled place, above and below, where a letter is pushed in between

export class Board {
  /** change(ranks, key): called with the new ranks and the card that was moved. */
  constructor(form, element, words, change) {
    Object.assign(this, { form, element, words, change });
    for (const card of cards(form)) this.draggable(card.querySelector(".handle"), card.dataset.key);
  }

  /** Shows the ranks as they are; keeps the focus on the letter that had it. */
  draw() {
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const now = ranks(this.form);
    for (const slot of this.slots()) {
      const keys = Object.keys(now).filter((key) => String(now[key] ?? "") === slot.dataset.rank);
      slot.querySelector(".chips").replaceChildren(...keys.map((key) => this.chip(key)));
      slot.classList.toggle("filled", keys.length > 0 && slot.dataset.rank !== "");
    }
    for (const card of cards(this.form)) card.classList.toggle("ranked", now[card.dataset.key] !== null);
    if (focused) this.element.querySelector(`.chip[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  slots() {
    return [...this.element.querySelectorAll(".slot")];
  }

  letter(key) {
    return this.form.querySelector(`.card[data-key="${CSS.escape(key)}"]`).dataset.letter;
  }

  chip(key) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.dataset.key = key;
    chip.textContent = this.letter(key);
    chip.setAttribute("aria-label", this.words.chip.replace("{card}", this.letter(key)));
    this.draggable(chip, key);
    return chip;
  }

  draggable(handle, key) {
    handle.addEventListener("pointerdown", (event) => {
      if (event.button === 0) this.drag(event, handle, key);
    });
  }

  /** Follows one pointer until it is let go; Escape puts everything back. */
  drag(event, handle, key) {
    event.preventDefault();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    const ghost = document.createElement("span");
    ghost.className = "chip ghost";
    ghost.textContent = this.letter(key);
    let target = null;
    const follow = (now) => {
      if (!ghost.isConnected) document.body.append(ghost);
      ghost.style.left = `${now.clientX - 15}px`;
      ghost.style.top = `${now.clientY - 15}px`;
      target = this.target(now.clientX, now.clientY);
      this.mark(target);
      scrollNearEdge(now.clientY);
    };
    const end = (drop) => {
      for (const [name, listener] of listeners) handle.removeEventListener(name, listener);
      document.removeEventListener("keydown", escape, true);
      ghost.remove();
      this.mark(null);
      if (drop && target) this.drop(key, target);
    };
    const escape = (pressed) => {
      if (pressed.key !== "Escape") return;
      pressed.stopPropagation();
      end(false);
    };
    const listeners = [
      ["pointermove", follow],
      ["pointerup", () => end(true)],
      ["pointercancel", () => end(false)],
    ];
    for (const [name, listener] of listeners) handle.addEventListener(name, listener);
    document.addEventListener("keydown", escape, true);
  }

  /** {slot, where: "in" | "before" | "after"} under a point, or null. */
  target(x, y) {
    const slot = this.slots().find((one) => {
      const box = one.getBoundingClientRect();
      return x >= box.left && x <= box.right && y >= box.top - 2 && y <= box.bottom + 2;
    });
    if (!slot) return null;
    const box = slot.getBoundingClientRect();
    const height = (y - box.top) / box.height;
    if (!slot.classList.contains("filled")) return { slot, where: "in" };
    return { slot, where: height < EDGE ? "before" : height > 1 - EDGE ? "after" : "in" };
  }

  mark(target) {
    for (const slot of this.slots()) {
      slot.classList.toggle("over", target?.slot === slot && target.where === "in");
      slot.classList.toggle("before", target?.slot === slot && target.where === "before");
      slot.classList.toggle("after", target?.slot === slot && target.where === "after");
    }
  }

  drop(key, { slot, where }) {
    const now = ranks(this.form);
    const rank = Number(slot.dataset.rank) || null;
    this.change(where === "in" ? ranked(now, key, rank) : inserted(now, key, rank, where === "after"), key);
  }
}

function scrollNearEdge(y) {
  if (y < 50) window.scrollBy(0, -14);
  else if (y > window.innerHeight - 50) window.scrollBy(0, 14);
}
