// An OPC UA server by node-opcua, with the nodes of the profile example_opcua_meter for one meter.
//
//     NODE_PATH=.tools/peers/opcua/node_modules node tests/peers/opcua_server.js '{"port": 4840, "folder": "/tmp/x"}'
//
// Further fields: "users" {name: password} (then nobody is anonymous), "shift" (the namespace gets another index),
// "without" (names of variables that are left out), "items" (most monitored items of a subscription).
// Says "ready" and then obeys one order per line of JSON and says "done":
//     {"set": "Ua", "value": 231.5, "status": "Good", "at": 1700000000000}     "at" in ms; left out: now
//     {"get": "Closed"} says the value, {"kill": true} forgets all subscriptions but keeps the sessions,
//     {"reset": true} gives all variables the values of the start, {"trust": "/x.der"} trusts a client's certificate.
"use strict";
const fs = require("fs");
const path = require("path");
const readline = require("readline");
const opcua = require("node-opcua");
const { DataType, StatusCodes, VariantArrayType } = opcua;

const options = JSON.parse(process.argv[2]);
const values = {
  Ua: [DataType.Double, 230.0], Ub: [DataType.Double, 231.0], Uc: [DataType.Double, 232.0],
  I: [DataType.Double, [1.5, 2.5, 3.5]], P: [DataType.Float, 1200], Ep: [DataType.Double, 1234.5],
  Closed: [DataType.Boolean, true], Close: [DataType.Boolean, true], Setpoint: [DataType.Int16, 260],
};

async function main() {
  const certificates = new opcua.OPCUACertificateManager({
    rootFolder: path.join(options.folder, "pki"), automaticallyAcceptUnknownCertificate: false,
  });
  const users = options.users;
  const server = new opcua.OPCUAServer({
    port: options.port, hostname: "127.0.0.1", resourcePath: "/plant", allowAnonymous: !users,
    serverCertificateManager: certificates,
    userManager: { isValidUser: (name, password) => !!users && users[name] === password },
    securityPolicies: [opcua.SecurityPolicy.None, opcua.SecurityPolicy.Basic256Sha256],
    securityModes: [
      opcua.MessageSecurityMode.None, opcua.MessageSecurityMode.Sign, opcua.MessageSecurityMode.SignAndEncrypt,
    ],
    serverCapabilities: {
      operationLimits: options.limits || {}, maxMonitoredItemsPerSubscription: options.items || 100000,
      maxSubscriptionsPerSession: options.subscriptions === undefined ? 10 : options.subscriptions,
    },
  });
  await server.initialize();
  const space = server.engine.addressSpace;
  if (options.shift) space.registerNamespace("urn:somebody:else");
  const namespace = space.registerNamespace("urn:wattring:fieldsim");
  const meter = namespace.addObject({ organizedBy: space.rootFolder.objects, browseName: "m1" });
  const nodes = {};
  const content = (name, value) => ({
    dataType: values[name][0], value,
    arrayType: Array.isArray(value) ? VariantArrayType.Array : VariantArrayType.Scalar,
  });
  for (const [name, [dataType, value]] of Object.entries(values)) {
    if ((options.without || []).includes(name)) continue;
    nodes[name] = namespace.addVariable({
      componentOf: meter, browseName: name, nodeId: `s=m1.${name}`, dataType, minimumSamplingInterval: 0,
      valueRank: Array.isArray(value) ? 1 : -1,
      accessLevel: name === "Close" || name === "Setpoint" ? "CurrentRead | CurrentWrite" : "CurrentRead",
      userAccessLevel: name === "Close" || name === "Setpoint" ? "CurrentRead | CurrentWrite" : "CurrentRead",
    });
    nodes[name].setValueFromSource(content(name, value));
  }
  if (nodes.Close) {
    nodes.Close.on("value_changed", (found) => nodes.Closed.setValueFromSource(content("Closed", found.value.value)));
  }
  await server.start();
  console.log("ready");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    if (order.set) {
      const at = order.at === undefined ? new Date() : new Date(order.at);
      nodes[order.set].setValueFromSource(content(order.set, order.value), StatusCodes[order.status || "Good"], at);
    } else if (order.reset) {
      for (const [name, node] of Object.entries(nodes)) node.setValueFromSource(content(name, values[name][1]));
    } else if (order.trust) {
      await certificates.trustCertificate(fs.readFileSync(order.trust));
    } else if (order.kill) {
      for (const session of Object.values(server.engine._sessions)) {
        for (const subscription of [...Object.values(session.publishEngine._subscriptions || {})]) {
          subscription.terminate();
        }
      }
    }
    console.log(order.get ? JSON.stringify(nodes[order.get].readValue().value.value) : "done");
  }
  await server.shutdown(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
