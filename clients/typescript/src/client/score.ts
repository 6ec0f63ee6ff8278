/**
 * Any number of rows through a model, answered in their order.
 *
 * Theory of operation: rows are read into batches, a bounded number of batches is under way, and answers are given out from the
 * oldest. Nothing is read while there is no room, so memory does not grow with the input and a slow reader slows the source. A batch that
 * is refused because of one of its rows is halved until that row is alone, where the caller wants its error rather than the end.
 */

import { EverloopError } from "./errors.js";
import type { Predictions, Scalar } from "./types.js";

export interface ScoreOptions {
  /** Rows of one request; 256. */
  batchSize?: number | undefined;
  /** Requests under way at once; 4. */
  concurrency?: number | undefined;
  /** Milliseconds after which a batch goes though it is not full: for sources that are slow. A batch waits for its rows otherwise. */
  linger?: number | undefined;
  /** `throw` (as it is): the first refusal ends the iteration. `give`: what is wrong with a row comes in the place of its answer. */
  errors?: "throw" | "give" | undefined;
  signal?: AbortSignal | undefined;
  /** Milliseconds for each request, its repeats included. */
  timeout?: number | undefined;
}

export interface Answered<Row, Label> {
  /** The row's place in the input: 0, 1, 2 … */
  number: number;
  row: Row;
  prediction: Label;
  model_version: number;
  /** With `index`, what feedback refers to. */
  request_id: string;
  index: number;
  error?: undefined;
}

export interface Refused<Row> {
  number: number;
  row: Row;
  error: EverloopError;
  prediction?: undefined;
  model_version?: undefined;
  request_id?: undefined;
  index?: undefined;
}

export type Ask<Row, Label> = (rows: Row[], signal: AbortSignal) => Promise<Predictions<Label>>;
type Source<Row> = AsyncIterable<Row> | Iterable<Row>;
type Outcome<Row, Label> = Answered<Row, Label> | Refused<Row>;

export async function* scoreAll<Row, Label = Scalar>(
  ask: Ask<Row, Label>,
  rows: Source<Row>,
  { batchSize = 256, concurrency = 4, linger, errors = "throw", signal }: ScoreOptions,
): AsyncGenerator<Outcome<Row, Label>, void, void> {
  for (const [name, value] of Object.entries({ batchSize, concurrency })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new RangeError(`${name}: expected a whole number of at least 1, got ${value}`);
    }
  }
  const ended = new AbortController();
  const end = () => ended.abort(signal?.reason);
  signal?.addEventListener("abort", end, { once: true });
  const stopped = new Promise<never>((_, reject) => {
    ended.signal.addEventListener("abort", () => reject(ended.signal.reason), { once: true });
  });
  stopped.catch(() => {}); // it may happen while nobody waits
  const batches = new Batches(rows, batchSize, linger);
  const underWay: Promise<Outcome<Row, Label>[]>[] = [];
  let number = 0;
  let reading: Promise<Row[]> | undefined;
  try {
    signal?.throwIfAborted();
    while (true) {
      if (reading === undefined && !batches.done && underWay.length < concurrency) {
        reading = batches.next();
        reading.catch(() => {}); // it is awaited below, maybe after an answer
      }
      if (reading === undefined && underWay.length === 0) {
        return;
      }
      const read = reading?.then((batch) => ({ batch }));
      const answered = underWay[0]?.then((answers) => ({ answers }));
      const first = await Promise.race([answered, read, stopped].filter((each) => each !== undefined));
      if ("batch" in first) {
        reading = undefined;
        if (first.batch.length > 0) {
          const begun = outcomes(ask, first.batch, number, errors === "give", ended.signal);
          begun.catch(() => {}); // its turn comes later
          underWay.push(begun);
          number += first.batch.length;
        }
      } else {
        void underWay.shift(); // it has just been awaited
        yield* first.answers;
      }
    }
  } finally {
    signal?.removeEventListener("abort", end);
    ended.abort();
    await batches.close(reading !== undefined);
  }
}

async function outcomes<Row, Label>(
  ask: Ask<Row, Label>,
  rows: Row[],
  start: number,
  give: boolean,
  signal: AbortSignal,
): Promise<Outcome<Row, Label>[]> {
  try {
    const { predictions, model_version, request_id } = await ask(rows, signal);
    return rows.map((row, index) => ({
      number: start + index,
      row,
      prediction: predictions[index] as Label,
      model_version,
      request_id,
      index,
    }));
  } catch (error) {
    if (!give || !(error instanceof EverloopError) || !OF_A_ROW.has(error.code)) {
      throw error;
    }
    if (rows.length === 1) {
      return [{ number: start, row: rows[0] as Row, error }];
    }
    const half = rows.length >> 1;
    const before = await outcomes(ask, rows.slice(0, half), start, give, signal);
    return before.concat(await outcomes(ask, rows.slice(half), start + half, give, signal));
  }
}

/** What one row of a batch can be the reason of. */
const OF_A_ROW = new Set(["invalid_input", "malformed", "model_failed", "too_large"]);

/** Rows of a source, several at a time. */
class Batches<Row> {
  done = false;
  readonly #rows: AsyncIterator<Row> | Iterator<Row>;
  #next: Promise<IteratorResult<Row>> | undefined;

  constructor(
    rows: Source<Row>,
    private readonly size: number,
    private readonly linger: number | undefined,
  ) {
    this.#rows = Symbol.asyncIterator in rows ? rows[Symbol.asyncIterator]() : rows[Symbol.iterator]();
  }

  /** The next batch; empty at the end. */
  async next(): Promise<Row[]> {
    const batch: Row[] = [];
    let late: Promise<"late"> | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      while (batch.length < this.size) {
        this.#next ??= Promise.resolve(this.#rows.next());
        const next = late === undefined ? await this.#next : await Promise.race([this.#next, late]);
        if (next === "late") {
          return batch; // the row that is still awaited begins the next one
        }
        this.#next = undefined;
        if (next.done) {
          this.done = true;
          return batch;
        }
        batch.push(next.value);
        if (late === undefined && this.linger !== undefined) {
          late = new Promise((resolve) => {
            timer = setTimeout(resolve, this.linger, "late");
          });
        }
      }
      return batch;
    } catch (error) {
      this.done = true;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Lets the source clean up. A generator that is waiting does so when its wait is over, which nobody waits for. */
  async close(waiting: boolean): Promise<void> {
    if (this.done) {
      return;
    }
    this.done = true;
    const closed = Promise.resolve(this.#rows.return?.());
    if (waiting || this.#next !== undefined) {
      closed.catch(() => {}); // the iteration has ended with what ended it
    } else {
      await closed;
    }
  }
}
