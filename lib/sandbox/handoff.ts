/** Passes items one at a time from a producer, which waits, to a consumer. */
export class Handoff<Item> {
  #item: { value: Item; taken: () => void } | undefined;
  #wake: (() => void) | undefined;
  #closed = false;

  /** Resolves when the item was taken, or when the handoff is closed. */
  async put(value: Item): Promise<void> {
    if (this.#closed) return;
    await new Promise<void>((taken) => {
      this.#item = { value, taken };
      this.#wake?.();
    });
  }

  /** The next item; `undefined` when the handoff is closed. */
  async take(): Promise<Item | undefined> {
    while (this.#item === undefined && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const item = this.#item;
    this.#item = undefined;
    item?.taken();
    return item?.value;
  }

  /** An item that was put stays; later ones are dropped. */
  close(): void {
    this.#closed = true;
    this.#item?.taken();
    this.#wake?.();
  }
}
