// `trifold keys`: certificates of a private authority for the broker, the coordinator and the boards.
import { join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { printResult } from "../command-result.ts";
import { appErrors } from "../errors.ts";
import type { RuledBroker } from "../keys/broker-rules.ts";
import { examples } from "./option-values.ts";

interface Flags {
  readonly keys: string;
  readonly json?: boolean;
  readonly renew?: boolean;
}

/** Registers `keys` and what it does. */
export function keysCommand(program: Command): void {
  const keys = program
    .command("keys")
    .summary("make certificates for brokers, coordinator and boards")
    .description(
      "Keeps a private authority in a folder. A certificate's name is who its holder is: a device's id, or coordinator.",
    )
    .addHelpText(
      "after",
      examples(
        "keys init",
        "keys server lab.local 192.168.1.10",
        "keys device pi-4 # copy ca.pem, pi-4.pem and pi-4.key to the board",
        "keys revoke pi-4",
        "keys acl --for mosquitto",
      ),
    );
  const add = (usage: string, summary: string) =>
    keys
      .command(usage)
      .summary(summary)
      .description(`${summary[0]?.toUpperCase()}${summary.slice(1)}.`)
      .option("--keys <folder>", "folder of the authority", "keys")
      .option("--json", "print one JSON document");
  add("init", "create the authority, and the coordinator's certificate").action(init);
  add("server [hosts...]", "issue the broker's certificate for its names and addresses")
    .option("--renew", "in place of the one there is, which is revoked")
    .action(server);
  add("device <name>", "issue a device's certificate; dashboard makes one that only reads statuses")
    .option("--renew", "in place of the one there is, which is revoked")
    .action(device);
  add("revoke <name>", "revoke the certificates of that name at once").action(revoke);
  add("acl", "write a broker's rules: its configuration for these certificates")
    .addOption(
      new Option("--for <broker>", "whose rules")
        .choices(["mosquitto", "emqx"])
        .makeOptionMandatory(),
    )
    .action(acl);
}

async function init({ keys, json }: Flags): Promise<void> {
  const { initKeys, issueKeys } = await import("../keys/key-folder.ts");
  const { visitorId } = await import("../coordinator/broker-check.ts");
  const folder = resolve(keys);
  await initKeys(folder);
  const coordinator = await issueKeys(folder, { name: "coordinator", file: "coordinator" });
  // With it a coordinator tries what devices may do at another broker.
  await issueKeys(folder, { name: visitorId, file: visitorId });
  const text = `${folder} has an authority, and the coordinator's certificate\nkeep ca.key there: whoever has it can be anyone`;
  await printResult({ json: { folder, ...coordinator }, text }, asked(json));
}

async function server(hosts: readonly string[], { keys, json, renew }: Flags): Promise<void> {
  const { issueKeys } = await import("../keys/key-folder.ts");
  const all = [...new Set(["localhost", "127.0.0.1", "::1", ...hosts])];
  const holder = { name: hosts[0] ?? "localhost", hosts: all, file: "server" };
  const files = await issueKeys(resolve(keys), holder, renew ? { renew } : {});
  const text = `${files.cert} is for ${all.join(", ")}`;
  await printResult({ json: { ...files, hosts: all }, text }, asked(json));
}

async function device(name: string, { keys, json, renew }: Flags): Promise<void> {
  const { issueKeys } = await import("../keys/key-folder.ts");
  const { checkDeviceId, checkId, isDashboard } = await import("../../broker/index.ts");
  const id = isDashboard(name) ? checkId("dashboard", name) : checkDeviceId(name);
  if (["ca", "server", "crl"].includes(id)) {
    throw appErrors.error("OPTION_INVALID", `a device cannot be called ${id} here`, {
      hint: "The keys folder has files of that name; choose another id.",
    });
  }
  const files = await issueKeys(resolve(keys), { name: id, file: id }, renew ? { renew } : {});
  const text = `copy to the board: ${files.ca}, ${files.cert}, ${files.key}\nthen: trifold device --id ${id} --ca ca.pem --cert ${id}.pem --key ${id}.key ...`;
  await printResult({ json: files, text }, asked(json));
}

async function revoke(name: string, { keys, json }: Flags): Promise<void> {
  const { revokeKeys } = await import("../keys/key-folder.ts");
  const folder = resolve(keys);
  const certificates = await revokeKeys(folder, name);
  const crl = join(folder, "crl.pem");
  const text = `${name} is revoked; ${crl} says so: the embedded broker sees it at once, others when they reload it`;
  await printResult({ json: { name, certificates, crl }, text }, asked(json));
}

async function acl({
  keys,
  json,
  for: broker,
}: Flags & { readonly for: RuledBroker }): Promise<void> {
  const { brokerRules } = await import("../keys/broker-rules.ts");
  const rules = brokerRules(broker, resolve(keys));
  await printResult({ json: { broker, rules }, text: rules.trimEnd() }, asked(json));
}

function asked(json: boolean | undefined) {
  return json ? { json } : {};
}
