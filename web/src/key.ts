/** Where the API key is kept: for the tab, or in this browser where its user ticked the box. Never in an address. */

const NAME = "ochatctl.key";

function stores(): Storage[] {
  try {
    return [sessionStorage, localStorage];
  } catch {
    return []; // storage is shut off; the key lives in `held` as long as the page
  }
}

let held = "";

/** Gives the key, empty where none is known. */
export function apiKey(): string {
  for (const store of stores()) {
    const key = store.getItem(NAME);
    if (key) return key;
  }
  return held;
}

/** Whether the key outlives the tab. */
export function keyIsRemembered(): boolean {
  return Boolean(stores()[1]?.getItem(NAME));
}

export function keepKey(key: string, remember: boolean): void {
  forgetKey();
  held = key;
  stores()[remember ? 1 : 0]?.setItem(NAME, key);
}

export function forgetKey(): void {
  held = "";
  for (const store of stores()) store.removeItem(NAME);
}
