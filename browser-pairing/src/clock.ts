/**
 * The agent's clock as this browser knows it: what the agent has signed, no more exact than the time between
 * sending and receiving. A relay that holds an answer back cannot move it: it only makes that time longer.
 */

/** The difference to this browser's own clock, in seconds. */
export class AgentClock {
  #offset: number | undefined;

  /** Unix seconds. */
  now(): number {
    return Math.floor(Date.now() / 1000 + (this.#offset ?? 0));
  }

  /**
   * Takes over what the agent has signed between `sent` and `received`, which are milliseconds of this
   * browser. Its time is in whole seconds, so the agent's clock was anywhere within that second, too.
   */
  learn(agentTime: unknown, sent: number, received: number): void {
    if (typeof agentTime !== "number" || !Number.isFinite(agentTime)) return;
    const least = agentTime - received / 1000;
    const most = agentTime + 1 - sent / 1000;
    const middle = (least + most) / 2;
    // Own time that ran backwards proves nothing about what was known before.
    const known = least <= most ? this.#offset : undefined;
    this.#offset = known === undefined ? middle : Math.min(Math.max(known, least), most);
  }
}
