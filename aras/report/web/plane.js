// A plane of items to look around on, for the map and for the maps of features: zoom, move, point at, choose.

const ZOOM_STEP = 1.4;
const MOVE_STEP = 60; // CSS pixels
const CLICK_SLACK = 4; // CSS pixels that a click may move
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

class Plane {
  // `world` is [left, low, right, high], y upwards. `source` has the items: count, x and y (of their middles),
  // isShown(item), hit(plane, px, py), paint(plane, context), tell(item), open(item), size(plane, item), height(width) and
  // foot: the CSS pixels that are kept free below.
  constructor(part, world, source) {
    this.part = part;
    this.world = world;
    this.source = source;
    this.canvas = find(".plane-canvas", part);
    this.view = find(".plane-view", part);
    this.mark = find(".plane-mark", part);
    this.tip = find(".plane-tip", part);
    this.hint = find(".plane-hint", part);
    this.said = find("[aria-live]", part);
    this.item = -1;
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.view);
    onScheme.push(() => this.draw());
  }

  // ---------------------------------------------------------------------------------------------- where things are

  toScreen(x, y) {
    return [this.left + x * this.scale, this.top - y * this.scale];
  }

  toWorld(px, py) {
    return [(px - this.left) / this.scale, (this.top - py) / this.scale];
  }

  resize() {
    const width = this.view.clientWidth;
    if (!width || width === this.width) return;
    const middle = this.scale && this.toWorld(this.width / 2, this.height / 2);
    this.width = width;
    this.height = this.source.height(width);
    const density = devicePixelRatio || 1;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(this.height * density);
    if (this.scale && !this.isFitted) this.moveTo(this.width / 2, this.height / 2, ...middle);
    else this.fit();
  }

  fit() {
    const [left, low, right, high] = this.world;
    const height = this.height - this.source.foot;
    this.smallest = 0.94 * Math.min(this.width / (right - left || 1), height / (high - low || 1));
    this.scale = this.smallest;
    this.moveTo(this.width / 2, height / 2, (left + right) / 2, (low + high) / 2);
    this.isFitted = true;
  }

  // Have the place (x, y) of the world at (px, py) of the screen.
  moveTo(px, py, x, y) {
    this.left = px - x * this.scale;
    this.top = py + y * this.scale;
    this.isFitted = false;
    this.draw();
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toWorld(px, py);
    this.scale = Math.max(this.smallest / 2, Math.min(this.smallest * 200, this.scale * factor));
    this.moveTo(px, py, x, y);
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.isFitted = false;
    this.draw();
  }

  draw() {
    if (this.waits || !this.width) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      const context = this.canvas.getContext("2d");
      const density = this.canvas.width / this.width;
      context.setTransform(density, 0, 0, density, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      this.source.paint(this, context);
      this.placeMark();
    });
  }

  // ---------------------------------------------------------------------------------------------- the item chosen

  choose(item, byKey = false) {
    const changed = item !== this.item;
    this.item = item;
    if (changed && item >= 0) {
      const { title, detail, sprite } = this.source.tell(item);
      find("b", this.tip).textContent = title;
      find("span", this.tip).textContent = detail;
      const canvas = find("canvas", this.tip);
      canvas.hidden = !sprite;
      if (sprite) drawSprite(canvas, sprite);
      if (byKey) this.said.textContent = `${title}, ${detail}`;
    }
    if (byKey && item >= 0) this.bringIn(item);
    this.placeMark();
  }

  bringIn(item) {
    const [px, py] = this.toScreen(this.source.x[item], this.source.y[item]);
    const room = 40;
    const dx = Math.max(room - px, 0) + Math.min(this.width - room - px, 0);
    const dy = Math.max(room - py, 0) + Math.min(this.height - room - py, 0);
    if (dx || dy) this.move(dx, dy);
  }

  placeMark() {
    const isShown = this.item >= 0 && this.source.isShown(this.item);
    this.mark.hidden = this.tip.hidden = !isShown;
    if (!isShown) return;
    const [px, py] = this.toScreen(this.source.x[this.item], this.source.y[this.item]);
    const [width, height] = this.source.size(this, this.item);
    this.mark.style.width = `${width}px`;
    this.mark.style.height = `${height}px`;
    this.mark.style.transform = `translate(${px - width / 2}px, ${py - height / 2}px)`;
    const beside = px + width / 2 + 12 + this.tip.offsetWidth < this.width;
    const x = beside ? px + width / 2 + 12 : Math.max(4, px - width / 2 - 12 - this.tip.offsetWidth);
    const y = Math.max(4, Math.min(this.height - this.tip.offsetHeight - 4, py - this.tip.offsetHeight / 2));
    this.tip.style.transform = `translate(${x}px, ${y}px)`;
  }

  // The nearest item that is shown from here in a direction; what is off the line counts twice.
  nextItem(dx, dy) {
    const { count, x, y } = this.source;
    const from = this.item >= 0 ? [x[this.item], y[this.item]] : this.toWorld(this.width / 2, this.height / 2);
    let best = -1;
    let least = Infinity;
    for (let item = 0; item < count; item += 1) {
      if (item === this.item || !this.source.isShown(item)) continue;
      const right = x[item] - from[0];
      const down = from[1] - y[item];
      const along = right * dx + down * dy;
      const across = Math.abs(right * dy) + Math.abs(down * dx);
      if (this.item >= 0 && (along <= 0 || across > 2 * along)) continue;
      const distance = this.item >= 0 ? along + 2 * across : Math.hypot(right, down);
      if (distance < least) [best, least] = [item, distance];
    }
    return best;
  }

  // ---------------------------------------------------------------------------------------------- pointers and keys

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.pointers.set(event.pointerId, this.at(event));
      this.travelled = this.pointers.size > 1 ? Infinity : 0;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => this.pointed(event));
    canvas.addEventListener("pointerup", (event) => {
      const isClick = this.pointers.delete(event.pointerId) && this.travelled <= CLICK_SLACK;
      if (!isClick) return;
      const item = this.source.hit(this, ...this.at(event));
      const isSecondTap = event.pointerType === "mouse" || item === this.item;
      this.choose(item);
      if (item >= 0 && isSecondTap) this.source.open(item);
    });
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !this.pointers.size) this.choose(-1);
      this.hint.hidden = true;
    });
    canvas.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.pressed(event));
    canvas.addEventListener("blur", () => this.choose(-1));
    for (const button of findAll("[data-zoom]", this.part)) {
      const act = { in: () => this.zoom(ZOOM_STEP), out: () => this.zoom(1 / ZOOM_STEP), fit: () => this.fit() };
      button.addEventListener("click", act[button.dataset.zoom]);
    }
  }

  pointed(event) {
    const [px, py] = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (!this.pointers.size) this.choose(this.source.hit(this, px, py));
      return;
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    if (others.length) {
      const [ox, oy] = others[0][1];
      const factor = Math.hypot(px - ox, py - oy) / (Math.hypot(before[0] - ox, before[1] - oy) || 1);
      this.zoom(factor, ox, oy);
    } else {
      this.travelled += Math.hypot(px - before[0], py - before[1]);
      if (this.travelled > CLICK_SLACK) this.move(px - before[0], py - before[1]);
    }
    this.pointers.set(event.pointerId, [px, py]);
  }

  // The wheel zooms only where the reader is at work on the plane: else it scrolls the page, as everywhere.
  wheeled(event) {
    if (document.activeElement !== this.canvas && !event.ctrlKey && !event.metaKey) {
      this.hint.textContent = "Click first, or hold Ctrl, to zoom with the wheel";
      this.hint.hidden = false;
      clearTimeout(this.hinted);
      this.hinted = setTimeout(() => { this.hint.hidden = true; }, 1200);
      return;
    }
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    this.zoom(Math.exp(-0.0016 * lines * event.deltaY), ...this.at(event));
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) this.move(-MOVE_STEP * arrow[0], -MOVE_STEP * arrow[1]);
    else if (arrow) {
      const item = this.nextItem(...arrow);
      if (item >= 0) this.choose(item, true);
    } else if (event.key === "+" || event.key === "=") this.zoom(ZOOM_STEP);
    else if (event.key === "-") this.zoom(1 / ZOOM_STEP);
    else if (event.key === "0") this.fit();
    else if (event.key === "Enter" && this.item >= 0) this.source.open(this.item);
    else if (event.key === "Escape") this.choose(-1);
    else return;
    event.preventDefault();
  }
}
