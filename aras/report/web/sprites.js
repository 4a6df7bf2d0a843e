// Images are parts of a few sheets; a sheet is decoded when the first of its parts is shown.

const sheetSources = [...find("#sheets").content.children];
const sheets = new Map();

function sheetAt(index) {
  if (!sheets.has(index)) {
    const image = new Image();
    image.src = sheetSources[index].getAttribute("src");
    sheets.set(index, image.decode().then(() => image));
  }
  return sheets.get(index);
}

// Draw one sprite, [sheet, x, y, width, height], pixel for pixel; the style sheet scales the canvas. A canvas and no
// background: scaled, a background would let the neighbours in at its edges.
async function drawSprite(canvas, sprite) {
  const [index, x, y, width, height] = sprite;
  canvas.sprite = sprite;
  canvas.width = width;
  canvas.height = height;
  try {
    const sheet = await sheetAt(index);
    if (canvas.sprite === sprite) canvas.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    canvas.classList.add("broken"); // a sheet beside the page that is not there any more
  }
}

function spriteCanvas(sprite, label, className = "") {
  const canvas = make("canvas", { className, role: "img", "aria-label": label });
  drawSprite(canvas, sprite);
  return canvas;
}
