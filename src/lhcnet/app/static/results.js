// One answer of the server as a part of the page. Text is set as text: nothing in an answer becomes HTML.

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0095 ? 1 : 0)} %`;
const NOTES = {
  blank: "The picture is blank there: the answer says nothing.",
  "no face found": "No face was found in it: the answer may say nothing.",
};
const SAYS = {
  cam: "Bright, within the white line: where the last feature maps speak most for",
  occlusion: "Bright, within the white line: where a grey patch takes most probability from",
  attention: "Bright, within the white line: where the attention modules look, whatever the class; the answer was",
};

const copy = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

function title(face, number, several, threshold) {
  const name = several ? `Face ${number}: ` : "";
  return face.confidence < threshold
    ? `${name}unsure, perhaps ${face.best} (${percent(face.confidence)})`
    : `${name}${face.best}, ${percent(face.confidence)}`;
}

function row(name, share, best) {
  const found = document.createElement("tr");
  found.classList.toggle("best", best);
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const cell = document.createElement("td");
  const amount = document.createElement("div");
  amount.className = "amount";
  const track = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  const bar = document.createElement("i");
  bar.style.width = `${100 * share}%`;
  track.append(bar);
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = percent(share);
  number.dataset.probability = share;
  amount.append(track, number);
  cell.append(amount);
  found.append(head, cell);
  return found;
}

function explanation(node, face, name, methods, ask) {
  const group = node.querySelector(".explain");
  const image = node.querySelector(".crop");
  const said = node.querySelector(".explanation");
  group.hidden = !Object.keys(methods).length;
  group.setAttribute("aria-label", `Explain ${name}`);
  const label = document.createElement("span");
  label.textContent = "Why?";
  group.append(label);
  for (const [method, title] of Object.entries(methods)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", async () => {
      const on = button.getAttribute("aria-pressed") === "false";
      for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      image.src = face.crop;
      said.textContent = "";
      if (!on) return;
      button.setAttribute("aria-pressed", "true");
      said.textContent = "Computing the explanation…";
      const answer = await ask(face, method);
      if (button.getAttribute("aria-pressed") === "false") return; // another one was asked for meanwhile
      if (answer.error) {
        button.setAttribute("aria-pressed", "false");
        said.textContent = `There is no such explanation: ${answer.error}`;
        return;
      }
      image.src = answer.overlay;
      said.textContent =
        `${SAYS[method] ?? "Bright, within the white line: what speaks most for"} ${face.best}. ` +
        `It shows what the network looked at, no reason in the face. ${Math.round(answer.milliseconds)} ms.`;
    });
    group.append(button);
  }
}

function faceNode(face, number, several, methods, ask) {
  const node = copy("face-template");
  const name = several ? `face ${number}` : "the face";
  node.querySelector(".crop").src = face.crop;
  node.querySelector(".crop").alt = `Cut-out of ${name}`;
  node.querySelector("caption").textContent = `Probabilities of ${name}`;
  const notes = [face.calibrated ? "" : "Not calibrated: the model has no temperature.", face.unlike && (NOTES[face.unlike] ?? `Unlike FER2013: ${face.unlike}.`)];
  node.querySelector(".notes").textContent = notes.filter(Boolean).join(" ");
  const shares = Object.entries(face.probabilities).sort((a, b) => b[1] - a[1]);
  node.querySelector("tbody").append(...shares.map(([label, share]) => row(label, share, label === face.best)));
  explanation(node, face, name, methods, ask);
  return node;
}

function boxNode(face, number, answer) {
  const [left, top, right, bottom] = face.box;
  const node = document.createElement("span");
  node.dataset.number = number;
  node.style.left = `${(100 * left) / answer.width}%`;
  node.style.top = `${(100 * top) / answer.height}%`;
  node.style.width = `${(100 * (right - left)) / answer.width}%`;
  node.style.height = `${(100 * (bottom - top)) / answer.height}%`;
  return node;
}

// Whether labels are given, with the threshold of the page.
export function label(node, answer, threshold) {
  const several = answer.faces.length > 1;
  const boxes = node.querySelectorAll(".boxes span");
  node.querySelectorAll(".face").forEach((part, index) => {
    const face = answer.faces[index];
    part.querySelector("h4").textContent = title(face, index + 1, several, threshold);
    part.classList.toggle("unsure", face.confidence < threshold);
    boxes[index]?.classList.toggle("unsure", face.confidence < threshold);
  });
}

export function summary(name, answer, threshold) {
  if (!answer.faces.length) return `${name}: no face was found.`;
  const several = answer.faces.length > 1;
  const faces = answer.faces.map((face, index) => title(face, index + 1, several, threshold)).join("; ");
  return `${name}: ${several ? `${answer.faces.length} faces. ` : ""}${faces}.`;
}

export function pictureNode(name, answer, roundTrip, methods, ask) {
  const node = copy("picture-template");
  const count = answer.faces.length;
  node.querySelector("h3").textContent = name;
  const image = node.querySelector("img");
  image.src = answer.preview;
  image.alt = answer.found ? `${name}, with ${count} ${count === 1 ? "face" : "faces"}` : name;
  node.querySelector(".framed").style.width = `min(100%, ${(30 * answer.width) / answer.height}rem)`; // 30 rem high at most
  if (answer.found) {
    node.querySelector(".boxes").append(...answer.faces.map((face, index) => boxNode(face, index + 1, answer)));
  }
  const { read, predict } = answer.milliseconds;
  node.querySelector("figcaption").textContent =
    `${answer.width} × ${answer.height} pixels. Predicted in ${Math.round(predict)} ms${answer.tta ? " with test-time augmentation" : ""}; ` +
    `reading took ${Math.round(read)} ms, the whole answer ${Math.round(roundTrip)} ms.`;
  const faces = node.querySelector(".faces");
  if (!count) {
    const none = document.createElement("p");
    none.textContent = "No face was found. If one fills the picture, switch “Find faces” off.";
    faces.append(none);
  }
  faces.append(...answer.faces.map((face, index) => faceNode(face, index + 1, count > 1, methods, ask)));
  return node;
}
