/** Strokes on a 20 x 20 grid, drawn in the text's colour. The words stand on the button. */

const PATHS = {
  plus: "M10 4v12M4 10h12",
  menu: "M3.500 5.500h13M3.500 10h13M3.500 14.500h13",
  close: "M5 5l10 10M15 5L5 15",
  more: "M4.500 10h.01M10 10h.01M15.500 10h.01",
  send: "M10 16V4.500M5 9.500l5-5 5 5",
  copy: "M7.500 7.500V4.500a1 1 0 0 1 1-1h7a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1h-3M4.500 7.500h7a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1h-7a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1Z",
  check: "M4 10.500l4 4 8-9",
  again: "M16 10a6 6 0 1 1-1.800-4.300M16 3v3.500h-3.500",
  edit: "M4 16l.8-3.600 8.400-8.400a1.500 1.500 0 0 1 2.100 0l.7.7a1.500 1.500 0 0 1 0 2.100l-8.400 8.400L4 16Z",
  sliders: "M3.500 6.500h6M13.500 6.500h3M3.500 13.500h3M10.500 13.500h6M11.500 4.500v4M8.500 11.500v4",
  sun: "M10 6.700a3.300 3.300 0 1 0 0 6.600 3.300 3.300 0 0 0 0-6.600ZM10 2v1.700M10 16.300V18M2 10h1.700M16.300 10H18M4.300 4.300l1.200 1.200M14.500 14.500l1.200 1.200M4.300 15.700l1.200-1.200M14.500 5.500l1.200-1.200",
  moon: "M16.500 11.800A6.800 6.800 0 0 1 8.200 3.500a6.800 6.800 0 1 0 8.300 8.300Z",
  auto: "M10 3.500a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13ZM10 3.500v13M10 7h4.500M10 10h6.300M10 13h4.800",
  find: "M9 3.500a5.500 5.500 0 1 0 0 11 5.500 5.500 0 0 0 0-11ZM13 13l4 4",
  upload: "M10 12.500V4M6.500 7.500L10 4l3.500 3.500M4 13v2a1.500 1.500 0 0 0 1.500 1.500h9A1.500 1.500 0 0 0 16 15v-2",
  download: "M10 4v8.500M6.500 9L10 12.500 13.500 9M4 13v2a1.500 1.500 0 0 0 1.500 1.500h9A1.500 1.500 0 0 0 16 15v-2",
  keyboard:
    "M3.500 5.500h13a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1h-13a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1ZM5.500 8.500h.01M8.500 8.500h.01M11.500 8.500h.01M14.500 8.500h.01M7 11.500h6",
  trash: "M4 5.500h12M8 5.500V4h4v1.500M5.500 5.500l.7 10.500h7.600l.7-10.500",
  down: "M10 4.500V15M5.500 10.500L10 15l4.500-4.500",
  alert: "M10 3.500l7 12.500H3l7-12.500ZM10 8.500v3.500M10 14h.01",
  forward: "M4 10h11M11 6l4 4-4 4",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function StopIcon() {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <rect class="filled" x="6" y="6" width="8" height="8" rx="1.500" />
    </svg>
  );
}

export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect class="logo-ground" width="32" height="32" rx="9" />
      <path
        class="logo-bubble"
        d="M16 7.500c5.200 0 9 3.300 9 7.700s-3.800 7.700-9 7.700c-1 0-2-.1-2.900-.4L8.600 25l.9-4.300C8 19.300 7 17.400 7 15.200c0-4.400 3.800-7.700 9-7.700Z"
      />
    </svg>
  );
}
