"use strict";
/* Where faults are: the open diagnoses of the overview page, each with its advice and all that it rests on.
   Loaded before page.js, whose $, state, text, call and drawing helpers it uses when it is called. */

const FAULTS_SHOWN = 50;
const inWords = (fault, name) => fault[`${name}_${state.language}`];
const stated = (fact) => `${fact.name} = ${fact.value}`;

function evidenceOf(fault) {
  const made = element("details");
  const first = fault.evidence.filter((fact) => fact.decisive).map(stated).join(", ");
  made.append(element("summary", first || text("evidence")));
  for (const fact of fault.evidence) made.append(element("div", `${stated(fact)} (${fact.source}, ${moment(fact.at)})`));
  for (const one of fault.unreachable) {
    made.append(element("div", `${text("couldNotTell")} ${one.source}: ${one.reason} (${moment(one.at)})`, "warn"));
  }
  return element("td", made, "wrap");
}

function faultRow(fault) {
  const cause = element("td", badge(fault.code, fault.confidence === "information" ? "warn" : "bad"));
  cause.append(` ${inWords(fault, "name")}`);
  if (fault.group_size) cause.append(element("small", ` ${text("sameCause")} ${fault.group_size}`));
  const device = label(state.devices.get(fault.device_id)) || fault.card.device_name;
  return row([
    cause, device, element("td", inWords(fault, "advice"), "wrap"), evidenceOf(fault), when(fault.began_at),
  ], fault.diagnosis_id);
}

async function fetchFaults() {
  const found = await get(`diagnoses?${ofSite()}state=open&limit=${FAULTS_SHOWN}`);
  fill("faults", found.items.map(faultRow));
  $("faults-more").textContent = found.next_cursor === null ? "" : text("moreFaults");
}
