import { render } from "preact";
import { connect } from "./actions";
import { App } from "./components/App";
import { loadLibrary } from "./library";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/content.css";
import "./styles/controls.css";

const root = document.getElementById("app");
if (root) render(<App />, root);
void loadLibrary();
void connect();
