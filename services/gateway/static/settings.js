"use strict";
/* What was set in many devices with one order, how far it is, and which devices were refused and why.
   Loaded before page.js, whose $, state, text, get and drawing helpers it uses when it is called. */

const ORDERS_SHOWN = 6;
const orders = { shown: null };
const orderBad = ["failed", "rejected", "expired"];
const orderMood = (one) => (one.state === "succeeded" ? "good" : orderBad.includes(one.state) ? "bad" : "warn");

function orderName(one) {
  const what = text(one.action);
  return one.point === null ? what : `${what}: ${text(one.point)} = ${one.value}`;
}

function orderTarget(target) {
  const place = target.site_id ? label(state.sites.get(target.site_id)) || target.site_id
    : target.region_id ?? target.tag ?? (target.device_ids ?? []).map((id) => label(state.devices.get(id)) || id).join(", ");
  return [place, target.kind, target.profile].filter(Boolean).join(" · ");
}

function orderRow(one) {
  const opener = element("button", orderName(one), "link");
  opener.type = "button";
  return row([
    element("td", opener), element("td", orderTarget(one.target), "wrap"), one.actor, when(one.created_at),
    element("td", `${one.progress.succeeded} / ${one.progress.total}`, "number"),
    one.progress.refused ? badge(String(one.progress.refused), "bad") : "0", badge(text(one.state), orderMood(one)),
  ], one.group_id);
}

async function fetchOrders() {
  fill("orders", (await items(`commands/settings/groups?limit=${ORDERS_SHOWN}`)).map(orderRow));
  if ($("order").open && orders.shown) await showOrder(orders.shown);
}

async function showOrder(id) {
  orders.shown = id;
  const one = await get(`commands/settings/groups/${encodeURIComponent(id)}`);
  if (orders.shown !== id) return;
  $("order-title").textContent = `${orderName(one)} · ${orderTarget(one.target)}`;
  const bar = $("order-bar");
  [bar.max, bar.value] = [Math.max(one.progress.total, 1), one.progress.done];
  const states = Object.entries(one.progress.by_state).map(([name, count]) => `${text(name)} ${count}`);
  const expected = one.expected_by === null ? [] : [`${text("expectedBy")} ${clock(one.expected_by)}`];
  $("order-figures").textContent = [`${one.progress.done} / ${one.progress.total}`, ...states, ...expected].join(" · ");
  const refused = one.refused.map((found) => row([
    label(state.devices.get(found.device_id)) || found.device_id, badge(text("refused"), "bad"), "–",
    element("td", said(found), "wrap"),
  ], found.device_id));
  fill("order-devices", [...refused, ...one.settings.map((found) => row([
    label(state.devices.get(found.device_id)) || found.device_id, badge(text(found.state), orderMood(found)),
    number(found.found, 1), element("td", found.reason, "wrap"),
  ], found.device_id))]);
}

function watchOrders() {
  const dialog = $("order");
  $("orders").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.closest("tr[data-id]")?.dataset.id;
    if (id) guard(showOrder(id).then(() => { if (!dialog.open) dialog.showModal(); }));
  });
  $("order-close").addEventListener("click", () => dialog.close());
}
