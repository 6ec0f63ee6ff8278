/** Forms with a file (`curl -F image=@cat.png`), as the JSON bodies that say the same. Node itself reads them. */

import type { FastifyInstance, FastifyRequest } from "fastify";

export class NoForm extends Error {
  readonly statusCode = 400;
}

export function takeForms(app: FastifyInstance): void {
  app.addContentTypeParser(
    "multipart/form-data",
    { parseAs: "buffer" },
    async (request: FastifyRequest, body: Buffer) => {
      const type = request.headers["content-type"] ?? "";
      const form = await new Response(new Uint8Array(body), { headers: { "content-type": type } })
        .formData()
        .catch(() => {
          throw new NoForm("the body is no form, or one that is cut short");
        });
      const members: Record<string, unknown> = {};
      for (const [name, value] of form) {
        members[name] =
          typeof value === "string" ? ofText(name, value) : Buffer.from(await value.arrayBuffer()).toString("base64");
      }
      return members;
    },
  );
}

/** A form's members are texts. */
function ofText(name: string, text: string): string | number {
  return name === "top_k" && /^\d+$/.test(text) ? Number(text) : text;
}
