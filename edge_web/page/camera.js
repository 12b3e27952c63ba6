/** @file Takes a photo with the camera of this device, as large as the camera gives it. */

/** What went wrong, in words for people. @type {Record<string, string>} */
const FAILURES = {
  NotAllowedError: "This page may not use the camera. Allow it in the browser's settings, or choose a photo.",
  NotFoundError: "No camera was found. Choose a photo instead.",
  NotReadableError: "The camera is in use by another program. Close that program, or choose a photo.",
};

/** Whether this browser lets pages see the camera; on plain http it lets none. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** The camera cannot be used; the message says what to do. */
export class CameraError extends Error {}

/**
 * Show the finder until a photo is taken or the dialog is closed.
 *
 * @param {HTMLDialogElement} dialog with a video and the buttons `#shoot` and `#close`
 * @returns {Promise<Blob | null>} null if it was closed
 */
export async function takePhoto(dialog) {
  const video = /** @type {HTMLVideoElement} */ (dialog.querySelector("video"));
  const stream = await openCamera();
  try {
    video.srcObject = stream;
    dialog.showModal();
    return await new Promise((resolve, reject) => {
      const [shoot, close] = ["#shoot", "#close"].map((id) => /** @type {HTMLElement} */ (dialog.querySelector(id)));
      shoot.onclick = () => still(stream, video).then(resolve, reject);
      close.onclick = () => dialog.close();
      dialog.onclose = () => resolve(null);
    });
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    dialog.onclose = null;
    dialog.close();
  }
}

async function openCamera() {
  const video = { facingMode: { ideal: "environment" }, width: { ideal: 4096 }, height: { ideal: 2160 } };
  try {
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    throw new CameraError(FAILURES[name] ?? "The camera cannot be used. Choose a photo instead.");
  }
}

/**
 * Return a still: of the sensor where the browser offers that and it is larger, else the video's frame.
 *
 * @param {MediaStream} stream
 * @param {HTMLVideoElement} video
 * @returns {Promise<Blob>}
 */
async function still(stream, video) {
  const Capture = /** @type {any} */ (globalThis).ImageCapture;
  if (Capture) {
    try {
      return await new Capture(stream.getVideoTracks()[0]).takePhoto();
    } catch {
      // Some cameras offer no stills; the frame is there all the same.
    }
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new CameraError("The camera gave no picture."))),
      "image/jpeg", 0.95);
  });
}
