// The ranks of the cards. The selects of the form hold them; everything else on the page follows the selects.

export const cards = (form) => [...form.querySelectorAll(".card")];
export const select = (card) => card.querySelector(".rank select");

/** {key: rank or null}, in the order of the page. */
export function ranks(form) {
  return Object.fromEntries(cards(form).map((card) => [card.dataset.key, Number(select(card).value) || null]));
}

/** The ranked keys, best first; ties stand together. */
export function groups(given) {
  const keys = Object.keys(given).filter((key) => given[key]);
  const places = [...new Set(keys.map((key) => given[key]))].sort((a, b) => a - b);
  return places.map((place) => keys.filter((key) => given[key] === place));
}

/** Groups as ranks 1, 2, ... for these keys; a key in no group has none. */
function numbered(order, given) {
  const result = Object.fromEntries(Object.keys(given).map((key) => [key, null]));
  order.filter((group) => group.length).forEach((group, place) => group.forEach((key) => (result[key] = place + 1)));
  return result;
}

export const ranked = (given, key, rank) => ({ ...given, [key]: rank });

/** One place up or down (as rank_moves.py): a tied card leaves its group, an unranked one becomes the last. */
export function moved(given, key, up) {
  const order = groups(given);
  const at = order.findIndex((group) => group.includes(key));
  if (at < 0) order.push([key]);
  else if (order[at].length > 1) {
    order[at].splice(order[at].indexOf(key), 1);
    order.splice(up ? at : at + 1, 0, [key]);
  } else {
    const other = up ? at - 1 : at + 1;
    if (other >= 0 && other < order.length) [order[at], order[other]] = [order[other], order[at]];
  }
  return numbered(order, given);
}

/** Ties a card with the one above it in the ranking; an unranked one with the last that is ranked. */
export function tied(given, key) {
  const order = groups(given);
  const at = order.findIndex((group) => group.includes(key));
  const above = at < 0 ? order.length - 1 : at - 1;
  if (above < 0) return given;
  if (at >= 0) order[at].splice(order[at].indexOf(key), 1);
  order[above].push(key);
  return numbered(order, given);
}

/** Puts a card between two places: before the cards of ``rank`` or after them; the others make room. */
export function inserted(given, key, rank, after) {
  const rest = { ...given, [key]: null };
  const better = groups(rest).filter((group) => rest[group[0]] < rank || (after && rest[group[0]] === rank));
  return numbered([...better, [key], ...groups(rest).slice(better.length)], given);
}

/** Writes ranks into the selects; a rank that the page does not offer is left out. */
export function write(form, given) {
  for (const card of cards(form)) {
    const wanted = given[card.dataset.key];
    const field = select(card);
    field.value = wanted ? String(wanted) : "";
    if (field.selectedIndex < 0) field.value = "";
  }
}
