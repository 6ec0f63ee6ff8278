/** Python functions, called from Node. */

export {};
