"use strict";
/* One key: what is woken, asked once more, and then followed load by load until everything is on.
   Loaded before page.js, whose $, state, text, call and drawing helpers it uses when it is called. */

const WAKE_SHOWN = 5, WAKE_LOADS_SHOWN = 50, WAKE_EVERY_MS = 2000;
const wake = { orders: [], shown: null, key: null, timer: null, cursors: [""] };

const wakeRunning = (one) => one.state === "running";
const wakeRests = (one) => one.suspends_plans && !one.released_at;
const faultName = (fault) => `${fault.code} ${(state.language === "zh" && fault.name_zh) || fault.name}`;
const faultWords = (fault, name) => (state.language === "zh" && fault[`${name}_zh`]) || fault[name];

function wakeTarget(scope, target) {
  const known = { site: state.sites, device: state.devices, loads: state.loads }[scope]?.get(target);
  return `${text(`scope_${scope}`)} ${label(known) || target}`.trim();
}

/* The orders on the overview. */

function wakeRow(one) {
  const opener = element("td", element("button", wakeTarget(one.scope, one.target), "link"));
  opener.firstChild.type = "button";
  const done = badge(text(wakeRunning(one) ? "wakeRunning" : "wakeDone"), wakeRunning(one) ? "warn" : "good");
  return row([
    opener, one.actor, when(one.created_at), `${one.verified} / ${one.loads}`,
    one.failed ? badge(String(one.failed), "bad") : "0", done,
    wakeRests(one) ? badge(text("plansRest"), "warn") : text("plansGoOn"),
  ], one.wake_up_id);
}

async function fetchWakeUps() {
  wake.orders = await items(`wake-ups?limit=${WAKE_SHOWN}`);
  fill("wake-ups", wake.orders.map(wakeRow));
  if ($("wake").open && wake.shown) await showWakeUp(wake.shown);
  clearTimeout(wake.timer);
  const followed = $("wake").open && wake.shown && $("wake-shown").dataset.state === "running";
  if (followed || wake.orders.some(wakeRunning)) wake.timer = setTimeout(() => guard(fetchWakeUps()), WAKE_EVERY_MS);
}

/* One order. */

function wakeLoadRow(one) {
  const fault = element("td", undefined, "wrap");
  if (one.fault) {
    fault.append(badge(faultName(one.fault), one.awake ? "warn" : "bad"), ` ${faultWords(one.fault, "text")}`);
    fault.title = one.reason;
  }
  return row([
    label(state.loads.get(one.load_id)) || one.name || one.load_id, label(state.sites.get(one.site_id)) || one.site_id || "–",
    text(one.state), element("td", String(one.attempts), "number"), fault,
    element("td", one.fault ? faultWords(one.fault, "advice") : "", "wrap"),
  ], one.load_id);
}

async function showWakeUp(id) {
  wake.shown = id;
  const cursor = wake.cursors.at(-1);
  const after = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
  const [one, page] = await Promise.all([
    get(`wake-ups/${id}`), get(`wake-ups/${id}/loads?which=not_awake&limit=${WAKE_LOADS_SHOWN}${after}`)]);
  if (wake.shown !== id) return;
  $("wake-shown").hidden = false;
  $("wake-shown").dataset.state = one.state;
  $("wake-title").textContent = wakeTarget(one.scope, one.target);
  const bar = $("wake-bar");
  [bar.max, bar.value] = [Math.max(one.loads, 1), one.verified];
  $("wake-figures").replaceChildren(...["loads", "commanded", "accepted", "verified", "failed", "held"].flatMap((name) =>
    [element("dt", text(`wake_${name}`)), element("dd", String(one[name]))]));
  fill("wake-faults", one.faults.map(({ fault, loads }) => row([
    badge(faultName(fault), "bad"), element("td", String(loads), "number"), element("td", faultWords(fault, "advice"), "wrap")], fault.code)));
  fill("wake-loads", page.items.map(wakeLoadRow));
  $("wake-back").disabled = wake.cursors.length < 2;
  $("wake-more").disabled = page.next_cursor === null;
  $("wake-more").dataset.cursor = page.next_cursor ?? "";
  $("wake-release").hidden = !wakeRests(one);
}

function followWakeUp(id) {
  wake.cursors = [""];
  wake.shown = id;
  return showWakeUp(id).then(fetchWakeUps);
}

/* Giving the order: said what it means, asked once more, sent once however often the button is pressed. */

async function fillTargets() {
  const scope = $("wake-order").elements.scope.value;
  const target = $("wake-order").elements.target;
  target.disabled = scope === "all";
  target.required = scope !== "all";
  const found = scope === "region" ? await items("regions?limit=200")
    : [...({ site: state.sites, device: state.devices, loads: state.loads }[scope]?.values() ?? [])];
  $("wake-targets").replaceChildren(...found.map((one) => new Option(label(one), one.id)));
  target.value = scope === "site" ? state.site : "";
}

function askWake(asking) {
  $("wake-sure").hidden = !asking;
  for (const field of $("wake-order").querySelectorAll("select, input, #wake-ask")) field.disabled = asking;
  if (asking) return;
  $("wake-order").elements.target.disabled = $("wake-order").elements.scope.value === "all";
}

function wakeBody() {
  const { scope, target, reason } = $("wake-order").elements;
  const body = { scope: scope.value, reason: reason.value };
  if (scope.value === "loads") return { ...body, load_ids: [target.value] };
  return scope.value === "all" ? body : { ...body, target: target.value };
}

async function orderWakeUp() {
  const problem = (message) => { $("wake-problem").textContent = message; };
  problem("");
  $("wake-yes").disabled = true;
  try {
    const order = await call("POST", "wake-ups", wakeBody(), { "Idempotency-Key": wake.key });
    askWake(false);
    if (order.wake_up_id === "unrecorded") problem(text("wakeUnrecorded"));
    else await followWakeUp(order.wake_up_id);
  } catch (refused) {
    problem(refused.message);
  } finally {
    $("wake-yes").disabled = false;
  }
}

function openWake(id) {
  $("wake-problem").textContent = "";
  $("wake-shown").hidden = true;
  wake.shown = null;
  askWake(false);
  if (!$("wake").open) $("wake").showModal();
  guard(id ? followWakeUp(id) : fillTargets());
}

function watchWakeUps() {
  $("wake-open").addEventListener("click", () => openWake(null));
  $("wake-close").addEventListener("click", () => $("wake").close());
  $("wake-ups").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.closest("tr[data-id]")?.dataset.id;
    if (id) openWake(id);
  });
  $("wake-order").elements.scope.addEventListener("change", () => guard(fillTargets()));
  $("wake-order").addEventListener("submit", (event) => {
    event.preventDefault();
    const { scope, target } = $("wake-order").elements;
    wake.key = `page-${[...crypto.getRandomValues(new Uint32Array(4))].join("-")}`;
    $("wake-question").textContent = `${text("wakeSure")} ${wakeTarget(scope.value, target.value)}`;
    askWake(true);
  });
  $("wake-yes").addEventListener("click", () => guard(orderWakeUp()));
  $("wake-no").addEventListener("click", () => askWake(false));
  $("wake-more").addEventListener("click", (event) => { wake.cursors.push(event.target.dataset.cursor); guard(showWakeUp(wake.shown)); });
  $("wake-back").addEventListener("click", () => { wake.cursors.pop(); guard(showWakeUp(wake.shown)); });
  $("wake-release").addEventListener("click", () =>
    guard(call("POST", `wake-ups/${wake.shown}/release`).then(() => followWakeUp(wake.shown))));
}
