"use strict";
/* What a device is judged by, with where each figure comes from, and what it is set to beside what we ordered.
   Loaded before page.js, whose $, state, text, get and drawing helpers it uses when it is called. */

const figure = (value, unit) => (value === null || value === undefined ? "–" : `${value} ${unit ?? ""}`);

function judgedBy(rule, name, unit) {
  const cell = element("td", figure(rule[name], unit));
  const [scope, ...id] = rule.sources[name].split(":");
  if (scope !== "dictionary") {
    const mark = badge(text(`from_${scope}`), "warn");
    mark.title = id.join(":");
    cell.append(" ", mark);
  }
  return cell;
}

function ruleRow(rule) {
  return row([
    element("td", (state.language === "zh" && rule.name_zh) || rule.name, "wrap"), judgedBy(rule, "threshold", rule.unit),
    judgedBy(rule, "level"), judgedBy(rule, "start_delay_s", "s"), judgedBy(rule, "end_delay_s", "s"),
    badge(text(rule.active ? "watched" : "asleep"), rule.active ? "good" : "warn"),
  ], rule.rule_id);
}

function settingRow(one) {
  const mark = one.differs === null ? badge(text("notKnown"), "warn")
    : badge(text(one.differs ? "differs" : "asOrdered"), one.differs ? "bad" : "good");
  return row([
    (state.language === "zh" && one.name_zh) || one.point, figure(one.wanted, one.unit), figure(one.found, one.unit), moment(one.found_at), mark,
  ], one.point);
}

async function showRules(id) {
  const asked = `device=${encodeURIComponent(id)}`;
  const [held, settings] = await Promise.all([
    get(`alarm-rules/effective?${asked}`), items(`alarm-rules/device-settings?${asked}`)]);
  $("rules-title").textContent = `${label(state.devices.get(id)) || id} · ${text("rules")}`;
  fill("rules-held", held.rules.map(ruleRow));
  fill("rules-set", settings.map(settingRow));
}

function watchRules() {
  const dialog = $("rules");
  $("meters").addEventListener("click", (event) => {
    const id = event.target.closest("button.link")?.closest("tr[data-id]")?.dataset.id;
    if (id) guard(showRules(id).then(() => { if (!dialog.open) dialog.showModal(); }));
  });
  $("rules-close").addEventListener("click", () => dialog.close());
}
