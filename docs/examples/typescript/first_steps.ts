/*
 * Sites, their energy, an order and its result, by generated types. 用生成的类型读取站点与能耗、下发命令并接收结果。
 *
 *     npm install && npm run generate && npm run build
 *     WATTRING_KEY=wr_… node built/first_steps.js http://127.0.0.1:8000 aau-0 http://127.0.0.1:9000/hooks
 *
 * It switches the load off for an hour, waits for the signed callback, and switches it on again. The address of the hook
 * is this program's: Wattring must be able to reach it, and be allowed to (WATTRING_EXPORT__CALLBACKS__ALLOWED).
 */
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import createClient from "openapi-fetch";
import { Webhook } from "standardwebhooks";
import type { components, paths } from "./wattring.js";

type Group = components["schemas"]["GroupView"];
type Problem = components["schemas"]["ProblemDetail"];
type ControlCallback = components["schemas"]["ControlCallback"];

const [url, load, hook] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({
  baseUrl: url,
  headers: { authorization: `Bearer ${process.env["WATTRING_KEY"]}` },
});

/** Return an answer that is no problem. */
function checked<Answer>(answer: { data?: Answer; error?: unknown }): Answer {
  if (answer.data === undefined) {
    const problem = answer.error as Problem;
    throw new Error(`${problem.code}: ${problem.detail} ${problem.detail_zh}`);
  }
  return answer.data;
}

/** Take one callback at an address of ours. */
function receive(address: string): { ready: Promise<void>; call: Promise<{ headers: Record<string, string>; body: string }> } {
  let listening: () => void;
  const ready = new Promise<void>((resolve) => (listening = resolve));
  const call = new Promise<{ headers: Record<string, string>; body: string }>((resolve) => {
    const server = createServer(async (request, response) => {
      let body = "";
      for await (const part of request.setEncoding("utf8")) body += part;
      response.writeHead(204).end(); // once you have kept it: what is not answered 2xx comes again
      resolve({ headers: request.headers as Record<string, string>, body });
    });
    server.listen(Number(new URL(address).port), new URL(address).hostname, () => listening());
  });
  return { ready, call };
}

/** Order, and follow the order until the end of every command is known. */
async function order(action: "open" | "close"): Promise<Group> {
  const restore_at = action === "open" ? new Date(Date.now() + 3_600_000).toISOString() : null;
  let group: Group = checked(
    await client.POST("/api/v1/commands", {
      // With a key of yours the same request can be sent again after a lost answer, and is done once.
      params: { header: { "Idempotency-Key": randomUUID() } },
      body: { action, load_id: load, restore_at, reason: "first steps" },
    }),
  );
  while (group.progress.done < group.progress.total) {
    await new Promise((resolve) => setTimeout(resolve, 200));
    group = checked(
      await client.GET("/api/v1/commands/groups/{group_id}", { params: { path: { group_id: group.group_id } } }),
    );
  }
  return group;
}

const to = new Date();
const from = new Date(to.getTime() - 86_400_000);
for (const site of checked(await client.GET("/api/v1/sites")).items) {
  console.log("site", site.id, site.name);
  const query = { site: site.id, from: from.toISOString(), to: to.toISOString(), step: "hour" as const };
  for (const period of checked(await client.GET("/api/v1/energy", { params: { query } })).periods) {
    if (period.energy_kwh !== null) {
      // nothing is no zero
      console.log("energy", site.id, period.start, period.energy_kwh, "kWh");
    }
  }
}

const { ready, call } = receive(hook);
await ready;
const endpoint = checked(
  await client.POST("/api/v1/callbacks", {
    body: { name: "first steps", url: hook, types: ["command.result"], only_mine: true },
  }),
);
console.log("order", (await order("open")).state);
const { headers, body } = await call;
const event = new Webhook(endpoint.secret).verify(body, headers) as ControlCallback; // throws when it is not signed so
console.log("callback", event.type, event.subject, JSON.stringify(event.data.state));
console.log("order", (await order("close")).state);
await client.DELETE("/api/v1/callbacks/{callback_id}", { params: { path: { callback_id: endpoint.id } } });
process.exit(0);
