import { render } from "preact";

render(<main>ochatctl</main>, document.getElementById("app") as HTMLElement);
