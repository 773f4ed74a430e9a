// Before the first paint, so that a page in the chosen colours does not flash in the other ones.
try {
  const theme = localStorage.getItem("ochatctl.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is shut off: the system's colours it is.
}
