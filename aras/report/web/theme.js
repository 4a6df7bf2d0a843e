// Before anything is drawn: the scheme that the reader chose last time. Where nothing is kept, the system's holds.
try {
  const kept = localStorage.getItem("aras-report-scheme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.scheme = kept;
} catch {
  document.documentElement.dataset.storage = "none";
}
