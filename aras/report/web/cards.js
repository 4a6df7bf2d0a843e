// Images to look through: filters kept in the address, pages of them, and the dialog over what the filters leave.

const PER_PAGE = 24;
const SORTS = {
  name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.index - b.index),
  score: (a, b) => byValue(a.score, b.score) || a.index - b.index,
  "-score": (a, b) => byValue(b.score, a.score, -1) || a.index - b.index,
  confidence: (a, b) => byValue(a.confidence, b.confidence) || a.index - b.index,
  "-confidence": (a, b) => byValue(b.confidence, a.confidence, -1) || a.index - b.index,
};

// Cards without the value come last, whichever the direction.
function byValue(a, b, direction = 1) {
  if (a === null || b === null) return a === b ? 0 : direction * (a === null ? 1 : -1);
  return a - b;
}

class CardBrowser {
  constructor(part) {
    const data = dataOf(part);
    this.cards = data.cards;
    this.colors = Object.fromEntries(data.classes.map((name, k) => [name, data.colors[k]]));
    this.cards.forEach((card, index) => {
      card.index = index;
      card.text = [card.name, ...card.captions.map((caption) => caption.text)].join("\n").toLowerCase();
    });
    this.indexOf = new Map(this.cards.map((card, index) => [`${card.split}/${card.name}`, index]));
    this.form = find(".filters", part);
    this.grid = find(".card-grid", part);
    this.part = part;
    this.page = 0;
    this.dialog = new CardDialog(this.colors, (card) => this.opened(card));
    this.trimControls();
    this.listen();
    this.restore();
  }

  // Tell how many cards each choice has; hide what has nothing to choose between.
  trimControls() {
    for (const box of findAll("input[type=checkbox]", this.form)) {
      const has = box.name === "split" ? (card) => card.split === box.value : (card) => card.classes.includes(box.value);
      const count = this.cards.filter(has).length;
      find(".count", box.parentElement).textContent = toldCount(count);
      box.disabled = !count;
    }
    for (const option of findAll("option", this.form)) {
      const key = option.value.replace("-", "");
      option.hidden = option.disabled = ["score", "confidence"].includes(key) && this.cards.every((card) => card[key] === null);
    }
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => { this.page = 0; this.update(); });
    find(".reset", this.part).addEventListener("click", () => {
      this.form.reset();
      this.page = 0;
      this.update();
      find("[name=q]", this.form).focus();
    });
    for (const button of findAll("[data-page]", this.part)) {
      button.addEventListener("click", () => { this.page += Number(button.dataset.page); this.update(); });
    }
    this.grid.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.dialog.open(this.found, Number(button.dataset.place));
    });
    this.grid.addEventListener("keydown", (event) => this.moveFocus(event));
    addEventListener("hashchange", () => this.restore());
  }

  // Arrows go from card to card; up and down to the one that stands there.
  moveFocus(event) {
    const arrow = ARROWS[event.key];
    const buttons = findAll("button", this.grid);
    const at = buttons.indexOf(document.activeElement);
    if (!arrow || at < 0) return;
    const columns = buttons.filter((button) => button.offsetTop === buttons[0].offsetTop).length;
    const next = buttons[at + arrow[0] + columns * arrow[1]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  // ---------------------------------------------------------------------------------------------- what is asked for

  get asked() {
    const form = new FormData(this.form);
    return { q: form.get("q").trim(), sort: form.get("sort") ?? "", split: form.getAll("split"), class: form.getAll("class") };
  }

  filter({ q, sort, split, class: classes }) {
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.cards.filter((card) => (!split.length || split.includes(card.split))
      && classes.every((name) => card.classes.includes(name))
      && words.every((word) => card.text.includes(word)));
    return sort in SORTS ? found.sort(SORTS[sort]) : found;
  }

  update() {
    const asked = this.asked;
    this.found = this.filter(asked);
    const pages = Math.max(1, Math.ceil(this.found.length / PER_PAGE));
    this.page = Math.max(0, Math.min(pages - 1, this.page));
    const isFiltered = Boolean(asked.q || asked.split.length || asked.class.length);
    const all = `${toldCount(this.cards.length)} images`;
    find(".count-line", this.part).textContent = isFiltered ? `${toldCount(this.found.length)} of ${all}` : all;
    find(".reset", this.part).hidden = !isFiltered;
    find(".pager", this.part).hidden = pages === 1;
    find(".page-line", this.part).textContent = `${toldCount(this.page + 1)} of ${toldCount(pages)}`;
    const [back, on] = findAll("[data-page]", this.part);
    back.disabled = this.page === 0;
    on.disabled = this.page === pages - 1;
    const first = this.page * PER_PAGE;
    const cards = this.found.slice(first, first + PER_PAGE).map((card, k) => this.element(card, first + k));
    if (!cards.length) cards.push(make("li", { className: "none" }, "No image has all of this. Take a filter away."));
    const panels = Math.max(...this.found.slice(first, first + PER_PAGE).map((card) => panelsOf(card).length), 1);
    this.grid.className = `card-grid of-${panels}`;
    this.grid.replaceChildren(...cards);
    this.keep(asked);
  }

  element(card, place) {
    const panels = panelsOf(card).map(([key, label]) => (card[key] ? spriteCanvas(card[key], label, key) : emptyPanel(`no ${key}`)));
    const facts = [card.split];
    if (card.score !== null) facts.push(`${toldPercent(card.score)} agree`);
    else if (card.confidence !== null) facts.push(`${toldPercent(card.confidence)} sure`);
    const button = make("button", { type: "button", className: "card", "aria-haspopup": "dialog" },
      make("span", { className: "panels" }, ...panels),
      shareBar(card, this.colors),
      make("span", { className: "card-name" }, card.name),
      make("span", { className: "card-facts" }, facts.join(" · ")));
    if (card.captions.length) button.append(make("span", { className: "card-caption" }, card.captions[0].text));
    button.dataset.place = place;
    return make("li", {}, button);
  }

  // ---------------------------------------------------------------------------------------------- the address

  keep(asked) {
    const words = new URLSearchParams();
    for (const [name, value] of Object.entries(asked)) {
      if (value.length) words.set(name, Array.isArray(value) ? value.join(",") : value);
    }
    if (this.page) words.set("page", this.page + 1);
    if (this.card) words.set("open", `${this.card.split}/${this.card.name}`);
    const hash = words.size ? `#cards?${words}` : "";
    const isOurs = location.hash.startsWith("#cards?");
    if (hash === location.hash || (!hash && !isOurs)) return;
    history.replaceState(null, "", hash || "#cards");
  }

  restore() {
    const isOurs = location.hash.startsWith("#cards?");
    if (!isOurs && this.found) return; // another section of the page: the filters stay as they are
    const words = new URLSearchParams(isOurs ? location.hash.slice("#cards?".length) : "");
    find("[name=q]", this.form).value = words.get("q") ?? "";
    const sort = words.get("sort") ?? "";
    find("[name=sort]", this.form).value = sort in SORTS ? sort : "";
    for (const box of findAll("input[type=checkbox]", this.form)) {
      box.checked = (words.get(box.name) ?? "").split(",").includes(box.value);
    }
    this.page = (Number(words.get("page")) || 1) - 1;
    const open = this.indexOf.get(words.get("open"));
    this.update();
    if (isOurs) this.part.scrollIntoView();
    if (open !== undefined) this.openCard(open);
  }

  opened(card) {
    this.card = card;
    this.keep(this.asked);
  }

  // Open the card `index`, among those the filters leave if it is one of them.
  openCard(index) {
    const place = this.found.findIndex((card) => card.index === index);
    if (place >= 0) this.dialog.open(this.found, place);
    else this.dialog.open(this.cards, index);
  }
}
