"use strict";
/* Plans of both kinds: what each means and amounts to, putting it into force, ending it; and what a savings plan would
   have switched and saved in the last week, by one click on its name among the shutdowns.
   Loaded before page.js, whose $, state, text, get and drawing helpers it uses when it is called. */

const shareOf = (covered) => (covered === null ? "–" : `${Math.round(covered * 100)} %`);
const planLink = (id) => {
  const button = element("button", state.plans.get(id)?.name ?? id, "link");
  button.type = "button";
  button.dataset.plan = id;
  return element("td", button, "wrap");
};

function simulatedRow(name, total, id) {
  const why = element("td", undefined, "wrap");
  for (const one of total.skipped) {
    why.append(element("div", `${one.count} × ${said(one)}`));
  }
  return row([
    name, `${total.switched} / ${total.count}`, number(total.hours_off, 1), number(total.saved_kwh, 2),
    element("td", shareOf(total.covered), "number"), why,
  ], id);
}

async function showSimulation(id) {
  const found = await get(`plans/${encodeURIComponent(id)}/simulation`);
  $("simulation-title").textContent = `${state.plans.get(id)?.name ?? id} · ${text("simulation")}`;
  const loads = found.loads.map((one) => simulatedRow(one.name, one, one.load_id));
  fill("simulation-loads", [...loads, simulatedRow(text("together"), found, "together")]);
  $("simulation-note").textContent = `${text("notReplayed")} ${found.not_replayed.join(", ")}`;
}

/* The list. */

const PLANS_SHOWN = 100, TARGETS_SHOWN = 500;
const SAVINGS = "plans", SETPOINTS = "plans/setpoints";
const SETPOINT_SCHEDULE = [
  "point", "value", "value_after", "first_date", "last_date", "windows", "zone", "weekdays", "exceptions", "calendar_ids", "day_class",
  "working_calendar",
];
const plans = { shown: null };
const planMood = { draft: "warn", approved: "good", active: "good", ended: "" };

function planWhat(kind, one) {
  if (kind === SAVINGS) return `${text("planOff")} · ${text("planLoads")} ${one.load_count}`;
  return `${text(one.point)} ${one.value} / ${one.value_after} · ${text("planDevices")} ${one.device_ids.length}`;
}

function planTimes(one) {
  const windows = one.windows.map(({ start, end }) => `${start}–${end}`).join(", ");
  return `${one.first_date} – ${one.last_date} · ${windows} · ${one.zone}`;
}

function planRow(kind, one) {
  const opener = element("td", element("button", one.name, "link"), "wrap");
  Object.assign(opener.firstChild, { type: "button" }).dataset.kind = kind;
  return row([
    opener, element("td", planWhat(kind, one), "wrap"), element("td", planTimes(one), "wrap"),
    badge(text(`plan_${one.state}`), planMood[one.state]), one.created_by, one.approved_by ?? "–",
  ], one.plan_id);
}

async function fetchPlans() {
  const [savings, setpoints] = await Promise.all([
    get(`${SAVINGS}?loads=false&limit=${PLANS_SHOWN}`), get(`${SETPOINTS}?limit=${PLANS_SHOWN}`)]);
  const found = [...savings.items.map((one) => [SAVINGS, one]), ...setpoints.items.map((one) => [SETPOINTS, one])];
  fill("plans-list", found.sort(([, a], [, b]) => b.created_at.localeCompare(a.created_at)).map(([kind, one]) => planRow(kind, one)));
  $("plans-more").hidden = savings.next_cursor === null && setpoints.next_cursor === null;
}

/* One plan: what it amounts to, before anybody puts it into force. */

function planNotes(found) {
  const overlaps = (found.overlaps ?? []).map((one) =>
    `${text(`plan_${one.outcome}`)} ${one.name}: ${text("planWindows")} ${one.windows}, ${text("planLoads")} ${one.load_count}`);
  const stays = (found.stays_on ?? []).map((one) => `${label(state.loads.get(one.load_id)) || one.load_id}: ${said(one)}`);
  const second = found.second_person_for ? [`${text("planSecond")} ${said(found.second_person_for)}`] : [];
  const rival = found.forbidden_by ? [`${text("planRival")} ${found.forbidden_by.name}`] : [];
  return [...second, ...rival, ...overlaps, ...stays];
}

/* Which loads or devices it means, by name; of very many the first. */
function showTargets(kind, one) {
  const ids = kind === SAVINGS ? one.load_ids : one.device_ids;
  const known = kind === SAVINGS ? state.loads : state.devices;
  $("plan-targets").querySelector("summary").textContent = planWhat(kind, one);
  const more = ids.length > TARGETS_SHOWN ? ` … (${ids.length})` : "";
  $("plan-names").textContent = ids.slice(0, TARGETS_SHOWN).map((id) => label(known.get(id)) || id).join(", ") + more;
}

function planWindow(one) {
  return row([
    moment(one.off_at ?? one.begin_at), moment(one.on_at ?? one.end_at),
    one.state ? badge(text(`window_${one.state}`), one.state === "skipped" ? "bad" : "good") : "–",
    element("td", one.set_in ? `${text("planDevices")} ${one.set_in.length} ${one.reason}` : "", "wrap"),
  ]);
}

/* What there is to show of a plan: the preview of one that may still be approved, else its windows as they are. */
async function planContent(kind, one) {
  if (kind === SAVINGS) return one.preview;
  if (one.state !== "draft") return { windows: await items(`${SETPOINTS}/${one.plan_id}/windows?limit=100`) };
  const schedule = Object.fromEntries(SETPOINT_SCHEDULE.map((name) => [name, one[name]]));
  return call("POST", `${SETPOINTS}/preview`, { ...one.target, ...schedule });
}

async function showPlan(kind, id) {
  plans.shown = { kind, id };
  $("plans-problem").textContent = "";
  const one = await get(`${kind}/${encodeURIComponent(id)}`);
  const found = await planContent(kind, one).catch((refused) => {
    $("plans-problem").textContent = refused.message;
    return { windows: [] };
  });
  if (plans.shown?.id !== id) return;
  $("plan-shown").hidden = false;
  $("plan-title").textContent = `${one.name} · ${text(`plan_${one.state}`)}`;
  const people = [["created_by", "created_at"], ["approved_by", "approved_at"], ["ended_by", "ended_at"]].flatMap(([who, at]) =>
    (one[at] === null ? [] : [`${text(`plan_${who}`)} ${one[who] ?? "–"} ${moment(one[at])}`]));
  const why = one.end_reason ? [one.end_reason] : [];
  const count = found.count === undefined ? [] : [`${text("planWindows")} ${found.count}`];
  $("plan-figures").textContent = [planTimes(one), ...count, ...people, ...why].join(" · ");
  showTargets(kind, one);
  $("plan-notes").replaceChildren(...planNotes(found).map((words) => element("li", words)));
  fill("plan-windows", found.windows.map(planWindow));
  $("plan-approve").hidden = one.state !== "draft";
  $("plan-end").hidden = one.state === "ended";
}

async function actOnPlan(action, body) {
  const { kind, id } = plans.shown;
  try {
    await call("POST", `${kind}/${encodeURIComponent(id)}/${action}`, body);
  } catch (refused) {
    $("plans-problem").textContent = refused.message;
    return;
  }
  $("plan-end").reset();
  await Promise.all([showPlan(kind, id), fetchPlans(), fetchShutdowns()]);
}

function watchPlanBook() {
  const dialog = $("plans");
  $("plans-open").addEventListener("click", () => {
    plans.shown = null;
    $("plan-shown").hidden = true;
    $("plans-problem").textContent = "";
    if (!dialog.open) dialog.showModal();
    guard(fetchPlans());
  });
  $("plans-close").addEventListener("click", () => dialog.close());
  $("plans-list").addEventListener("click", (event) => {
    const opener = event.target.closest("button.link");
    if (opener) guard(showPlan(opener.dataset.kind, opener.closest("tr[data-id]").dataset.id));
  });
  $("plan-approve").addEventListener("click", () => guard(actOnPlan("approve")));
  $("plan-end").addEventListener("submit", (event) => {
    event.preventDefault();
    guard(actOnPlan("end", { reason: event.target.elements.reason.value }));
  });
}

function watchPlans() {
  const dialog = $("simulation");
  $("occurrences").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.dataset.plan;
    if (id) guard(showSimulation(id).then(() => { if (!dialog.open) dialog.showModal(); }));
  });
  $("simulation-close").addEventListener("click", () => dialog.close());
  watchPlanBook();
}
