// The ranking page: wires the keyboard, the board, the flags and the saving to a form that works without them.

import { Board } from "./board.js";
import { Flags } from "./passages.js";
import { cards, groups, inserted, moved, ranked, ranks, tied, write } from "./ranking.js";
import { Saving } from "./saving.js";

const words = JSON.parse(document.body.dataset.words);
const form = document.getElementById("judgement");
const live = document.getElementById("announce");
const help = document.getElementById("help");

document.documentElement.classList.add("scripted");

function announce(text) {
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = text));
}

function describe(key) {
  const now = ranks(form);
  const card = document.getElementById(`card-${key}`).dataset.letter;
  if (!now[key]) return words.unranked.replace("{card}", card);
  const others = Object.keys(now).filter((other) => other !== key && now[other] === now[key]);
  const letters = others.map((other) => document.getElementById(`card-${other}`).dataset.letter).join(", ");
  const sentence = letters ? words.tied.replace("{others}", letters) : words.ranked;
  return sentence.replace("{card}", card).replace("{rank}", now[key]);
}

/** Where ties are not allowed, a card that comes to another's rank pushes it down. */
function strict(given, key) {
  if (form.dataset.ties === "1" || !groups(given).some((group) => group.length > 1)) return given;
  return inserted(given, key, given[key], false);
}

function change(given, key) {
  write(form, strict(given, key));
  board.draw();
  announce(describe(key));
  saving?.changed();
}

const board = new Board(form, document.getElementById("board"), words, change);
const flags = new Flags(form, words, (sentence) => {
  announce(sentence);
  document.getElementById("status").textContent = sentence;
  saving?.changed();
});
const saving = form.dataset.save ? new Saving(form, words, announce) : null;
board.draw();

form.addEventListener("input", (event) => {
  if (event.target.closest(".rank")) {
    board.draw();
    announce(describe(event.target.closest(".card").dataset.key));
  }
  saving?.changed();
});

// Buttons that the server understands without script are answered here with it.
form.addEventListener("submit", (event) => {
  const [action, key] = (event.submitter?.name === "action" ? event.submitter.value : "").split(":");
  if (action === "up" || action === "down") {
    event.preventDefault();
    change(moved(ranks(form), key, action === "up"), key);
  } else if (action === "flag") {
    event.preventDefault();
    flags.add(document.getElementById(`card-${key}`));
  } else if (saving && (action === "submit" || action === "save")) {
    event.preventDefault();
    // A flag whose fields are filled but not added yet must not get lost.
    const open = cards(form).filter((card) => card.querySelector('[name^="flag_kind."]').value);
    if (!open.every((card) => flags.add(card))) return;
    const count = Object.values(ranks(form)).filter(Boolean).length;
    if (action === "submit" && count < 2 && !form.elements.all_bad.checked) saving.alarm(words.too_few);
    else saving.save(action === "submit");
  } else saving?.leave(); // skip: a plain form
});

// Keys that are letters are known by their place too, so that they work under a keyboard of any script.
const letter = (event) => (/^[a-z]$/i.test(event.key) ? event.key : event.code.replace(/^Key/, "")).toLowerCase();
const digit = (event) => event.key.replace(/[٠-٩]/, (n) => n.charCodeAt(0) - 0x660).replace(/[۰-۹]/, (n) => n.charCodeAt(0) - 0x6f0);

let current = cards(form)[0]; // the answer that the keys are about where nothing has the focus
form.addEventListener("focusin", (event) => (current = event.target.closest(".card") ?? current));

/** Opens what holds a field, the sheet of a narrow screen too, and gives it the focus. */
function enter(field) {
  if (!field) return;
  const details = field.closest("details");
  if (details) details.open = true;
  if (field.closest(".side")) document.getElementById("pull").checked = true;
  field.focus();
}

/** What a letter does to a card; true when it means something. */
function lettered(event, card) {
  const meant = {
    f: () => flags.open(card),
    r: () => enter(card.querySelector(".scale input:checked")),
    n: () => enter(card.querySelector(".noting textarea")),
    c: () => enter(form.elements.comment),
    e: () => card.querySelector(":scope > .unfold")?.click(),
    b: () => form.elements.all_bad.click(),
    s: () => enter(form.querySelector(".skip select")),
  }[letter(event)];
  if (!meant || event.altKey) return false;
  meant();
  return true;
}

/** Inside a field: the keys that do without Tab. True when one was meant. */
function inField(event, field) {
  const card = field.closest(".card");
  if (event.key === "Escape") {
    const open = field.closest(".flagging, .noting, .skip");
    if (open && !field.closest(".noting")?.querySelector("textarea").value) open.open = false;
    document.getElementById("pull").checked = false;
    (card ?? current).focus();
    return true;
  }
  if (field.matches(".fields select")) {
    if (event.key === "Enter") return flags.add(card), true;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key] * (document.documentElement.dir === "rtl" ? -1 : 1);
    if (!step) return false;
    const fields = [...field.closest(".fields").querySelectorAll("select, textarea")];
    fields[(fields.indexOf(field) + step + fields.length) % fields.length].focus();
    return true;
  }
  if (field.matches(".scale input")) {
    const scales = [...card.querySelectorAll(".scale")];
    const scale = field.closest(".scale");
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) scales[(scales.indexOf(scale) + step + scales.length) % scales.length].querySelector("input:checked").focus();
    else if (/^[1-7]$/.test(digit(event))) scale.querySelector(`input[value="${digit(event)}"]`).click();
    else if (event.key === "Enter") card.focus();
    else return false;
    return true;
  }
  if (field.matches(".skip select") && event.key === "Enter") {
    form.requestSubmit(form.querySelector(".skip button"));
    return true;
  }
  return false;
}

function move(card, step) {
  const all = cards(form);
  const next = all[(all.indexOf(card) + step + all.length) % all.length];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

/** What a key does to the card (or letter) in focus; true when it did something. */
function ranking(event, key, inCard) {
  const now = ranks(form);
  const last = Object.keys(now).length;
  const number = digit(event);
  if (/^[1-9]$/.test(number) && Number(number) <= last) change(ranked(now, key, Number(number)), key);
  else if (number === "0" || event.key === "Backspace" || event.key === "Delete") change(ranked(now, key, null), key);
  else if (event.key === "=") form.dataset.ties === "1" && change(tied(now, key), key);
  else if ((event.altKey || !inCard) && event.key === "ArrowUp") change(moved(now, key, true), key);
  else if ((event.altKey || !inCard) && event.key === "ArrowDown") change(moved(now, key, false), key);
  else return false;
  return true;
}

document.addEventListener("keydown", (event) => {
  if (help?.open) return;
  const target = event.target;
  if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
    event.preventDefault();
    form.requestSubmit(document.getElementById("submit"));
    return;
  }
  if (event.ctrlKey || event.metaKey) return;
  if (target.matches("input, select, textarea, summary, .fields button")) {
    if (form.contains(target) && inField(event, target)) event.preventDefault();
    return;
  }
  if ((event.key === "?" || event.key === "؟") && help) {
    event.preventDefault();
    help.showModal();
    return;
  }
  const nowhere = target === document.body || target.id === "main"; // after a click beside everything
  const card = target.classList.contains("card") ? target : nowhere ? current : null;
  const key = card?.dataset.key ?? (target.classList.contains("chip") ? target.dataset.key : null);
  const forward = document.documentElement.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
  if (key && ranking(event, key, Boolean(card))) event.preventDefault();
  else if (card && !event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    event.preventDefault();
    move(card, event.key === forward ? 1 : -1);
  } else if (key && lettered(event, document.getElementById(`card-${key}`))) event.preventDefault();
});

document.getElementById("help-link")?.addEventListener("click", (event) => {
  event.preventDefault();
  help.showModal();
});

// The keyboard works at once: the first answer has the focus, where nothing else was given it.
if (document.activeElement === document.body) cards(form)[0]?.focus({ preventScroll: true });
