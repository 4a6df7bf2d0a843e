// Curves: lines over one axis, drawn at the size they are shown at; the legend tells the values at the cursor.

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4"];
const MARGIN = { left: 52, right: 14, top: 28, bottom: 40 };
const CHART_HEIGHT = 264;

// Round numbers from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function rangeOf(values, margin) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return [0, 1];
  const room = margin * (high - low) || (margin && Math.abs(high)) || (low === high ? 0.5 : 0);
  return [low - room, high + room];
}

class Chart {
  constructor(part) {
    this.curve = dataOf(part);
    this.series = this.curve.series.filter((series) => series.x.length);
    this.plot = find(".chart", part);
    this.place = find(".place", part);
    this.said = find("[aria-live]", part);
    this.at = null; // index into xs
    this.xs = [...new Set(this.series.flatMap((series) => series.x))].sort((a, b) => a - b);
    this.values = this.series.map((series) => new Map(series.x.map((x, k) => [x, series.y[k]])));
    this.xRange = rangeOf(this.xs, 0);
    this.yRange = rangeOf(this.series.flatMap((series) => series.y), 0.06);
    this.makeLegend(find(".readout", part));
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  makeLegend(list) {
    this.outputs = this.series.map((series, k) => {
      const line = makeSvg("svg", { class: "line-sample", viewBox: "0 0 26 8", "aria-hidden": "true" },
        makeSvg("line", { x1: 1, x2: 25, y1: 4, y2: 4, class: `series-${k % 7}`, "stroke-dasharray": DASHES[k % 7] }));
      const output = make("output", { className: "value" });
      list.append(make("li", {}, line, ` ${series.name} `, output));
      return output;
    });
  }

  x(value) {
    const [low, high] = this.xRange;
    return MARGIN.left + ((value - low) / (high - low || 1)) * (this.width - MARGIN.left - MARGIN.right);
  }

  y(value) {
    const [low, high] = this.yRange;
    return CHART_HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (CHART_HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  draw() {
    this.width = Math.max(200, Math.floor(this.plot.clientWidth));
    const svg = makeSvg("svg", { width: this.width, height: CHART_HEIGHT, "aria-hidden": "true" });
    const bottom = CHART_HEIGHT - MARGIN.bottom;
    for (const value of ticks(...this.yRange, 5)) {
      svg.append(
        makeSvg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: this.y(value), y2: this.y(value) }),
        makeSvg("text", { class: "tick y", x: MARGIN.left - 8, y: this.y(value) }, toldNumber(value)));
    }
    for (const value of ticks(...this.xRange, Math.min(8, this.width / 70))) {
      svg.append(makeSvg("text", { class: "tick x", x: this.x(value), y: bottom + 16 }, toldNumber(value)));
    }
    svg.append(
      makeSvg("line", { class: "axis", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: bottom, y2: bottom }),
      makeSvg("text", { class: "tick x name", x: this.width - MARGIN.right, y: CHART_HEIGHT - 5 }, this.curve.x_label),
      makeSvg("text", { class: "tick y name", x: 0, y: 8 }, this.curve.y_label));
    this.series.forEach((series, k) => svg.append(this.line(series, k)));
    this.cursor = makeSvg("g", { class: "cursor" });
    svg.append(this.cursor);
    this.plot.replaceChildren(svg);
    this.show(this.at);
  }

  line(series, k) {
    const style = { class: `series series-${k % 7}` };
    if (series.x.length === 1) return makeSvg("circle", { ...style, cx: this.x(series.x[0]), cy: this.y(series.y[0]), r: 3 });
    const points = series.x.map((x, i) => `${this.x(x).toFixed(1)},${this.y(series.y[i]).toFixed(1)}`);
    return makeSvg("polyline", { ...style, points: points.join(" "), "stroke-dasharray": DASHES[k % 7] });
  }

  // Show the values at xs[at]; without one, the last of each line.
  show(at) {
    this.at = at;
    this.cursor.replaceChildren();
    if (at === null) {
      this.series.forEach((series, k) => { this.outputs[k].textContent = toldNumber(series.y[series.y.length - 1]); });
      this.place.textContent = "last values";
      return;
    }
    const x = this.xs[at];
    this.cursor.append(makeSvg("line", { x1: this.x(x), x2: this.x(x), y1: MARGIN.top, y2: CHART_HEIGHT - MARGIN.bottom }));
    this.values.forEach((values, k) => {
      const y = values.get(x);
      this.outputs[k].textContent = y === undefined ? "–" : toldNumber(y);
      if (y !== undefined) this.cursor.append(makeSvg("circle", { class: `dot-${k % 7}`, cx: this.x(x), cy: this.y(y), r: 3.5 }));
    });
    this.place.textContent = `at ${this.curve.x_label} ${toldNumber(x)}`;
  }

  listen() {
    this.plot.addEventListener("pointermove", (event) => {
      const place = event.clientX - this.plot.getBoundingClientRect().left;
      let best = 0;
      this.xs.forEach((x, k) => { if (Math.abs(this.x(x) - place) < Math.abs(this.x(this.xs[best]) - place)) best = k; });
      if (this.xs.length) this.show(best);
    });
    this.plot.addEventListener("pointerleave", () => this.show(null));
    this.plot.addEventListener("blur", () => this.show(null));
    this.plot.addEventListener("keydown", (event) => {
      const last = this.xs.length - 1;
      const next = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? -1) + 1, Home: 0, End: last }[event.key];
      if (next === undefined || last < 0) return;
      event.preventDefault();
      this.show(Math.max(0, Math.min(last, next)));
      const told = this.series.map((series, k) => `${series.name} ${this.outputs[k].textContent}`);
      this.said.textContent = `${this.place.textContent}: ${told.join(", ")}`;
    });
  }
}
