// The rules of broker/access.ts for other brokers: who connects is who the certificate says, and a device has its own topics only.
// Mosquitto: mosquitto.conf(5), require_certificate, use_identity_as_username, acl_file. EMQX: docs.emqx.com, "ACL File" and
// "Enable SSL/TLS Connection" (peer_cert_as_username, peer_cert_as_clientid, verify, fail_if_no_peer_cert).

/** Brokers whose rules can be written. */
export const ruledBrokers = ["mosquitto", "emqx"] as const;

/** One of them. */
export type RuledBroker = (typeof ruledBrokers)[number];

/** Text for people to put into the broker's files; `folder` is where the keys will lie on its machine. */
export function brokerRules(broker: RuledBroker, folder: string): string {
  return { mosquitto: mosquittoRules, emqx: emqxRules }[broker](folder);
}

function mosquittoRules(folder: string): string {
  return `# mosquitto.conf
listener 8883
cafile ${folder}/ca.pem
certfile ${folder}/server.pem
keyfile ${folder}/server.key
crlfile ${folder}/crl.pem
require_certificate true
use_identity_as_username true
allow_anonymous false
set_tcp_nodelay true
acl_file ${folder}/mosquitto.acl

# ${folder}/mosquitto.acl
user coordinator
topic readwrite trifold/1/#

user dashboard
topic read trifold/1/+/coordinator/status
topic read trifold/1/+/devices/+/status

pattern readwrite trifold/1/+/devices/%u/status
pattern readwrite trifold/1/+/devices/%u/probe
pattern write trifold/1/+/devices/%u/up
pattern read trifold/1/+/devices/%u/down
pattern read trifold/1/+/coordinator/status
`;
}

function emqxRules(folder: string): string {
  return `## emqx.conf
listeners.ssl.default {
  bind = "0.0.0.0:8883"
  tcp_options.nodelay = true
  ssl_options {
    cacertfile = "${folder}/ca.pem"
    certfile = "${folder}/server.pem"
    keyfile = "${folder}/server.key"
    verify = verify_peer
    fail_if_no_peer_cert = true
  }
}
mqtt.peer_cert_as_username = cn
mqtt.peer_cert_as_clientid = cn
authorization {
  no_match = deny
  deny_action = disconnect
  sources = [{ type = file, enable = true, path = "${folder}/acl.conf" }]
}

%% ${folder}/acl.conf
{allow, {username, "coordinator"}, all, ["trifold/1/#"]}.
{allow, {username, {re, "^dashboard(-|$)"}}, subscribe, ["trifold/1/+/coordinator/status", "trifold/1/+/devices/+/status"]}.
{allow, all, all, ["trifold/1/+/devices/\${username}/status", "trifold/1/+/devices/\${username}/probe"]}.
{allow, all, publish, ["trifold/1/+/devices/\${username}/up"]}.
{allow, all, subscribe, ["trifold/1/+/devices/\${username}/down", "trifold/1/+/coordinator/status"]}.
{deny, all}.
`;
}
