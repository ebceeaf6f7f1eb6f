"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("try"), body = byId("body"), answer = byId("answer"), summary = byId("summary"), ready = byId("ready");
const button = form.querySelector("button[type=submit]");

/* Arrays of plain values stay on one line: a row of a table is read as a row. */
function pretty(value, indent = "") {
  const deeper = indent + "  ";
  if (Array.isArray(value)) {
    if (value.every((item) => item === null || typeof item !== "object")) {
      return "[" + value.map((item) => JSON.stringify(item)).join(", ") + "]";
    }
    return "[\n" + value.map((item) => deeper + pretty(item, deeper)).join(",\n") + "\n" + indent + "]";
  }
  if (value !== null && typeof value === "object") {
    const lines = Object.entries(value).map(([key, item]) => deeper + JSON.stringify(key) + ": " + pretty(item, deeper));
    return lines.length ? "{\n" + lines.join(",\n") + "\n" + indent + "}" : "{}";
  }
  return JSON.stringify(value);
}

function show(text, state, note) {
  answer.textContent = text;
  answer.dataset.state = state;
  summary.textContent = note;
}

async function predict() {
  button.disabled = true;
  const start = performance.now();
  try {
    const response = await fetch("api/model/invoke", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: body.value,
    });
    const text = await response.text();
    const note = `${response.status} · ${Math.round(performance.now() - start)} ms`;
    const warning = response.headers.get("Mpack-Warning");
    let shown = text;
    /* Numbers beyond 2^53 would change in JSON.parse: then the text is shown as it came. */
    try { if (!/\d{16}/.test(text)) shown = pretty(JSON.parse(text)); } catch { /* not JSON: as it is */ }
    show(shown, response.ok ? "good" : "bad", warning ? `${note} · ${warning}` : note);
  } catch (error) {
    show(`The service cannot be reached: ${error.message}`, "bad", "");
  } finally {
    button.disabled = false;
  }
}

async function look() {
  let state = "away", text = "not reachable";
  try {
    const response = await fetch("readyz");
    state = response.ok ? "ready" : "waiting";
    text = response.ok ? "ready" : "not ready";
  } catch { /* stays "not reachable" */ }
  ready.dataset.state = state;
  ready.textContent = text;
}

form.addEventListener("submit", (event) => { event.preventDefault(); predict(); });
body.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
});
byId("reset").addEventListener("click", () => { body.value = body.defaultValue; body.focus(); });
byId("copy").addEventListener("click", async (event) => {
  const copied = event.currentTarget;
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    copied.textContent = "Copied";
  } catch {
    /* No clipboard without a secure context: select it, so that a key press copies it. */
    getSelection().selectAllChildren(byId("curl"));
    copied.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => { copied.textContent = "Copy the command"; }, 2500);
});
look();
