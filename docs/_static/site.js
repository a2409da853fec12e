/* Names for what the theme leaves without one, or calls otherwise than it shows. */
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".search-button-field"))
    button.setAttribute("aria-label", button.textContent.replace(/\s+/g, " ").trim());
  for (const toggle of document.querySelectorAll("summary:has(> .toctree-toggle)")) {
    const page = toggle.closest("li")?.querySelector("a")?.textContent.trim();
    toggle.setAttribute("aria-label", page ? `Pages below ${page}` : "Pages below");
  }
});
