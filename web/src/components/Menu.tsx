import { useEffect, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "./Icons";

export type MenuItem = { testid: string; label: string; icon: IconName; isDangerous?: boolean; act: () => void };

/** A button that opens a list of actions: arrows move, Escape closes and gives the focus back. */
export function Menu({ testid, label, items }: { testid: string; label: string; items: MenuItem[] }) {
  const [isOpen, setOpen] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const list = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!isOpen || !list.current || !button.current) return;
    const menu = list.current;
    const at = button.current.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = menu;
    menu.style.left = `${Math.max(8, Math.min(at.right - width, window.innerWidth - width - 8))}px`;
    menu.style.top = `${at.bottom + 4 + height > window.innerHeight ? Math.max(8, at.top - height - 4) : at.bottom + 4}px`;
    menu.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const shut = (event: Event) => {
      if (!menu.contains(event.target as Node) && !button.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", shut);
    document.addEventListener("scroll", shut, true);
    return () => {
      document.removeEventListener("pointerdown", shut);
      document.removeEventListener("scroll", shut, true);
    };
  }, [isOpen]);

  const close = () => {
    setOpen(false);
    button.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const all = Array.from(list.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? []);
    const index = all.indexOf(document.activeElement as HTMLElement);
    const steps: Record<string, number> = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: all.length - 1 };
    const to = steps[event.key];
    if (to !== undefined) all[(to + all.length) % all.length]?.focus();
    else if (event.key === "Escape") close();
    else if (event.key === "Tab") setOpen(false);
    else return;
    if (event.key !== "Tab") event.preventDefault();
    event.stopPropagation();
  };
  return (
    <>
      <button
        ref={button}
        type="button"
        class="icon-button small"
        data-testid={testid}
        aria-label={label}
        aria-haspopup="menu"
        aria-expanded={isOpen}
        onClick={() => setOpen(!isOpen)}
      >
        <Icon name="more" />
      </button>
      {isOpen && (
        <div ref={list} class="menu" role="menu" aria-label={label} onKeyDown={onKeyDown}>
          {items.map((item) => (
            <button
              key={item.testid}
              type="button"
              role="menuitem"
              tabindex={-1}
              class={item.isDangerous ? "menu-item dangerous" : "menu-item"}
              data-testid={item.testid}
              onClick={() => {
                close();
                item.act();
              }}
            >
              <Icon name={item.icon} />
              {item.label}
            </button>
          ))}
        </div>
      )}
    </>
  );
}
