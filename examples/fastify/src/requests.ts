/** How many requests were answered, how, and how fast; in memory that does not grow with them. */

import { createHistogram } from "node:perf_hooks";
import type { FastifyInstance } from "fastify";

export class Requests {
  private readonly microseconds = createHistogram({ figures: 3, lowest: 1, highest: 600_000_000 });
  private errors = 0;

  /** Count the requests of `app`. */
  watch(app: FastifyInstance): void {
    app.addHook("onResponse", (_request, reply, done) => {
      this.microseconds.record(Math.max(1, Math.round(reply.elapsedTime * 1000)));
      this.errors += reply.statusCode >= 400 ? 1 : 0;
      done();
    });
  }

  told(): { requests: object; performance: object } {
    const total = this.microseconds.count;
    const success = total - this.errors;
    const latency = (microseconds: number) => `${(total === 0 ? 0 : microseconds / 1000).toFixed(1)}ms`;
    return {
      requests: {
        total,
        success,
        error: this.errors,
        successRate: `${(total === 0 ? 100 : (success / total) * 100).toFixed(2)}%`,
      },
      performance: {
        avgLatency: latency(this.microseconds.mean),
        p95Latency: latency(this.microseconds.percentile(95)),
        p99Latency: latency(this.microseconds.percentile(99)),
      },
    };
  }
}
