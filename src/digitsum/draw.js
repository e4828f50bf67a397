// A drawing area: after each stroke it sends `model` the drawing, a PNG in base64, and shows what draw.py reads in it.
// In a notebook `model` is anywidget's. On the page of `python -m digitsum draw`, the last lines stand in for it.
const FRAME = `<style>
  .digitsum { max-width: 960px; margin: 1rem auto; font: 1rem/1.5 system-ui, sans-serif; }
  .digitsum div, .digitsum button { overflow: hidden; margin-bottom: 1em; border: 1px solid #8888; border-radius: 8px; }
  .digitsum canvas { display: block; cursor: crosshair; touch-action: none; user-select: none; }
  .digitsum button { float: right; padding: 0.4em 1.2em; background: none; color: inherit; font: inherit; }
  .digitsum output { display: block; min-height: 6em; white-space: pre-line; }
  .digitsum output::first-line { font-size: 1.8em; }
  .digitsum img { max-width: 100%; border-radius: 8px; }
</style>
<section class="digitsum">
  <div><canvas width="960" height="240"></canvas></div>
  <button>Clear</button><output></output><img alt="">
</section>`;

function render({ model, el }) {
  el.innerHTML = FRAME;
  const [canvas, clear, output, image] = ["canvas", "button", "output", "img"].map((name) => el.querySelector(name));
  const pen = canvas.getContext("2d");
  model.on("msg:custom", ({ text, picture }) => {
    output.textContent = text;
    image.src = picture ?? "";
  });
  clear.onclick = () => {
    canvas.width = 960; // which clears it
    model.send("");
  };
  canvas.onpointerdown = (event) => {
    if (event.button || !event.isPrimary) return; // another button, or a second finger
    canvas.setPointerCapture(event.pointerId);
    const dark = getComputedStyle(el).color.match(/\d+/)[0] > 127; // then text and ink are light
    Object.assign(pen, { lineWidth: 15, lineCap: "round", lineJoin: "round", strokeStyle: dark ? "white" : "black" });
    pen.beginPath();
    canvas.onpointermove(event);
  };
  canvas.onpointermove = ({ pointerId, offsetX, offsetY }) => {
    if (!canvas.hasPointerCapture(pointerId)) return;
    pen.lineTo(offsetX, offsetY);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(offsetX, offsetY);
  };
  canvas.onlostpointercapture = () => model.send(canvas.toDataURL().split(",")[1]);
  clear.click();
}
export default { render };

const page = document.getElementById("digitsum-page"); // a notebook has none
if (page) {
  let show, turn = Promise.resolve(); // one drawing after the other
  const gone = { text: "\nNo answer: start python -m digitsum draw again." };
  const ask = async (body) => (await fetch("/", { method: "POST", body })).json();
  const send = (drawing) => (turn = turn.then(() => ask(drawing)).catch(() => gone).then(show));
  render({ model: { send, on: (_, callback) => (show = callback) }, el: page });
}
