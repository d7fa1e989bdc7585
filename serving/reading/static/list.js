// Keys of the work-list: N and P turn pages, J and K go from case to case, / goes to the search.
"use strict";
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const link = { n: "a[rel=next]", p: "a[rel=prev]" }[event.key.toLowerCase()];
  if (link) { document.querySelector(link)?.click(); return; }
  if (event.key === "/") { event.preventDefault(); document.querySelector("input[type=search]")?.focus(); return; }
  const step = { j: 1, k: -1 }[event.key.toLowerCase()];
  if (!step) return;
  const cases = [...document.querySelectorAll(".case-link")], at = cases.indexOf(document.activeElement);
  cases[at < 0 ? (step > 0 ? 0 : cases.length - 1) : Math.max(0, Math.min(cases.length - 1, at + step))]?.focus();
});
