/**
 * The end in good order. Once it has begun, `/health` fails, so that nobody sends callers here any more, and every answer says
 * `Connection: close`, so that callers who keep their connections let go of them at an answer instead of in a request. The
 * server closes them only after that.
 */

import type { FastifyInstance } from "fastify";

export class Ending {
  begun = false;

  watch(app: FastifyInstance): void {
    app.addHook("onSend", async (_request, reply) => {
      if (this.begun) {
        reply.header("connection", "close");
      }
    });
  }
}
