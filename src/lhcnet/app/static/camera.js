// The camera: a live picture, and snapshots of it as files.

const byId = (id) => document.getElementById(id);
const WHY = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the browser's settings.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is in use by another program.",
};
let stream = null;

function show(open) {
  byId("camera").hidden = !open;
  byId("camera-start").hidden = open;
  byId(open ? "camera-take" : "camera-start").focus();
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("video").srcObject = null;
}

export function connectCamera(onPicture, onError) {
  byId("camera-start").addEventListener("click", async () => {
    if (!navigator.mediaDevices) {
      onError("Browsers give the camera only to pages of this machine (localhost) or with https.");
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false });
    } catch (error) {
      onError(WHY[error.name] ?? `The camera cannot be used: ${error.message}`);
      return;
    }
    const video = byId("video");
    video.srcObject = stream;
    await video.play(); // until the first picture is there
    show(true);
  });
  byId("camera-take").addEventListener("click", () => {
    const video = byId("video");
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => onPicture(new File([blob], `Camera, ${new Date().toLocaleTimeString()}`)), "image/png");
  });
  byId("camera-stop").addEventListener("click", () => {
    stop();
    show(false);
  });
  window.addEventListener("pagehide", stop);
}
