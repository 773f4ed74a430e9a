import { CTRL } from "../keyboard";
import { dialog } from "../state";
import { Dialog } from "./Dialog";

const KEYS: [string, string[]][] = [
  ["Send", ["Enter"]],
  ["New line", ["Shift", "Enter"]],
  ["Edit the last message", ["↑"]],
  ["Stop the reply", ["Esc"]],
  ["Go to a chat, or do something", [CTRL, "K"]],
  ["New chat", [CTRL, "Shift", "O"]],
  ["Settings of this chat", [CTRL, ","]],
  ["Write in the message box", ["/"]],
  ["This list", [CTRL, "/"]],
];

export function Shortcuts() {
  return (
    <Dialog
      testid="shortcuts-dialog"
      title="Keyboard shortcuts"
      closeTestid="shortcuts-close"
      class="narrow"
      onClose={() => {
        dialog.value = null;
      }}
    >
      <dl class="keys">
        {KEYS.map(([what, keys]) => (
          <div key={what}>
            <dt>{what}</dt>
            <dd>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
