"use strict";
/* Who outside is called when something happens: the endpoints, whether calls arrive, a new one, and its secret.
   Loaded before page.js, whose $, text, get and drawing helpers it uses when it is called. */

const DELIVERIES_SHOWN = 50;
/* What can be chosen: services/export/domain/callbacks.py, NewsType. */
const CALLBACK_TYPES = [
  "alarm.begin", "alarm.update", "alarm.end", "diagnosis.begin", "diagnosis.update", "diagnosis.end",
  "command.progress", "command.result", "occurrence.progress", "occurrence.result", "occurrence.overdue",
  "plan.draft", "plan.approved", "plan.active", "plan.ended", "device.status", "readings.batch", "backfill.batch", "intervals.batch", "carbon.result", "report.finished",
  "attestation.head",
];
const callbacks = { known: new Map(), shown: null, cursors: [] };

function callbackMood(one) {
  if (one.state === "active") return one.failures ? "warn" : "good";
  return one.state === "paused" ? "warn" : "bad";
}

function callbackButtons(one) {
  const made = element("div", undefined, "buttons");
  for (const name of ["test", one.state === "active" ? "pause" : "resume", "rotate-secret"]) {
    const button = element("button", text(`callback_${name}`));
    button.type = "button";
    button.dataset.action = name;
    made.append(button);
  }
  return element("td", made);
}

function callbackRow(one) {
  const opener = element("button", one.name, "link");
  opener.type = "button";
  const state_ = element("td", badge(text(`callback_${one.state}`), callbackMood(one)), "wrap");
  const trouble = one.state_reason ?? one.error;
  if (trouble && (one.state !== "active" || one.failures)) state_.append(element("div", trouble, "note"));
  return row([
    element("td", opener), element("td", one.url, "wrap"), element("td", one.types.join(", "), "wrap"), one.owner, state_,
    element("td", String(one.waiting), "number"), callbackButtons(one),
  ], one.id);
}

function deliveryRow(one) {
  const mood = one.state === "delivered" ? "good" : one.state === "given_up" ? "bad" : "warn";
  const answer = [one.status, one.error].filter((each) => each !== null).join(" ");
  return row([
    moment(one.queued_at), one.type, element("td", `${one.resource} #${one.sequence}`, "wrap"), badge(text(`delivery_${one.state}`), mood),
    element("td", String(one.attempts), "number"), element("td", answer, "wrap"),
  ], one.event_id);
}

function sayOfCallbacks(said, problem) {
  $("callbacks-said").textContent = said ?? "";
  $("callbacks-problem").textContent = problem ?? "";
}

async function fetchCallbacks() {
  const found = await get("callbacks");
  callbacks.known = new Map(found.map((one) => [one.id, one]));
  fill("callbacks-list", found.map(callbackRow));
  if (callbacks.shown) await fetchDeliveries();
}

async function fetchDeliveries() {
  const id = callbacks.shown;
  const wanted = new URLSearchParams({ limit: DELIVERIES_SHOWN });
  if (callbacks.cursors.length) wanted.set("cursor", callbacks.cursors.at(-1));
  const page = await get(`callbacks/${encodeURIComponent(id)}/deliveries?${wanted}`);
  if (callbacks.shown !== id) return;
  $("callbacks-log").hidden = false;
  $("callbacks-log-title").textContent = `${callbacks.known.get(id)?.name ?? id} · ${text("deliveries")}`;
  fill("callbacks-deliveries", page.items.map(deliveryRow));
  $("callbacks-more").disabled = page.next_cursor === null;
  $("callbacks-more").dataset.cursor = page.next_cursor ?? "";
  $("callbacks-back").disabled = !callbacks.cursors.length;
}

async function doToCallback(id, action) {
  const body = action === "rotate-secret" ? {} : undefined;
  const found = await call("POST", `callbacks/${encodeURIComponent(id)}/${action}`, body);
  if (action === "test") {
    const answer = [text(`outcome_${found.outcome}`), found.status, found.error].filter((each) => each !== null).join(" ");
    sayOfCallbacks(`${text("callback_test")}: ${answer} (${found.took_s.toFixed(2)} s)`);
  } else if (action === "rotate-secret") {
    sayOfCallbacks(`${text("secretOnce")} ${found.secret} · ${text("oldSecretUntil")} ${moment(found.previous_until)}`);
  } else {
    sayOfCallbacks();
  }
  await fetchCallbacks();
}

/* A list of ids as people type it; nothing typed is no limit. */
const listOf = (typed) => typed.split(/[\s,,、]+/).filter(Boolean);

async function createCallback(form) {
  const body = { name: form.name.value.trim(), url: form.url.value.trim(), only_mine: form.mine.checked };
  body.types = [...form.types.selectedOptions].map((option) => option.value);
  for (const name of ["sites", "points", "kinds"]) {
    const chosen = listOf(form[name].value);
    if (chosen.length) body[name] = chosen;
  }
  const made = await call("POST", "callbacks", body);
  $("callbacks-new").reset();
  sayOfCallbacks(`${text("secretOnce")} ${made.secret}`);
  await fetchCallbacks();
}

/* What is refused is said in the dialog, where the person looks. */
const orSay = (promise) => promise.catch((problem) => sayOfCallbacks("", problem.message));

function watchCallbacks() {
  const form = $("callbacks-new");
  form.elements.types.append(...CALLBACK_TYPES.map((name) => new Option(name, name)));
  $("callbacks-open").addEventListener("click", () => {
    [callbacks.shown, callbacks.cursors] = [null, []];
    $("callbacks-log").hidden = true;
    sayOfCallbacks();
    if (!$("callbacks").open) $("callbacks").showModal();
    orSay(fetchCallbacks());
  });
  $("callbacks-close").addEventListener("click", () => { sayOfCallbacks(); $("callbacks").close(); });
  $("callbacks-list").addEventListener("click", (event) => {
    const [button, id] = [event.target.closest("button"), event.target.closest("tr[data-id]")?.dataset.id];
    if (!button || !id) return;
    if (button.dataset.action) {
      orSay(doToCallback(id, button.dataset.action));
    } else {
      [callbacks.shown, callbacks.cursors] = [id, []];
      orSay(fetchDeliveries());
    }
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); orSay(createCallback(form.elements)); });
  $("callbacks-more").addEventListener("click", (event) => { callbacks.cursors.push(event.target.dataset.cursor); orSay(fetchDeliveries()); });
  $("callbacks-back").addEventListener("click", () => { callbacks.cursors.pop(); orSay(fetchDeliveries()); });
}
