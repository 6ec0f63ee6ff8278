/** What the environment says of this server. */

export interface Settings {
  host: string;
  port: number;
  /** Whoever asks a model must bring it, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; without one everybody may ask. */
  apiKey: string | undefined;
  /** Requests a minute that one caller may make; 0 is any number. */
  rateLimit: number;
  /** Milliseconds that a model may take. */
  timeout: number;
  /** Threads for the Python functions that take longer than microseconds. */
  poolSize: number;
  /** Calls that may wait for Python at once; further requests are told to come again. */
  maxPending: number;
  /** Milliseconds for which a server that was told to end still takes requests, and says that it ends. */
  drain: number;
  /** Milliseconds that requests under way are given when the server is told to end. */
  grace: number;
  logLevel: string;
}

/** Throws RangeError, naming the variable. */
export function settingsFrom(env: NodeJS.ProcessEnv): Settings {
  const number = (name: string, otherwise: number, least: number): number => {
    const value = Number(env[name] ?? otherwise);
    if (!Number.isInteger(value) || value < least) {
      throw new RangeError(`${name} is a whole number of at least ${least}, not ${JSON.stringify(env[name])}`);
    }
    return value;
  };
  return {
    host: env.HOST ?? "127.0.0.1",
    port: number("PORT", 3000, 0),
    apiKey: env.API_KEY || undefined,
    rateLimit: number("RATE_LIMIT", 0, 0),
    timeout: number("TIMEOUT_MS", 5000, 1),
    poolSize: number("POOL_SIZE", 2, 1),
    maxPending: number("MAX_PENDING", 1000, 1),
    drain: number("DRAIN_MS", 1000, 0),
    grace: number("GRACE_MS", 10_000, 0),
    logLevel: env.LOG_LEVEL ?? "info",
  };
}
