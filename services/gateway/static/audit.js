"use strict";
/* Who switched or changed what: control's audit with its filters, page by page, and where its chain ends.
   Loaded before page.js, whose $, text, get and drawing helpers it uses when it is called. */

const AUDIT_SHOWN = 50;
const audit = { cursors: [] };

function auditFacts(entry) {
  const made = element("details");
  made.append(element("summary", entry.reason || text("detail")));
  for (const name of ["before", "after"]) {
    if (entry[name] !== null) made.append(element("div", text(name)), element("pre", JSON.stringify(entry[name], null, 1)));
  }
  return element("td", made, "wrap");
}

function auditRow(entry) {
  const outcome = element("td", entry.succeeded ? "" : badge(text("notDone"), "bad"));
  return row([
    entry.seq ?? "–", moment(entry.at), entry.actor, entry.door, entry.action, element("td", entry.subject, "wrap"), outcome,
    auditFacts(entry),
  ], entry.entry_id);
}

async function showAudit() {
  const { subject, actor, failed } = $("audit-filter").elements;
  const wanted = new URLSearchParams({ limit: AUDIT_SHOWN });
  if (subject.value.trim()) wanted.set("subject", subject.value.trim());
  if (actor.value.trim()) wanted.set("actor", actor.value.trim());
  if (failed.checked) wanted.set("succeeded", "false");
  if (audit.cursors.length) wanted.set("cursor", audit.cursors.at(-1));
  $("audit-problem").textContent = "";
  try {
    const [page, head] = [await get(`commands/audit?${wanted}`), await get("commands/audit/head")];
    fill("audit-entries", page.items.map(auditRow));
    $("audit-head").textContent = `${text("chainEnd")} ${head.seq} · SHA-256 ${head.hash.slice(0, 16)}…`;
    $("audit-more").disabled = page.next_cursor === null;
    $("audit-more").dataset.cursor = page.next_cursor ?? "";
    $("audit-back").disabled = !audit.cursors.length;
  } catch (refused) {
    fill("audit-entries", []);
    $("audit-problem").textContent = refused.message;
  }
}

function watchAudit() {
  $("audit-open").addEventListener("click", () => {
    audit.cursors = [];
    if (!$("audit").open) $("audit").showModal();
    guard(showAudit());
  });
  $("audit-close").addEventListener("click", () => $("audit").close());
  $("audit-filter").addEventListener("submit", (event) => {
    event.preventDefault();
    audit.cursors = [];
    guard(showAudit());
  });
  $("audit-more").addEventListener("click", (event) => { audit.cursors.push(event.target.dataset.cursor); guard(showAudit()); });
  $("audit-back").addEventListener("click", () => { audit.cursors.pop(); guard(showAudit()); });
}
