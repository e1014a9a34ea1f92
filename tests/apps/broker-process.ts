// Brokers as processes of their own, to be killed and started again at the same port.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import type { Test } from "tap";
import { startTrifold } from "./program.ts";

/** A broker that listens. */
export interface BrokerProcess {
  /** SIGKILL; resolves once it is gone. */
  kill(): Promise<void>;
}

/** `trifold broker` at a port of loopback. */
export async function startBrokerProcess(
  t: Pick<Test, "teardown">,
  port: number,
): Promise<BrokerProcess> {
  const { process } = startTrifold([
    ...["broker", "--anonymous", "--listen", `mqtt://127.0.0.1:${port}`],
  ]);
  return listening(t, process, port);
}

/** Mosquitto at a port of loopback. */
export async function startMosquittoAt(t: Test, port: number): Promise<BrokerProcess> {
  const config = join(t.testdir(), "mosquitto.conf");
  writeFileSync(config, `listener ${port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n`);
  // Debian installs it where only root looks.
  const env = { ...process.env, PATH: `${process.env["PATH"]}:/usr/sbin` };
  return listening(t, spawn("mosquitto", ["-c", config], { env, stdio: "ignore" }), port);
}

async function listening(
  t: Pick<Test, "teardown">,
  child: ReturnType<typeof spawn>,
  port: number,
): Promise<BrokerProcess> {
  t.teardown(() => void child.kill("SIGKILL"));
  const exited = once(child, "exit");
  const isAlive = () => child.exitCode === null && child.signalCode === null;
  while (isAlive() && !(await answers(port)));
  return {
    kill: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("connect", () => resolve(true));
    socket.once("error", () => setTimeout(() => resolve(false), 20));
    socket.once("connect", () => socket.destroy());
  });
}
