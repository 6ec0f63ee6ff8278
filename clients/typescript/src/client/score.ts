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
  /** How often a request is sent again at most; the client's own, 3, is over in a second. 20 outlast a server's restart. */
  retries?: number | undefined;
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
  const batches = new Batches(rows, batchSize, linger);
  const underWay: Flight<Outcome<Row, Label>>[] = [];
  let number = 0;
  let reading = false;
  // Not Promise.race: each race would leave something behind in a promise that outlives it.
  let wake = () => {};
  const end = () => {
    ended.abort(signal?.reason);
    wake();
  };
  const fly = (answers: Promise<Outcome<Row, Label>[]>) => {
    const flight: Flight<Outcome<Row, Label>> = {};
    underWay.push(flight);
    answers
      .then(
        (given) => {
          flight.answers = given;
        },
        (error) => {
          flight.failed = { error };
        },
      )
      .finally(() => wake());
  };
  const read = () => {
    reading = true;
    batches.next().then(
      (batch) => {
        reading = false;
        if (batch.length > 0) {
          fly(outcomes(ask, batch, number, errors === "give", ended.signal));
          number += batch.length;
        }
        wake();
      },
      (error) => {
        reading = false;
        fly(Promise.reject(error)); // in its place, behind the rows that came before
      },
    );
  };
  signal?.addEventListener("abort", end, { once: true });
  try {
    while (true) {
      signal?.throwIfAborted();
      if (!reading && !batches.done && underWay.length < concurrency) {
        read();
      }
      const [first] = underWay;
      if (first?.failed) {
        throw first.failed.error;
      }
      if (first?.answers) {
        underWay.shift();
        for (const answer of first.answers) {
          signal?.throwIfAborted();
          yield answer;
        }
      } else if (reading || first) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      } else if (batches.done) {
        return;
      }
    }
  } finally {
    signal?.removeEventListener("abort", end);
    ended.abort();
    await batches.close(reading);
  }
}

/** A request under way: nothing yet, or what came of it. */
interface Flight<T> {
  answers?: T[];
  failed?: { error: unknown };
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
  #failed: { error: unknown } | undefined;
  readonly #rows: AsyncIterator<Row> | Iterator<Row>;
  #next: Promise<IteratorResult<Row>> | undefined;

  constructor(
    rows: Source<Row>,
    private readonly size: number,
    private readonly linger: number | undefined,
  ) {
    this.#rows = Symbol.asyncIterator in rows ? rows[Symbol.asyncIterator]() : rows[Symbol.iterator]();
  }

  /** The next batch; empty at the end. Rejects with what the source threw, when all that came before has been given. */
  async next(): Promise<Row[]> {
    if (this.#failed) {
      this.done = true;
      throw this.#failed.error;
    }
    const batch: Row[] = [];
    let late: Promise<"late"> | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      while (batch.length < this.size) {
        if (this.#next === undefined) {
          this.#next = Promise.resolve(this.#rows.next());
          this.#next.catch(() => {}); // after a linger it may fail before it is awaited again
        }
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
      this.done = batch.length === 0;
      if (this.done) {
        throw error;
      }
      this.#failed = { error };
      return batch;
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
