// Start each part that is there.

startScheme();
startContents();
startCommands();
startDialogs();
startFigures();
const cardsPart = find("[data-kind=cards]");
const browser = cardsPart ? new CardBrowser(cardsPart) : null;
const loneDialog = browser ? browser.dialog : new CardDialog({}, () => {});
const openCard = (index) => browser?.openCard(index);
function openImage(name, split, sprite) {
  loneDialog.open([{ name, split, image: sprite, mask: null, prediction: null, shares: {}, captions: [], score: null, confidence: null }], 0);
}
for (const part of findAll("[data-kind=curve]")) new Chart(part);
for (const part of findAll("[data-kind=footprints]")) startMap(part, (index) => browser?.cards[index] ?? null, openCard);
for (const part of findAll("[data-kind=scatter]")) {
  startScatter(part, (set, name) => browser?.indexOf.get(`${set}/${name}`) ?? -1, openCard, openImage);
}
