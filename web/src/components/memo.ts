import { Component, type ComponentType, h } from "preact";

/** Draws a component again only where a property changed: a reply under way leaves the other messages alone. */
export function memo<P extends object>(Inner: ComponentType<P>) {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      const [before, after] = [this.props as Record<string, unknown>, next as Record<string, unknown>];
      return [...Object.keys(before), ...Object.keys(after)].some((name) => before[name] !== after[name]);
    }

    override render(props: P) {
      return h(Inner, props as P & { children?: never });
    }
  };
}
