import { useRef, useState } from "preact/hooks";
import { connect, giveUpKey } from "../actions";
import { keepKey } from "../key";
import { dialog, keyWasWrong } from "../state";
import { Dialog } from "./Dialog";

export function KeyDialog() {
  const input = useRef<HTMLInputElement>(null);
  const box = useRef<HTMLInputElement>(null);
  const [isChecking, setChecking] = useState(false);
  const save = async (event: Event) => {
    event.preventDefault();
    const key = input.current?.value.trim();
    if (!key) return;
    keepKey(key, box.current?.checked ?? false);
    keyWasWrong.value = false;
    setChecking(true);
    await connect();
    setChecking(false);
    if (dialog.value === "key") input.current?.select();
  };
  return (
    <Dialog testid="key-dialog" title="API key" class="narrow" onClose={giveUpKey}>
      <form class="key-form" onSubmit={save}>
        <p>This server answers only who has a key. Whoever runs it can give you one.</p>
        <div class={keyWasWrong.value ? "field wrong" : "field"}>
          <label for="key">Key</label>
          <input
            ref={input}
            id="key"
            type="password"
            data-first
            data-testid="key-input"
            autocomplete="off"
            spellcheck={false}
            aria-invalid={keyWasWrong.value}
            aria-describedby="key-error"
          />
          <p class="hint" id="key-error" role="alert" data-testid="key-error">
            {keyWasWrong.value ? "The server does not know this key." : ""}
          </p>
        </div>
        <label class="check">
          <input ref={box} type="checkbox" data-testid="key-remember" />
          <span>
            Remember on this computer
            <small>Otherwise it is forgotten when this tab is closed.</small>
          </span>
        </label>
        <div class="dialog-foot">
          <button type="button" class="button quiet" data-testid="key-cancel" onClick={giveUpKey}>
            Not now
          </button>
          <button type="submit" class="button primary" data-testid="key-save" disabled={isChecking}>
            {isChecking ? "Checking…" : "Use this key"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
