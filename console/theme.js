// Before anything is drawn, so that the page never flashes in the other colours: what was chosen here, or nothing, which means what the system says.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("genloop.theme"); } catch { /* storage is switched off: the system's colours */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
