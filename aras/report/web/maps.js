// What lies on planes: patches where they are on Earth, and images where their features put them.

const KILOMETRES = 111.32; // a degree of latitude
const SHAPES = 4;

// Which sets the checkboxes of a part show, by index; what a reader changes is drawn anew.
function shownSets(part, changed) {
  const boxes = findAll(".chips input", part);
  const shown = Object.fromEntries(boxes.map((box) => [box.value, box.checked]));
  for (const box of boxes) {
    box.addEventListener("change", () => {
      shown[box.value] = box.checked;
      changed();
    });
  }
  return shown;
}

// ------------------------------------------------------------------------------------------------ the map

function startMap(part, cardOf, openCard) {
  const map = dataOf(part);
  const [west, south, east, north] = map.bounds;
  const narrow = Math.cos(((south + north) / 2) * (Math.PI / 180)); // a degree of longitude, in degrees of latitude
  const rows = map.patches;
  const source = {
    count: rows.length,
    x: Float64Array.from(rows, (row) => ((row[2] + row[4]) / 2) * narrow),
    y: Float64Array.from(rows, (row) => (row[3] + row[5]) / 2),
    foot: 28, // for the scale
    height: (width) => 28 + Math.round(Math.max(250, Math.min(0.72 * innerHeight, (width * (north - south)) / ((east - west) * narrow || 1)))),
    isShown: (item) => shown[sets[item]] ?? true,
    hit(plane, px, py) {
      const [x, latitude] = plane.toWorld(px, py);
      const longitude = x / narrow;
      return rows.findIndex((row, item) => source.isShown(item)
        && longitude >= row[2] && longitude <= row[4] && latitude >= row[3] && latitude <= row[5]);
    },
    size(plane, item) {
      const [, , left, low, right, high] = rows[item];
      return [(right - left) * narrow * plane.scale + 4, (high - low) * plane.scale + 4];
    },
    tell(item) {
      const [name, split, left, low, right, high, card] = rows[item];
      const place = `${((low + high) / 2).toFixed(4)}, ${((left + right) / 2).toFixed(4)}`;
      const image = card === null ? null : cardOf(card);
      return { title: name, detail: `${split} · ${place}`, sprite: image && image.image };
    },
    open(item) {
      if (rows[item][6] !== null) openCard(rows[item][6]);
    },
    paint(plane, context) {
      if (mosaic && mosaic.complete && shown.mosaic !== false) {
        const [px, py] = plane.toScreen(west * narrow, north);
        context.imageSmoothingEnabled = (plane.scale * (north - south)) / map.mosaic.height < 2;
        context.drawImage(mosaic, px, py, (east - west) * narrow * plane.scale, (north - south) * plane.scale);
      }
      const isBare = !mosaic || shown.mosaic === false;
      map.splits.forEach((split, set) => paintSplit(plane, context, set, isBare));
      showScale(plane);
    },
  };

  const sets = rows.map((row) => map.splits.indexOf(row[1]));
  const plane = new Plane(part, [west * narrow, south, east * narrow, north], source);
  const shown = shownSets(part, () => plane.draw());
  const scale = find(".scale", part);
  let mosaic = null;
  if (map.mosaic) {
    mosaic = new Image();
    mosaic.src = map.mosaic.src;
    mosaic.decode().then(() => plane.draw(), () => { mosaic = null; plane.draw(); });
  }

  function paintSplit(on, context, set, isBare) {
    if (shown[set] === false) return;
    const path = new Path2D();
    rows.forEach((row, item) => {
      if (sets[item] !== set) return;
      const [px, py] = on.toScreen(row[2] * narrow, row[5]);
      const inset = 0.75; // so that the outlines of neighbours lie side by side
      const wide = Math.max(1, (row[4] - row[2]) * narrow * on.scale - 2 * inset);
      path.rect(px + inset, py + inset, wide, Math.max(1, (row[5] - row[3]) * on.scale - 2 * inset));
    });
    context.fillStyle = context.strokeStyle = map.colors[set];
    context.globalAlpha = isBare ? 0.75 : 0.16;
    context.fill(path);
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.stroke(path);
  }

  function showScale(on) {
    const perPixel = KILOMETRES / on.scale;
    const power = 10 ** Math.floor(Math.log10(perPixel * 120));
    const length = [5, 2, 1].map((factor) => factor * power).find((size) => size <= perPixel * 120);
    scale.hidden = false;
    scale.style.width = `${length / perPixel}px`;
    find("span", scale).textContent = length >= 1 ? `${length} km` : `${Math.round(length * 1000)} m`;
  }
}

// ------------------------------------------------------------------------------------------------ maps of features

// One point of a set, drawn once and stamped ten thousand times. `radius` is in the screen's own pixels, in which stamps
// are copied and not scaled, which is several times faster.
function stampOf(shape, color, edge, radius) {
  const half = Math.ceil(1.25 * radius + 1);
  const canvas = make("canvas", { width: 2 * half, height: 2 * half });
  const context = canvas.getContext("2d");
  context.translate(half, half);
  const r = radius;
  if (shape === 0) context.arc(0, 0, r, 0, 2 * Math.PI);
  else if (shape === 1) context.rect(-0.88 * r, -0.88 * r, 1.76 * r, 1.76 * r);
  else {
    const corners = shape === 2 ? [[0, -1.15], [1.1, 0.85], [-1.1, 0.85]] : [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]];
    corners.forEach(([x, y]) => context.lineTo(x * r, y * r));
    context.closePath();
  }
  context.fillStyle = color;
  context.globalAlpha = 0.9;
  context.fill();
  context.strokeStyle = edge;
  context.lineWidth = 0.28 * r;
  context.stroke();
  return { canvas, half };
}

function startScatter(part, cardNamed, openCard, openImage) {
  const scatter = dataOf(part);
  const count = scatter.x.length;
  const [left, right] = rangeOf(scatter.x, 0.02);
  const [low, high] = rangeOf(scatter.y, 0.02);
  // Drawn in a mixed order, so that no set hides another; 7919 is a prime, so each index comes once.
  const order = Uint32Array.from({ length: count }, (_, k) => (count % 7919 ? (k * 7919) % count : k));
  const source = {
    count,
    x: Float64Array.from(scatter.x),
    y: Float64Array.from(scatter.y),
    foot: 0,
    height: (width) => Math.round(Math.max(280, Math.min(0.8 * width, 0.7 * innerHeight, 560))),
    isShown: (item) => shown[scatter.set_of[item]] !== false,
    hit(plane, px, py) {
      let best = -1;
      let least = 12 * 12; // CSS pixels, squared
      for (let item = 0; item < count; item += 1) {
        const dx = plane.left + source.x[item] * plane.scale - px;
        const dy = plane.top - source.y[item] * plane.scale - py;
        const distance = dx * dx + dy * dy;
        if (distance < least && source.isShown(item)) [best, least] = [item, distance];
      }
      return best;
    },
    size: () => [16, 16],
    tell: (item) => ({ title: scatter.names[item], detail: scatter.sets[scatter.set_of[item]], sprite: scatter.sprites[item] }),
    open(item) {
      const set = scatter.sets[scatter.set_of[item]];
      const card = cardNamed(set, scatter.names[item]);
      if (card >= 0) openCard(card);
      else openImage(scatter.names[item], set, scatter.sprites[item]);
    },
    paint(plane, context) {
      const density = plane.canvas.width / plane.width;
      const crowd = Math.max(0.7, Math.min(1.6, 40 / Math.sqrt(count)));
      const radius = 2.6 * crowd * Math.min(2, Math.sqrt(plane.scale / plane.smallest)) * density;
      const edge = colorOf("--surface");
      const stamps = scatter.sets.map((_, set) => stampOf(set % SHAPES, scatter.colors[set], edge, radius));
      const [width, height] = [plane.canvas.width, plane.canvas.height];
      context.setTransform(1, 0, 0, 1, 0, 0);
      for (const item of order) {
        const { canvas, half } = stamps[scatter.set_of[item]];
        const px = Math.round((plane.left + source.x[item] * plane.scale) * density) - half;
        const py = Math.round((plane.top - source.y[item] * plane.scale) * density) - half;
        if (px > -2 * half && py > -2 * half && px < width && py < height && source.isShown(item)) context.drawImage(canvas, px, py);
      }
    },
  };
  const plane = new Plane(part, [left, low, right, high], source);
  const shown = shownSets(part, () => plane.draw());
}
