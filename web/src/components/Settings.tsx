import { useState } from "preact/hooks";
import { forgetKeyAndAsk } from "../actions";
import { apiKey, keyIsRemembered } from "../key";
import { change } from "../library";
import { notify } from "../notices";
import { current, dialog, model, models, NO_DEFAULTS, saveDefaults } from "../state";
import type { Conversation, Params } from "../types";
import { Dialog } from "./Dialog";

const close = () => {
  dialog.value = null;
};

function set(part: Partial<Conversation>): void {
  const entry = current.value;
  const { updated, messages } = entry.conversation.value;
  // An empty conversation is not stored: its settings go with its first message.
  if (messages.length) change(entry, (conversation) => ({ ...conversation, ...part }), updated);
  else entry.conversation.value = { ...entry.conversation.value, ...part };
}

export function Settings() {
  const { system, model: chosen, condition, params } = current.value.conversation.value;
  const [epoch, setEpoch] = useState(0); // typed and refused values go when all is reset
  const card = model.value;
  const isServed = !chosen || models.value.some((each) => each.id === chosen);
  return (
    <Dialog testid="settings" title="Settings of this chat" closeTestid="settings-close" class="sheet" onClose={close}>
      <div class="fields" key={epoch}>
        <div class="field">
          <label for="system">System prompt</label>
          <textarea
            id="system"
            rows={4}
            data-first
            data-testid="setting-system"
            dir="auto"
            aria-describedby="system-hint"
            defaultValue={system}
            onInput={(event) => set({ system: event.currentTarget.value })}
          />
          <p class="hint" id="system-hint">
            What the model is told before the conversation. Not every model takes one.
          </p>
        </div>
        <div class="field">
          <label for="model">Model</label>
          <select
            id="model"
            data-testid="setting-model"
            value={isServed ? (card?.id ?? "") : chosen}
            onChange={(event) => set({ model: event.currentTarget.value })}
          >
            {!isServed && <option value={chosen}>{chosen} (not served here)</option>}
            {models.value.map((each) => (
              <option key={each.id} value={each.id}>
                {each.id}
              </option>
            ))}
          </select>
          {!isServed && card && <p class="hint">{`${card.id} answers instead.`}</p>}
        </div>
        {card?.default_condition !== null && (
          <Condition value={condition} standard={card?.default_condition ?? ""} known={card?.conditions ?? []} />
        )}
        <div class="pair">
          <NumberField
            name="temperature"
            label="Temperature"
            hint="Higher is freer"
            range="from 0 to 2"
            testid="setting-temperature"
            params={params}
            step={0.1}
            check={(n) => n >= 0 && n <= 2}
          />
          <NumberField
            name="topP"
            label="Top p"
            hint="Likeliest words only"
            range="above 0, up to 1"
            testid="setting-top-p"
            params={params}
            step={0.05}
            check={(n) => n > 0 && n <= 1}
          />
          <NumberField
            name="maxTokens"
            label="Max tokens"
            hint="The longest reply"
            range="a whole number from 1"
            testid="setting-max-tokens"
            params={params}
            step={1}
            check={(n) => Number.isInteger(n) && n >= 1}
          />
          <NumberField
            name="seed"
            label="Seed"
            hint="Same seed, same draw"
            range="a whole number"
            testid="setting-seed"
            params={params}
            step={1}
            check={Number.isSafeInteger}
          />
        </div>
        <p class="hint">A field left empty is the server's default.</p>
      </div>
      <div class="sheet-foot">
        <button
          type="button"
          class="button"
          data-testid="settings-default"
          onClick={() => {
            const kept = saveDefaults({ system, model: chosen, condition, params });
            notify(kept ? "New chats start with these settings." : "This browser does not let the page keep settings.");
          }}
        >
          Use for new chats
        </button>
        <button
          type="button"
          class="button quiet"
          data-testid="settings-reset"
          onClick={() => {
            set(NO_DEFAULTS);
            setEpoch(epoch + 1);
          }}
        >
          Reset
        </button>
        {apiKey() && (
          <button type="button" class="button quiet push" data-testid="key-forget" onClick={forgetKeyAndAsk}>
            {keyIsRemembered() ? "Forget the API key" : "Change the API key"}
          </button>
        )}
      </div>
    </Dialog>
  );
}

function Condition({ value, standard, known }: { value: string; standard: string; known: string[] }) {
  const usual = standard ? `Default (${standard})` : "Default";
  return (
    <div class="field">
      <label for="condition">Condition</label>
      {known.length ? (
        <select
          id="condition"
          data-testid="setting-condition"
          aria-describedby="condition-hint"
          value={value}
          onChange={(event) => set({ condition: event.currentTarget.value })}
        >
          <option value="">{usual}</option>
          {value && !known.includes(value) && <option value={value}>{value} (not trained)</option>}
          {known.map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      ) : (
        <input
          id="condition"
          data-testid="setting-condition"
          aria-describedby="condition-hint"
          placeholder={usual}
          autocomplete="off"
          spellcheck={false}
          defaultValue={value}
          onInput={(event) => set({ condition: event.currentTarget.value.trim() })}
        />
      )}
      <p class="hint" id="condition-hint">
        Which of its sources the model speaks as, where it was trained on several.
      </p>
    </div>
  );
}

type NumberProps = {
  name: keyof Params;
  label: string;
  hint: string;
  range: string;
  testid: string;
  params: Params;
  step: number;
  check: (value: number) => boolean;
};

function NumberField({ name, label, hint, range, testid, params, step, check }: NumberProps) {
  const [isWrong, setWrong] = useState(false);
  return (
    <div class={isWrong ? "field wrong" : "field"}>
      <label for={name}>{label}</label>
      <input
        id={name}
        type="number"
        inputMode={step === 1 ? "numeric" : "decimal"}
        step={step === 1 ? 1 : "any"}
        data-testid={testid}
        placeholder="Default"
        aria-describedby={`${name}-hint`}
        aria-invalid={isWrong}
        defaultValue={params[name]?.toString() ?? ""}
        onInput={(event) => {
          const { value, validity } = event.currentTarget;
          const number = Number(value);
          const isBad = validity.badInput || (value !== "" && !check(number));
          setWrong(isBad);
          if (isBad) return;
          const { [name]: _, ...others } = current.value.conversation.value.params;
          set({ params: value === "" ? others : { ...others, [name]: number } });
        }}
      />
      <p class="hint" id={`${name}-hint`}>
        {isWrong ? `Not taken: ${range}` : hint}
      </p>
    </div>
  );
}
