/** A typed client of the everloop model server. */

export {};
