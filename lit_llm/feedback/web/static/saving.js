// Keeps the draft: saves soon after each change, renews the lease, submits, and says what stands in the way.

import { cards, groups, ranks } from "./ranking.js";

const SOON = 1200; // milliseconds between a change and its saving
const RETRY = 5000;
const RENEW = 60000;
const IDLE = 60000; // without a sign of the annotator for so long, the time does not count

/** The form as the JSON that the server reads. */
export function judgement(form) {
  const data = new FormData(form);
  const result = { ranks: ranks(form), all_bad: data.has("all_bad"), comment: data.get("comment"), ratings: {}, notes: {} };
  for (const { dataset } of cards(form)) {
    const scales = ["helpful", "honest", "harmless"];
    result.ratings[dataset.key] = Object.fromEntries(scales.map((s) => [s, Number(data.get(`${s}.${dataset.key}`)) || null]));
    const note = data.get(`note.${dataset.key}`);
    if (note.trim()) result.notes[dataset.key] = note;
  }
  result.flags = data.getAll("flag").map((value) => JSON.parse(value));
  return result;
}

/** What a judgement says, however it is written: ranks without gaps, nothing empty, flags in one order. */
function essence(given) {
  const rated = Object.entries(given.ratings).map(([key, scales]) => Object.entries(scales).map((one) => [key, ...one]));
  const flagged = given.flags.map(({ key, kind, severity, start, end }) => JSON.stringify([key, kind, severity, start, end]));
  const order = groups(given.ranks).map((group) => group.sort());
  const noted = Object.entries(given.notes).filter(([, note]) => note).sort();
  const rating = rated.flat().filter(([, , value]) => value).sort();
  return JSON.stringify([order, given.all_bad, given.comment, noted, rating, flagged.sort()]);
}

export class Saving {
  constructor(form, words, announce) {
    Object.assign(this, { form, words, announce });
    this.status = document.getElementById("status");
    this.version = Number(form.dataset.version);
    this.seconds = Number(form.dataset.seconds) || 0;
    this.kept = this.snapshot();
    this.stopped = false;
    this.busy = Promise.resolve();
    this.lastSign = this.lastTick = Date.now();
    for (const name of ["pointermove", "keydown", "scroll", "pointerdown"]) {
      document.addEventListener(name, () => (this.lastSign = Date.now()), { passive: true });
    }
    setInterval(() => this.tick(), 1000);
    setInterval(() => this.renew(), RENEW);
    this.showLease(Number(form.dataset.lease));
    window.addEventListener("beforeunload", (event) => this.unsaved() && event.preventDefault());
    document.addEventListener("visibilitychange", () => document.hidden && this.unsaved() && this.save(false));
  }

  snapshot() {
    return JSON.stringify(judgement(this.form));
  }

  unsaved() {
    return !this.left && !this.stopped && this.snapshot() !== this.kept;
  }

  /** Counts the seconds in which the page is seen and somebody is there. */
  tick() {
    const now = Date.now();
    if (!document.hidden && now - this.lastSign < IDLE) this.seconds += Math.min(now - this.lastTick, 5000) / 1000;
    this.lastTick = now;
    this.form.elements.seconds.value = this.seconds.toFixed(1);
  }

  changed() {
    if (this.stopped) return;
    this.say(this.words.unsaved, "idle");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(false), SOON);
  }

  /** The page is about to be left by a plain form. */
  leave() {
    this.left = true;
    clearTimeout(this.timer);
  }

  /** One save at a time, in order: each names the version that the one before it made. */
  save(submit) {
    clearTimeout(this.timer);
    this.busy = this.busy.then(() => this.send(submit)).catch(() => this.failed(submit));
    return this.busy;
  }

  async send(submit) {
    if (this.stopped || (!submit && this.snapshot() === this.kept)) return;
    const sent = this.snapshot();
    this.say(this.words.saving, "busy");
    const body = JSON.stringify({ ...JSON.parse(sent), seconds: this.seconds, submit });
    const response = await fetch(this.form.dataset.save, {
      method: "PUT",
      body,
      keepalive: body.length < 60000,
      headers: { "Content-Type": "application/json", "If-Match": `"${this.version}"`, "X-CSRF-Token": this.token() },
    });
    if (response.ok) return this.accepted(await response.json(), sent, submit);
    await this.refused(response, submit);
  }

  accepted(answer, sent, submit) {
    this.version = answer.version;
    this.form.elements.version.value = answer.version;
    this.kept = sent;
    document.getElementById("problem")?.remove();
    if (submit) {
      this.leave();
      location.assign("/?done=saved");
      return;
    }
    const time = new Date().toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
    // What was changed while it was on its way is not saved yet: that says "unsaved" until its own turn comes.
    if (this.snapshot() === sent) this.say(this.words.saved.replace("{time}", time), "saved");
    this.showLease(answer.lease_until);
  }

  async refused(response, submit) {
    const answer = await response.json().catch(() => ({ error: response.statusText }));
    if (response.status === 409) {
      // An answer that was lost on its way: what is saved is what we sent.
      const same = answer.saved && essence(answer.saved) === essence(judgement(this.form));
      if (same && (!submit || answer.state === "submitted")) return this.accepted(answer, this.snapshot(), submit);
      return this.conflict(answer, submit);
    }
    if (response.status === 410) {
      this.stopped = true;
      return this.alarm(this.words.lost);
    }
    if (response.status === 401 || response.status === 403) return this.loggedOut(submit);
    if (response.status >= 500) return this.failed(submit);
    this.alarm(answer.text || answer.error);
  }

  /** Nobody answered, or with an error of the server: try again until it works. */
  failed(submit) {
    this.say(this.words.failed, "bad");
    this.announce(this.words.failed);
    this.timer = setTimeout(() => this.save(submit), RETRY);
  }

  /** After a log-in in another tab the token is a new one. */
  async loggedOut(submit) {
    this.alarm(this.words.logged_out);
    const response = await fetch("/api/progress");
    if (response.ok) {
      const { csrf } = await response.json();
      const renewed = csrf !== this.token();
      this.form.elements.csrf.value = csrf;
      if (renewed) return this.send(submit);
    }
    this.timer = setTimeout(() => this.save(submit), RETRY);
  }

  /** Changed in another window: nothing is sent any more until the annotator has chosen. */
  conflict(answer, submit) {
    this.stopped = true;
    document.querySelector(".conflict")?.remove();
    const box = document.createElement("section");
    box.className = "notice warn conflict";
    box.setAttribute("role", "alert");
    const said = document.createElement("p");
    said.textContent = this.words.conflict;
    const heading = document.createElement("h3");
    heading.textContent = this.words.saved_now;
    const saved = new DOMParser().parseFromString(answer.saved_html, "text/html").body;
    const keep = this.button(this.words.keep_mine, () => {
      box.remove();
      this.stopped = false;
      this.kept = null;
      this.version = answer.version;
      this.form.elements.version.value = answer.version;
      this.save(submit);
    });
    const take = this.button(this.words.take_saved, () => {
      this.left = true;
      location.reload();
    });
    const choice = document.createElement("p");
    choice.append(keep, " ", take);
    box.append(said, heading, ...saved.childNodes, choice);
    this.form.before(box);
    box.scrollIntoView({ block: "center" });
    box.tabIndex = -1;
    box.focus(); // not a button: whoever is typing must not choose by accident
    this.say(this.words.unsaved, "bad");
    this.announce(this.words.conflict);
  }

  button(text, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", act);
    return button;
  }

  async renew() {
    if (this.stopped || document.hidden || !this.form.dataset.lease || Date.now() - this.lastSign > 10 * RENEW) return;
    const response = await fetch(this.form.dataset.save).catch(() => null);
    if (response?.ok) this.showLease((await response.json()).item.lease_until);
    else if (response?.status === 410) {
      this.stopped = true;
      this.alarm(this.words.lost);
    }
  }

  showLease(until) {
    const line = document.getElementById("lease");
    if (!line || !until) return;
    const time = new Date(until * 1000).toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
    line.textContent = this.words.lease.replace("{time}", time);
  }

  token() {
    return this.form.elements.csrf.value;
  }

  say(text, state) {
    this.status.textContent = text;
    this.status.dataset.state = state;
  }

  alarm(text) {
    this.say(text, "bad");
    this.announce(text);
    this.status.scrollIntoView({ block: "nearest" });
  }
}
