/** Gives a reply's Markdown as safe HTML. */
export function renderMarkdown(text: string): string {
  const safe = text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);
  return safe
    .split(/\n{2,}/)
    .map((part) => `<p>${part}</p>`)
    .join("");
}
