// An image with all that is known of it, and a figure in its own size. The browser's own dialogs keep the focus inside,
// close on Escape and hand the focus back.

const PANELS = [["image", "Image"], ["mask", "Mask"], ["prediction", "Prediction"]];

const panelsOf = (card) => PANELS.filter(([key]) => card[key] || key === "image");

function emptyPanel(what) {
  return make("div", { className: "empty", role: "img", "aria-label": what }, make("span", {}, what));
}

function shareBar(card, colors) {
  let start = 0;
  const bar = makeSvg("svg", { class: "share-bar", "aria-hidden": "true" });
  for (const [name, share] of Object.entries(card.shares)) {
    bar.append(makeSvg("rect", { x: `${100 * start}%`, width: `${100 * share}%`, height: "100%", fill: colors[name] ?? "currentColor" }));
    start += share;
  }
  return bar;
}

function shareList(card, colors) {
  const shares = Object.entries(card.shares).filter(([, share]) => share > 0).sort((a, b) => b[1] - a[1]);
  return make("ul", { className: "shares" }, ...shares.map(([name, share]) =>
    make("li", {}, swatch(colors[name] ?? "currentColor"), make("span", {}, name), make("span", { className: "value" }, toldPercent(share)))));
}

class CardDialog {
  constructor(colors, changed) {
    this.dialog = find("#card-dialog");
    this.colors = colors;
    this.changed = changed; // told the card that is open, or null
    this.list = [];
    for (const button of findAll("[data-step]", this.dialog)) {
      button.addEventListener("click", () => this.step(Number(button.dataset.step)));
    }
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.step(step);
    });
    this.dialog.addEventListener("close", () => this.changed(null));
  }

  // Open the card at `place` of `list`, through which the arrows go.
  open(list, place) {
    this.list = list;
    this.show(place);
    if (!this.dialog.open) this.dialog.showModal();
  }

  step(by) {
    const place = this.place + by;
    if (place >= 0 && place < this.list.length) this.show(place);
  }

  show(place) {
    this.place = place;
    const card = this.list[place];
    find("h2", this.dialog).textContent = card.name;
    const facts = [card.split];
    if (this.list.length > 1) facts.push(`${toldCount(place + 1)} of ${toldCount(this.list.length)}`);
    find(".dialog-place", this.dialog).textContent = facts.join(" · ");
    const [previous, next] = findAll("[data-step]", this.dialog);
    previous.disabled = place === 0; // the browser moves the focus off a disabled button only when it is pressed again
    next.disabled = place === this.list.length - 1;
    find(".dialog-panels", this.dialog).replaceChildren(...this.panels(card));
    find(".dialog-text", this.dialog).replaceChildren(...this.texts(card));
    this.changed(card);
  }

  panels(card) {
    return panelsOf(card).map(([key, label]) =>
      make("figure", {},
        card[key] ? spriteCanvas(card[key], `${label} of ${card.name}`, key) : emptyPanel(`no ${key}`),
        make("figcaption", {}, label)));
  }

  texts(card) {
    const parts = [];
    const numbers = [["Prediction agrees with mask", card.score], ["Confidence", card.confidence]].filter(([, value]) => value !== null);
    if (numbers.length) {
      parts.push(make("dl", { className: "record" }, ...numbers.map(([label, value]) =>
        make("div", {}, make("dt", {}, label), make("dd", {}, toldPercent(value))))));
    }
    if (Object.keys(card.shares).length) parts.push(make("div", { className: "cover" }, shareBar(card, this.colors), shareList(card, this.colors)));
    for (const caption of card.captions) {
      parts.push(make("div", { className: "caption" }, make("h3", {}, caption.stream), make("p", {}, caption.text)));
    }
    return parts;
  }
}

function startFigures() {
  const dialog = find("#figure-dialog");
  for (const plate of findAll(".plate")) {
    plate.addEventListener("click", () => {
      const shown = find("img", plate);
      const image = find("img", dialog);
      image.src = shown.src;
      image.alt = shown.alt;
      image.width = shown.getAttribute("width");
      image.height = shown.getAttribute("height");
      find("h2", dialog).textContent = find("h3", plate.parentElement).textContent;
      dialog.showModal();
    });
  }
}

function startDialogs() {
  for (const dialog of findAll("dialog")) {
    find("[data-close]", dialog).addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // on the backdrop
  }
}
