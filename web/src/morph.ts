/**
 * Makes a tree look like another with the fewest changes: what stays the same keeps its selection, its scroll position
 * and its focus while a reply grows.
 */
export function morph(target: Element, wanted: ParentNode): void {
  const nodes = Array.from(wanted.childNodes);
  for (const [index, node] of nodes.entries()) {
    const there = target.childNodes[index];
    if (!there) target.append(node);
    else if (!there.isEqualNode(node)) adjust(there, node);
  }
  while (target.childNodes.length > nodes.length) target.lastChild?.remove();
}

function adjust(there: ChildNode, node: ChildNode): void {
  if (there instanceof Text && node instanceof Text) {
    there.data = node.data;
  } else if (there instanceof Element && node instanceof Element && there.nodeName === node.nodeName) {
    for (const { name } of Array.from(there.attributes)) if (!node.hasAttribute(name)) there.removeAttribute(name);
    for (const { name, value } of Array.from(node.attributes)) {
      if (there.getAttribute(name) !== value) there.setAttribute(name, value);
    }
    morph(there, node);
  } else {
    there.replaceWith(node);
  }
}
