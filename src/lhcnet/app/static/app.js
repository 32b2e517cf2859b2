// The page: takes pictures, asks the server about one after the other, shows its answers. Nothing is stored.

import { connectCamera } from "./camera.js";
import { label, pictureNode, summary } from "./results.js";

const MOST = 50; // pictures on the page
const byId = (id) => document.getElementById(id);
const model = await (await fetch("/api/model")).json();
let pictures = []; // {file, node, answer}; the first is shown last
let waiting = [];
let busy = false;

const threshold = () => byId("threshold").value / 20;
const say = (text) => (byId("status").textContent = text);

function sayError(text) {
  const item = document.createElement("p");
  item.textContent = text;
  byId("errors").append(item);
}

async function post(path, query, file) {
  try {
    const response = await fetch(`${path}?${new URLSearchParams(query)}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
    });
    return await response.json();
  } catch {
    return { error: "the server does not answer, or the file can no longer be read" };
  }
}

const explain = (file) => (face, method) => {
  const [left, top, right, bottom] = face.box;
  return post("/api/explain", { method, label: face.best, left, top, right, bottom }, file);
};

function tooLarge(file) {
  const mb = (file.size / 2 ** 20).toFixed(1);
  return `has ${mb} MB, expected a picture of ${model.largest_file / 2 ** 20} MB at most`;
}

async function ask(picture) {
  const { file } = picture;
  const name = file.name || "Pasted picture";
  say(waiting.length ? `Looking at ${name}; ${waiting.length} more to come…` : `Looking at ${name}…`);
  const begin = performance.now();
  const query = { tta: byId("tta").checked, find: byId("find").checked };
  const answer = file.size > model.largest_file ? { error: tooLarge(file) } : await post("/api/predict", query, file);
  if (!pictures.includes(picture)) return; // the results were cleared meanwhile
  if (answer.error) {
    picture.node?.remove();
    pictures = pictures.filter((other) => other !== picture);
    sayError(`${name}: ${answer.error}`);
    say("");
    return;
  }
  const node = pictureNode(name, answer, performance.now() - begin, model.methods, explain(file));
  label(node, answer, threshold());
  if (picture.node) picture.node.replaceWith(node);
  else byId("results").prepend(node);
  Object.assign(picture, { node, answer });
  say(summary(name, answer, threshold()));
}

// One picture at a time: the server computes one at a time as well.
async function work() {
  if (busy) return;
  busy = true;
  while (waiting.length) await ask(waiting.shift());
  busy = false;
  byId("clear").disabled = !pictures.length && !byId("errors").children.length;
}

function take(files) {
  const list = [...files];
  if (!list.length) return;
  byId("errors").replaceChildren();
  const room = MOST - pictures.length;
  if (list.length > room) {
    sayError(`This page shows ${MOST} pictures; ${list.length - room} were left out. “lhcnet predict” takes whole folders.`);
  }
  const added = list.slice(0, Math.max(0, room)).map((file) => ({ file, node: null, answer: null }));
  pictures.push(...added);
  waiting.push(...added);
  byId("clear").disabled = false;
  work();
}

function again() {
  byId("errors").replaceChildren();
  waiting = [...pictures];
  work();
}

function showThreshold() {
  const value = threshold();
  const said = model.validation[byId("tta").checked ? "tta" : "plain"][byId("threshold").value];
  byId("threshold-value").textContent = `${Math.round(100 * value)} %`;
  byId("threshold").setAttribute("aria-valuetext", `${Math.round(100 * value)} percent`);
  byId("threshold-hint").textContent = value ? said.replaceAll(" %", "\u00a0%") : "Every face gets a label.";
  for (const { node, answer } of pictures) if (node) label(node, answer, value);
}

function describe() {
  const about = byId("about");
  about.textContent = `Model ${model.name}`;
  if (model.card) {
    const link = document.createElement("a");
    link.href = "/card";
    link.textContent = "Model card";
    about.append(" · ", link);
  }
  byId("find").disabled = !model.finds_faces;
  byId("find").checked = model.finds_faces;
  if (!model.finds_faces) {
    byId("find-hint").textContent = `Each picture is taken as one face that fills it. ${model.why_no_finder}`;
  }
  if (model.tta.length === 1) {
    byId("tta").disabled = true;
    byId("tta").checked = model.tta[0];
    byId("tta-hint").textContent = `This file was exported ${model.tta[0] ? "with" : "without"} it.`;
  }
}

describe();
showThreshold();
connectCamera((file) => take([file]), (why) => {
  byId("errors").replaceChildren();
  sayError(why);
});
byId("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
byId("find").addEventListener("change", again);
byId("tta").addEventListener("change", () => {
  showThreshold();
  again();
});
byId("threshold").addEventListener("input", showThreshold);
byId("clear").addEventListener("click", () => {
  pictures = [];
  waiting = [];
  byId("results").replaceChildren();
  byId("errors").replaceChildren();
  byId("clear").disabled = true;
  byId("files").focus();
  say("No picture yet.");
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
document.body.dataset.ready = "true";
