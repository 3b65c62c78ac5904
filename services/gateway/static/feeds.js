"use strict";
/* Who outside is sent readings: feeds and their destinations, whether batches arrive, what a day has on both sides, and new ones.
   Loaded before page.js, whose $, text, get and drawing helpers it uses when it is called; listOf is of callbacks.js. */

const BATCHES_SHOWN = 50;
const HASH_SHOWN = 16;
/* What a destination's address wants, to begin with: services/export/connectors. */
const FEED_ADDRESSES = {
  http: { url: "https://", auth: "bearer" },
  mqtt: { host: "", port: 8883, tls: true, topic: "wattring/{site_id}/{device_id}" },
  kafka: { bootstrap: [":9092"], topic: "", key: "device_id", tls: true },
  postgresql: { host: "", port: 5432, database: "", user: "", table: "readings", batches: "batches", tls: true },
  file: { url: "sftp://", host_key: "", name: "{feed}-{batch}" },
};
const feeds = { known: new Map(), destinations: new Map(), shown: null, before: [] };

const yesterday = () => new Date(Date.now() - 864e5).toLocaleDateString("sv", { timeZone: "Asia/Shanghai" });
const placeOf = (address) => address.url ?? address.host ?? (address.bootstrap ?? []).join(", ");
const rangesOf = (pairs) => pairs.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ") || "–";
const feedPath = (one) => `feeds/${encodeURIComponent(one.feed_id)}/destinations/${encodeURIComponent(one.id)}`;

function feedButton(action) {
  const button = element("button", text(`feed_${action}`));
  button.type = "button";
  button.dataset.action = action;
  return button;
}

function feedRow(feed) {
  const opener = element("button", feed.name, "link");
  opener.type = "button";
  const chosen = [...(feed.sites ?? []), ...(feed.devices ?? []), ...(feed.points ?? [])].join(" ") || text("feedAll");
  const buttons = element("td", feedButton("statement"));
  return row([element("td", opener), element("td", chosen, "wrap"), feed.owner, `${text("feedBatches")} ${feed.last_batch}`, "", buttons], feed.id);
}

function destinationRow(one) {
  const opener = element("button", `→ ${one.name}`, "link");
  opener.type = "button";
  const mood = one.state === "paused" || one.failures ? "warn" : "good";
  const state_ = element("td", badge(text(`feed_${one.state}`), mood), "wrap");
  if (one.error) state_.append(element("div", one.error, "note"));
  const buttons = element("div", undefined, "buttons");
  buttons.append(...["test", "dry-run", one.state === "active" ? "pause" : "resume"].map(feedButton));
  return row([
    element("td", opener), element("td", `${one.kind} ${placeOf(one.address)}`, "wrap"), one.party ?? "–", state_,
    element("td", String(one.waiting), "number"), element("td", buttons),
  ], one.id);
}

function sayOfFeeds(said, problem) {
  $("feeds-said").textContent = said ?? "";
  $("feeds-problem").textContent = problem ?? "";
}

async function fetchFeeds() {
  const found = await get("feeds");
  const each = await Promise.all(found.map((feed) => get(`feeds/${encodeURIComponent(feed.id)}/destinations`)));
  feeds.known = new Map(found.map((feed) => [feed.id, feed]));
  feeds.destinations = new Map(each.flat().map((one) => [one.id, one]));
  fill("feeds-list", found.flatMap((feed, i) => [feedRow(feed), ...each[i].map(destinationRow)]));
  $("feeds-to").elements.feed.replaceChildren(...found.map((feed) => new Option(feed.name, feed.id)));
  $("feeds-to").hidden = !found.length;
}

async function fetchBatches() {
  const one = feeds.destinations.get(feeds.shown);
  const wanted = new URLSearchParams({ limit: BATCHES_SHOWN });
  if (feeds.before.length) wanted.set("before", feeds.before.at(-1));
  const found = await get(`${feedPath(one)}/deliveries?${wanted}`);
  if (feeds.shown !== one.id) return;
  $("feeds-day").hidden = true;
  $("feeds-log").hidden = false;
  $("feeds-log-title").textContent = `${one.name} · ${text("deliveries")}`;
  fill("feeds-batches", found.map((told) => {
    const mood = told.state === "delivered" ? "good" : told.state === "given_up" ? "bad" : "warn";
    const answer = [told.status, told.error].filter((part) => part !== null).join(" ");
    return row([
      moment(told.last_at), element("td", String(told.batch), "number"), badge(text(`delivery_${told.state}`), mood),
      element("td", String(told.attempts), "number"), element("td", answer, "wrap"),
    ], String(told.batch));
  }));
  $("feeds-more").disabled = found.length < BATCHES_SHOWN;
  $("feeds-more").dataset.before = found.at(-1)?.batch ?? "";
  $("feeds-back").disabled = !feeds.before.length;
}

function sideRow(name, side, told, missing, complete) {
  const hash = element("td", side.hash.slice(0, HASH_SHOWN));
  hash.title = side.hash;
  return row([name, element("td", String(side.rows), "number"), hash, told, missing, complete]);
}

async function fetchStatement() {
  const feed = feeds.known.get(feeds.shown);
  const day = $("feeds-date").value;
  const found = await get(`feeds/${encodeURIComponent(feed.id)}/statements/${day}`);
  if (feeds.shown !== feed.id) return;
  $("feeds-log").hidden = true;
  $("feeds-day").hidden = false;
  $("feeds-day-title").textContent = `${feed.name} · ${text("feed_statement")} · ${day}`;
  const numbers = found.batches.map((each) => each.batch);
  const all = numbers.length ? rangesOf([[numbers[0], numbers.at(-1)]]) : "–";
  fill("feeds-sides", [
    sideRow(feed.name, found, all, "–", ""),
    ...found.destinations.map((side) => sideRow(
      `→ ${side.name}`, side, rangesOf(side.told), rangesOf(side.missing),
      badge(text(side.complete ? "feedComplete" : "feedLacks"), side.complete ? "good" : "bad"),
    )),
  ]);
  fill("feeds-points", Object.entries(found.points).map(([point, sums]) => row([
    point, element("td", String(sums.rows), "number"), element("td", String(sums.values), "number"), element("td", sums.sum, "number"),
  ])));
}

async function doToDestination(id, action) {
  const found = await call("POST", `${feedPath(feeds.destinations.get(id))}/${action}`);
  if (action === "test") {
    const answer = [text(`outcome_${found.outcome}`), found.status, found.error].filter((part) => part !== null).join(" ");
    sayOfFeeds(`${text("feed_test")}: ${answer} (${found.took_s.toFixed(2)} s)`);
  } else {
    sayOfFeeds(action === "dry-run" ? `${text("feed_dry-run")}: ${found.body}` : "");
  }
  await fetchFeeds();
}

/* What was typed as JSON; nothing typed is left to the API. */
function typedJson(field) {
  try {
    return field.value.trim() ? JSON.parse(field.value) : undefined;
  } catch {
    throw new Error(`${text(field.dataset.name)}: ${text("feedNoJson")}`);
  }
}

async function createFeed(form) {
  const body = { name: form.name.value.trim() };
  for (const name of ["sites", "points"]) {
    const chosen = listOf(form[name].value);
    if (chosen.length) body[name] = chosen;
  }
  await call("POST", "feeds", body);
  $("feeds-new").reset();
  sayOfFeeds();
  await fetchFeeds();
}

async function createDestination(form) {
  const body = { name: form.name.value.trim(), kind: form.kind.value, party: form.party.value.trim() || undefined };
  for (const name of ["address", "secrets", "egress", "format"]) body[name] = typedJson(form[name]);
  await call("POST", `feeds/${encodeURIComponent(form.feed.value)}/destinations`, body);
  $("feeds-to").reset();
  sayOfFeeds();
  await fetchFeeds();
}

/* What is refused is said in the dialog, where the person looks. */
const orSayOfFeeds = (promise) => promise.catch((problem) => sayOfFeeds("", problem.message));

function watchFeeds() {
  const to = $("feeds-to").elements;
  to.kind.append(...Object.keys(FEED_ADDRESSES).map((kind) => new Option(kind, kind)));
  const begin = () => { to.address.value = JSON.stringify(FEED_ADDRESSES[to.kind.value]); };
  to.kind.addEventListener("change", begin);
  $("feeds-to").addEventListener("reset", () => setTimeout(begin));
  begin();
  $("feeds-open").addEventListener("click", () => {
    [feeds.shown, feeds.before] = [null, []];
    $("feeds-log").hidden = $("feeds-day").hidden = true;
    $("feeds-date").value = yesterday();
    sayOfFeeds();
    if (!$("feeds").open) $("feeds").showModal();
    orSayOfFeeds(fetchFeeds());
  });
  $("feeds-close").addEventListener("click", () => $("feeds").close());
  $("feeds-list").addEventListener("click", (event) => {
    const [button, id] = [event.target.closest("button"), event.target.closest("tr[data-id]")?.dataset.id];
    if (!button || !id) return;
    if (button.dataset.action && feeds.destinations.has(id)) {
      orSayOfFeeds(doToDestination(id, button.dataset.action));
    } else {
      [feeds.shown, feeds.before] = [id, []];
      orSayOfFeeds(feeds.destinations.has(id) ? fetchBatches() : fetchStatement());
    }
  });
  $("feeds-date").addEventListener("change", () => orSayOfFeeds(fetchStatement()));
  $("feeds-new").addEventListener("submit", (event) => { event.preventDefault(); orSayOfFeeds(createFeed(event.target.elements)); });
  $("feeds-to").addEventListener("submit", (event) => { event.preventDefault(); orSayOfFeeds(createDestination(to)); });
  $("feeds-more").addEventListener("click", (event) => { feeds.before.push(event.target.dataset.before); orSayOfFeeds(fetchBatches()); });
  $("feeds-back").addEventListener("click", () => { feeds.before.pop(); orSayOfFeeds(fetchBatches()); });
}
