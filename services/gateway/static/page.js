"use strict";
/* The overview page: one picture of everything, fetched once and then kept up by live push.
   It shows what is and takes alarms up; the console for all other work is another page. */

const $ = (id) => document.getElementById(id);
const state = {
  language: localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en"),
  site: "", sites: new Map(), devices: new Map(), loads: new Map(), plans: new Map(), readings: new Map(),
  alarms: new Map(), moreAlarms: false, occurrences: new Map(), commands: new Map(), source: null, timers: [],
};
const text = (key) => TEXTS[state.language][key] ?? key;
const label = (thing) => (state.language === "zh" && thing?.name_zh) || thing?.name || thing?.id || "";
const said = (one) => (state.language === "zh" && one.message_zh) || one.message;

/* Talking to the API. */

class Refused extends Error {
  constructor(status, problem) {
    super((state.language === "zh" && problem.detail_zh) || problem.detail || String(status));
    this.status = status;
  }
}

async function call(method, path, body, more = {}) {
  const answer = await fetch(`/api/v1/${path}`, {
    method, headers: { ...(body ? { "content-type": "application/json" } : {}), ...more }, body: body ? JSON.stringify(body) : undefined,
  });
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
  return answer.status === 204 ? null : answer.json();
}
const get = (path) => call("GET", path);
const items = async (path) => (await get(path)).items;

/* Drawing. */

function element(tag, content, className) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content instanceof Node) made.append(content);
  else if (content !== undefined && content !== null) made.textContent = content;
  return made;
}

function row(cells, id) {
  const made = element("tr");
  if (id) made.dataset.id = id;
  for (const cell of cells) made.append(cell instanceof Node && cell.tagName === "TD" ? cell : element("td", cell));
  return made;
}

const number = (value, digits) => element("td", value === null || value === undefined ? "–" : value.toFixed(digits), "number");
/* Civil time is that of the sites, whatever zone the browser is in. */
const ZONE = { timeZone: "Asia/Shanghai", hour12: false };
const clock = (time) => (time ? new Date(time).toLocaleTimeString("zh-CN", ZONE) : "–");
const badge = (content, mood) => element("span", content, `badge ${mood}`);

function fill(id, rows) {
  const body = $(id).tBodies[0];
  if (!rows.length) {
    const empty = element("td", text("nothing"), "note");
    empty.colSpan = $(id).tHead.rows[0].cells.length;
    rows = [row([empty])];
  }
  body.replaceChildren(...rows);
}

const VALUE_NAMES = ["voltage_a", "voltage_b", "voltage_c"];
const CURRENT_NAMES = ["current_a", "current_b", "current_c"];

function several(reading, names, digits) {
  const cell = element("td", undefined, "number");
  const parts = names.filter((name) => name in reading.points).map((name) => {
    const quality = reading.quality?.[name];
    const value = reading.points[name];
    const part = element("span", value === null || value === undefined ? "–" : value.toFixed(digits), quality ? "warn" : "");
    if (quality) part.title = `${text("quality")}: ${quality}`;
    return part;
  });
  parts.forEach((part, i) => cell.append(...(i ? [" / ", part] : [part])));
  if (!parts.length) cell.textContent = "–";
  return cell;
}

function meterRow(device) {
  const reading = state.readings.get(device.id);
  const name = element("td", element("button", label(device), "link"));
  name.firstChild.type = "button";
  if (!reading) return row([name, text(device.kind), "–", "–", "–", "–", "–", "–"], device.id);
  const { points } = reading;
  const other = element("td");
  if (points.breaker_state !== undefined && points.breaker_state !== null) {
    other.append(badge(text(points.breaker_state ? "closed" : "open"), points.breaker_state ? "good" : "bad"));
  }
  if (points.temperature !== undefined) other.append(`${points.temperature?.toFixed(1) ?? "–"} °C `);
  if (points.humidity !== undefined) other.append(`${points.humidity?.toFixed(0) ?? "–"} %`);
  const power = points.active_power_total ?? points.active_power_a;
  return row([
    name, text(device.kind), several(reading, VALUE_NAMES, 1), several(reading, CURRENT_NAMES, 2),
    number(power, 3), number(points.energy_active_import, 2), other, clock(reading.source_time),
  ], device.id);
}

function drawMeters() {
  fill("meters", [...state.devices.values()].filter((device) => device.profile).map(meterRow));
}

function drawShutdowns() {
  const occurrences = [...state.occurrences.values()].sort((a, b) => b.off_at.localeCompare(a.off_at)).slice(0, 12);
  fill("occurrences", occurrences.map((one) => row([
    label(state.loads.get(one.load_id)) || one.load_id, planLink(one.plan_id),
    `${clock(one.off_at)}${one.went_off_at ? ` → ${clock(one.went_off_at)}` : ""}`,
    `${clock(one.on_at)}${one.came_on_at ? ` → ${clock(one.came_on_at)}` : ""}`,
    badge(text(one.state), one.state === "awake" ? "good" : ["overdue"].includes(one.state) ? "bad" : "warn"),
  ], one.occurrence_id)));
  const commands = [...state.commands.values()].sort((a, b) => b.created_at.localeCompare(a.created_at)).slice(0, 12);
  fill("commands", commands.map((one) => {
    const evidence = one.evidence ?? {};
    const proof = evidence.feedback_value === undefined || evidence.feedback_value === null
      ? "–" : `${text(evidence.feedback_point)} = ${evidence.feedback_value} (${clock(evidence.feedback_at)})`;
    const mood = one.state === "succeeded" ? "good" : ["failed", "rejected", "expired"].includes(one.state) ? "bad" : "warn";
    const end = element("td", badge(text(one.state), mood), "wrap");
    if (one.fault) {
      const zh = state.language === "zh" ? "_zh" : "";
      end.append(element("div", `${one.fault.code} ${one.fault[`text${zh}`]}`, "note"));
      end.title = one.fault[`advice${zh}`];
    }
    return row([
      text(one.action), label(state.devices.get(one.device_id)) || one.device_id, clock(one.sent_at ?? one.created_at),
      end, proof, number(evidence.meter_power_kw, 3),
    ], one.command_id);
  }));
}

function drawEnergy(reply) {
  const largest = Math.max(...reply.periods.map((period) => period.energy_kwh ?? 0), 0.001);
  fill("energy", reply.periods.slice().reverse().map((period) => {
    const bar = element("span", undefined, period.provisional ? "bar provisional" : "bar");
    bar.style.width = `${(8 * (period.energy_kwh ?? 0)) / largest}rem`;
    const start = new Date(period.start);
    const hour = start.toLocaleString("zh-CN", { ...ZONE, month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit" });
    return row([
      hour, bar, number(period.energy_kwh, 2), number(period.emission_kg_co2, 2),
      number(period.interval_completeness === null ? null : period.interval_completeness * 100, 0),
      period.provisional ? badge(text("provisional"), "warn") : "",
    ], period.start);
  }));
  const factor = reply.factors[0];
  $("factor").textContent = factor
    ? `${text("factor")} ${factor.factor_id}: ${factor.value} ${factor.unit}, ${text("factorOf")} ${factor.data_year}`
      + `${factor.provisional ? ` (${text("factorStandsIn")} ${factor.data_year})` : ""}. ${factor.source}`
    : "";
}

function note(kind, content) {
  const line = element("li");
  line.append(element("time", clock(Date.now())), badge(kind, "good"), ` ${content}`);
  $("events").prepend(line);
  while ($("events").children.length > 100) $("events").lastChild.remove();
}

/* Fetching. */

async function fetchMasterData() {
  const sites = await items("sites?limit=200");
  if (!sites.length) return false;
  state.sites = new Map(sites.map((site) => [site.id, site]));
  const remembered = localStorage.getItem("site");
  state.site = state.sites.has(remembered) ? remembered : "";
  drawSites();
  return true;
}

function drawSites() {
  const select = $("site");
  const options = [...state.sites.values()].map((site) => new Option(label(site), site.id));
  select.replaceChildren(new Option(text("allSites"), ""), ...options);
  select.value = state.site;
  select.hidden = false;
}

const here = (siteId) => !state.site || siteId === state.site;
const ofSite = () => (state.site ? `site=${encodeURIComponent(state.site)}&` : "");

async function fetchPlanNames() {
  state.plans = new Map((await items("plans?loads=false&limit=100")).map((plan) => [plan.plan_id, plan]));
}

async function fetchSite() {
  const of = ofSite();
  const [devices, loads] = await Promise.all([
    items(`devices?${of}limit=200`), items(`loads?${of}limit=200`), fetchPlanNames()]);
  state.devices = new Map(devices.map((device) => [device.id, device]));
  state.loads = new Map(loads.map((load) => [load.id, load]));
  state.readings = new Map((await items(`readings/latest?${of}limit=200`)).map((reading) => [reading.device_id, reading]));
  drawMeters();
}

const fetchShutdowns = async () => {
  const since = new Date(Date.now() - 12 * 3600e3).toISOString();
  const occurrences = await items(`occurrences?${ofSite()}from=${since}&limit=200`);
  const commands = await items(`commands?${ofSite()}limit=12`);
  const details = await Promise.all(commands.map((one) => get(`commands/${one.command_id}`)));
  if (occurrences.some((one) => !state.plans.has(one.plan_id))) await fetchPlanNames();
  state.occurrences = new Map(occurrences.map((one) => [one.occurrence_id, one]));
  state.commands = new Map(details.map((one) => [one.command_id, { ...one, evidence: lastEvidence(one) }]));
  drawShutdowns();
};

function lastEvidence(command) {
  return Object.assign({}, ...command.history.map((step) =>
    Object.fromEntries(Object.entries(step.evidence ?? {}).filter(([, value]) => value !== null))));
}

const fetchEnergy = async () => {
  const now = Date.now();
  const from = new Date(Math.floor(now / 3600e3) * 3600e3 - 11 * 3600e3).toISOString();
  const span = `from=${from}&to=${new Date(now).toISOString()}&step=hour`;
  for (const site of state.site ? [state.site] : [...state.sites.keys()].reverse()) {
    try {
      drawEnergy(await get(`emissions?site=${encodeURIComponent(site)}&${span}`));
      $("energy-site").textContent = label(state.sites.get(site));
      return;
    } catch (problem) {
      if (problem.status !== 404 || state.site === site) throw problem; // a site without a metered feed
    }
  }
};

/* Many events of one kind within a moment cost one fetch. */
function soon(job, delay) {
  let timer = null;
  return () => { timer ??= setTimeout(() => { timer = null; guard(job()); }, delay); };
}
const alarmsSoon = soon(fetchAlarms, 300);
const faultsSoon = soon(fetchFaults, 300);
const shutdownsSoon = soon(fetchShutdowns, 300);
const wakeUpsSoon = soon(fetchWakeUps, 500);
const ordersSoon = soon(fetchOrders, 500);
const energySoon = soon(fetchEnergy, 1500);
const metersSoon = soon(async () => drawMeters(), 200);

function guard(promise) {
  promise.then(() => { $("notice").textContent = ""; }, (problem) => {
    if (problem.status === 401) showDoor(problem.message);
    else $("notice").textContent = problem.message;
  });
}

/* Live push. */

function listen() {
  state.source?.close();
  const source = new EventSource("/api/v1/live");
  state.source = source;
  const on = (name, handle) => source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  source.onopen = () => { link(true); refreshAll(); };
  source.onerror = () => link(false);
  on("telemetry.readings", (reading) => {
    if (!here(reading.site_id)) return;
    const known = state.readings.get(reading.device_id);
    if (known && known.source_time > reading.source_time) return;
    state.readings.set(reading.device_id, { ...reading, quality: reading.quality ?? {} });
    metersSoon();
  });
  on("alarm.events", (event) => {
    if (!here(event.site_id)) return;
    note("alarm", `${event.phase} ${event.signal} ${label(state.devices.get(event.device_id))}`);
    alarmsSoon();
  });
  on("fault.diagnoses", (event) => {
    if (!here(event.site_id)) return;
    note("fault", `${text(`phase_${event.phase}`)} ${event.code} ${label(state.devices.get(event.device_id)) || event.device_id}`);
    faultsSoon();
  });
  on("delivery.events", (event) => { note("sc", `${event.item} ${event.state}`); alarmsSoon(); });
  on("control.events", (event) => {
    if (!here(event.site_id)) return;
    note("control", `${label(state.loads.get(event.load_id)) || event.load_id || ""} ${text(event.state)} ${event.reason ?? ""}`);
    shutdownsSoon();
    wakeUpsSoon();
    ordersSoon();
  });
  on("carbon.intervals", (event) => { if (here(event.site_id)) energySoon(); });
  on("lost", (event) => note("page", `${text("lost")} ${event.events}`));
}

function link(up) {
  const sign = $("link");
  sign.hidden = false;
  sign.textContent = text(up ? "connected" : "waiting");
  sign.className = `badge ${up ? "good" : "warn"}`;
}

function refreshAll() {
  guard((async () => {
    await fetchSite();
    await Promise.all([fetchAlarms(), fetchFaults(), fetchShutdowns(), fetchWakeUps(), fetchOrders(), fetchEnergy()]);
  })());
}

/* Pages. */

function translate() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  $("language").textContent = text("language");
}

/* Buttons for whoever has signed in. */
const SIGNED_IN = ["wake-open", "plans-open", "audit-open", "callbacks-open", "feeds-open", "sign-out"];

function showDoor(problem) {
  state.source?.close();
  state.timers.forEach(clearInterval);
  $("overview").hidden = true;
  for (const id of ["site", "link", ...SIGNED_IN]) $(id).hidden = true;
  clearTimeout(wake.timer);
  $("door").hidden = false;
  $("sign-in").querySelector(".problem").textContent = problem ?? "";
}

async function showOverview() {
  $("door").hidden = true;
  $("overview").hidden = false;
  for (const id of SIGNED_IN) $(id).hidden = false;
  while (!(await fetchMasterData())) {
    $("notice").textContent = text("nothing");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  $("notice").textContent = "";
  listen();
  state.timers = [setInterval(() => guard(fetchEnergy()), 30e3), setInterval(() => guard(fetchShutdowns().then(fetchOrders)), 10e3)];
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  try {
    await call("POST", "auth/sign-in", { name: form.get("name"), password: form.get("password") });
    event.target.reset();
    await showOverview();
  } catch (problem) {
    showDoor(problem.message);
  }
});
$("sign-out").addEventListener("click", async () => { await call("POST", "auth/sign-out"); showDoor(); });
$("language").addEventListener("click", () => {
  state.language = state.language === "zh" ? "en" : "zh";
  localStorage.setItem("language", state.language);
  translate();
  if (!$("overview").hidden) { drawSites(); refreshAll(); }
});
$("site").addEventListener("change", (event) => {
  state.site = event.target.value;
  localStorage.setItem("site", state.site);
  refreshAll();
});

watchOrders();
watchAlarms();
watchRules();
watchWakeUps();
watchPlans();
watchAudit();
watchCallbacks();
watchFeeds();
translate();
get("auth/me").then(showOverview, () => showDoor());
