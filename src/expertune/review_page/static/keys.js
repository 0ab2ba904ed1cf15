// Keys: a digit rates, u undoes, c opens the comment, Escape leaves it, m shows or hides the marks, Enter keeps a rating.
// Everything is a button as well; this file only presses it.
(() => {
  "use strict";
  const find = (id) => document.getElementById(id);
  const typing = (target) => target.closest("textarea, input:not([type=hidden]), select, [contenteditable]");
  let marks = true;

  const showMarks = () => {
    find("text")?.classList.toggle("plain", !marks);
    find("marks")?.setAttribute("aria-pressed", String(marks));
  };
  const alertUser = (text) => {
    const line = find("alert");
    line.textContent = text;
    line.hidden = !text;
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
    if (typing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const onControl = event.target.closest("button, a, summary");
    if (event.key === "Enter" && onControl) return;  // it presses what has the focus
    if (event.key === "c" && find("comment")) {
      event.preventDefault();
      find("comment").focus();
      return;
    }
    const button = [...document.querySelectorAll("[data-keys]")]
      .find((each) => each.dataset.keys.split(" ").includes(event.key));
    if (button) {
      event.preventDefault();
      button.click();
    }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#marks")) {
      marks = !marks;
      showMarks();
    }
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "work") return;
    alertUser("");
    showMarks();
    find("title")?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  });
  const lost = "Not saved: expertune review does not answer any more. Start it again and open the address that it prints.";
  for (const name of ["htmx:sendError", "htmx:timeout"]) document.addEventListener(name, () => alertUser(lost));
  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    alertUser(status === 404 ? lost : status === 507 ? responseText : `Not saved (error ${status}). Load the page again.`);
  });
})();
