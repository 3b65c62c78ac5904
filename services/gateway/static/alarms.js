"use strict";
/* The alarms of the overview page, and one of them in full: what it did, who was told, and what a person does about it.
   Loaded before page.js, whose $, state, text, call and drawing helpers it uses when it is called. */

const INHIBITED = { window: "byWindow", shelf: "byShelf", alarm: "byAlarm", occurrence: "byPlan", command: "byCommand" };
const SENT = ["delivered", "acknowledged"];
const ACTIVE_SHOWN = 100, RECENT_SHOWN = 30;

const alarmName = (alarm) => (state.language === "zh" && alarm.signal_name_zh) || alarm.signal_name || alarm.signal;
const alarmDevice = (alarm) => label(state.devices.get(alarm.device_id)) || alarm.device_id || alarm.subject || "–";
const moment = (time) => (time ? new Date(time).toLocaleString("zh-CN", ZONE) : "–");
const today = (time) => moment(time).split(" ")[0] === moment(Date.now()).split(" ")[0];
const when = (time) => (time && !today(time) ? moment(time) : clock(time));

function explained(by) {
  const [kind, ...id] = by.split(":");
  const mark = badge(`${text("inhibited")}: ${text(INHIBITED[kind] ?? kind)}`, "warn");
  mark.title = id.join(":");
  return mark;
}

function delivery(one) {
  const sent = SENT.includes(one.state);
  const mark = badge(`${text(one.item_kind ?? "")} ${sent ? text("sent") : text(one.state)} ${clock(one.at)}`, sent ? "good" : "warn");
  mark.title = `${one.destination} ${one.item} ${one.error ?? ""}`;
  return mark;
}

function alarmRow(alarm) {
  const over = alarm.state === "ended";
  const status = element("td", badge(text(over ? "over" : "active"), over ? "good" : "bad"));
  if (alarm.inhibited_by) status.append(" ", explained(alarm.inhibited_by));
  if (alarm.flapping) status.append(" ", badge(text("flapping"), "warn"));
  const signal = element("td", element("button", alarmName(alarm), "link"));
  signal.firstChild.type = "button";
  if (alarm.value !== null && alarm.value !== undefined) {
    signal.append(element("small", ` ${alarm.point} ${alarm.value.toFixed(1)} ${alarm.unit ?? ""}`));
  }
  const deliveries = element("td");
  for (const one of alarm.deliveries ?? []) deliveries.append(delivery(one), " ");
  const hands = [alarm.acknowledged_by, alarm.assigned_to && `→ ${alarm.assigned_to}`].filter(Boolean).join(" ");
  return row([status, String(alarm.level), signal, alarmDevice(alarm), when(alarm.began_at), when(alarm.ended_at), hands || "–",
    deliveries], alarm.alarm_id);
}

/* What is active comes first, so that no old alarm that still lasts falls off the end of the page. */
function drawAlarms() {
  const over = (alarm) => Number(alarm.state === "ended");
  const sorted = [...state.alarms.values()].sort((a, b) => over(a) - over(b) || b.began_at.localeCompare(a.began_at));
  fill("alarms", sorted.map(alarmRow));
  $("alarms-more").textContent = state.moreAlarms ? text("moreAlarms") : "";
}

async function fetchAlarms() {
  const [active, recent] = await Promise.all([
    get(`alarms?${ofSite()}state=active&limit=${ACTIVE_SHOWN}`), items(`alarms?${ofSite()}state=ended&limit=${RECENT_SHOWN}`)]);
  state.moreAlarms = active.next_cursor !== null;
  state.alarms = new Map([...active.items, ...recent].map((alarm) => [alarm.alarm_id, alarm]));
  drawAlarms();
  if ($("alarm").open) await showAlarm($("alarm").dataset.id);
}

/* One alarm. */

function fact(key, value) {
  return value === null || value === undefined || value === "" ? [] : [element("dt", text(key)), element("dd", value)];
}

function drawAlarm(alarm, told) {
  $("alarm-title").textContent = `${alarmName(alarm)} · ${alarmDevice(alarm)}`;
  const measured = alarm.value === null ? null
    : `${alarm.point} ${alarm.value} ${alarm.unit ?? ""}${alarm.threshold === null ? "" : ` (${text("threshold")} ${alarm.threshold})`}`;
  $("alarm-facts").replaceChildren(...[
    fact("state", text(alarm.state === "ended" ? "over" : "active")), fact("level", String(alarm.level)),
    fact("site", label(state.sites.get(alarm.site_id)) || alarm.site_id), fact("value", measured),
    fact("detail", (state.language === "zh" && alarm.detail_zh) || alarm.detail),
    fact("inhibited", alarm.inhibited_by && explained(alarm.inhibited_by)), fact("endReason", alarm.end_reason && text(alarm.end_reason)),
    fact("acknowledged", alarm.acknowledged_at && `${alarm.acknowledged_by} ${moment(alarm.acknowledged_at)}`),
    fact("assigned", alarm.assigned_to), fact("shelved", alarm.shelved_until && `${alarm.shelved_by} → ${moment(alarm.shelved_until)}`),
    fact("reportState", alarm.reports.map((one) => `${one.destination}: ${text(`report_${one.state}`)} `
      + [one.begin_reported_at, one.end_reported_at].map(moment).join(" … ")).join("; ") || text("report_none")),
    fact("diagnosis", `${text(`diagnosis_${alarm.diagnosis.state}`)} ${alarm.diagnosis.cause ?? ""}`),
  ].flat());
  const line = (time, content) => { const made = element("li"); made.append(element("time", moment(time)), content); return made; };
  const course = [
    ...alarm.events.map((one) => [one.raised_at ?? one.began_at,
      `${text(`phase_${one.phase}`)} · ${text("level")} ${one.level}${one.inhibited_by ? ` · ${one.inhibited_by}` : ""}`]),
    ...alarm.notes.map((one) => [one.at, `${one.actor}: ${one.note}`]),
  ].sort(([a], [b]) => Date.parse(a) - Date.parse(b));
  $("alarm-course").replaceChildren(...course.map(([time, content]) => line(time, content)));
  const reached = [
    ...alarm.deliveries.map((one) => line(one.at, `${one.destination}: ${text(one.item_kind ?? "")} ${text(one.state)}`
      + ` (${one.attempts}) ${one.error ?? ""}`)),
    ...told.map((one) => line(one.created_at, `${one.channel_id}: ${text(one.kind)} ${text(`told_${one.state}`)} `
      + `${(state.language === "zh" && one.error_zh) || one.error || ""}`)),
  ];
  $("alarm-told").replaceChildren(...(reached.length ? reached : [element("li", text("nobody"), "note")]));
  for (const button of $("alarm-do").querySelectorAll("button")) {
    const action = button.value;
    button.disabled = (alarm.state === "ended" && ["clear", "shelve"].includes(action))
      || (action === "unshelve" && !alarm.shelved_until);
  }
}

async function showAlarm(id) {
  const [alarm, told] = await Promise.all([get(`alarms/${id}`), items(`notifications?alarm=${id}&limit=50`)]);
  if ($("alarm").dataset.id === id) drawAlarm(alarm, told);
}

const ACTIONS = {
  acknowledge: (path, { words }) => call("POST", `${path}/acknowledge`, { note: words || null }),
  note: (path, { words }) => call("POST", `${path}/notes`, { note: words }),
  assign: (path, { words, to }) => call("POST", `${path}/assign`, { to: to || null, note: words || null }),
  shelve: (path, { words, hours }) => call("POST", `${path}/shelve`,
    { until: new Date(Date.now() + Number(hours) * 3600e3).toISOString(), reason: words }),
  unshelve: (path) => call("DELETE", `${path}/shelf`),
  clear: (path, { words }) => call("POST", `${path}/clear`, { reason: words }),
};
const WANT_WORDS = ["note", "shelve", "clear"];

async function actOnAlarm(action, form) {
  const said = Object.fromEntries(new FormData(form));
  const problem = (message) => { $("alarm-problem").textContent = message; };
  problem("");
  if (WANT_WORDS.includes(action) && !said.words.trim()) return problem(text("wordsWanted"));
  try {
    await ACTIONS[action](`alarms/${$("alarm").dataset.id}`, said);
    form.reset();
    await fetchAlarms();
  } catch (refused) {
    problem(refused.message);
  }
}

function watchAlarms() {
  const dialog = $("alarm");
  $("alarms").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.closest("tr[data-id]")?.dataset.id;
    if (!id) return;
    dialog.dataset.id = id;
    $("alarm-do").reset();
    $("alarm-problem").textContent = "";
    guard(showAlarm(id).then(() => { if (!dialog.open) dialog.showModal(); }));
  });
  $("alarm-close").addEventListener("click", () => dialog.close());
  $("alarm-do").addEventListener("submit", (event) => {
    event.preventDefault();
    actOnAlarm(event.submitter.value, event.target);
  });
}
