"use strict";
/* What a plan would have switched and saved in the last week, by one click on its name among the shutdowns.
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
    why.append(element("div", `${one.count} × ${(state.language === "zh" && one.message_zh) || one.message}`));
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

function watchPlans() {
  const dialog = $("simulation");
  $("occurrences").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.dataset.plan;
    if (id) guard(showSimulation(id).then(() => { if (!dialog.open) dialog.showModal(); }));
  });
  $("simulation-close").addEventListener("click", () => dialog.close());
}
