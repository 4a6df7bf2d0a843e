"""The whole page, gathered from whatever outputs there are; what is not there yet is said with what makes it."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from aras.report.balance import balance_parts
from aras.report.cards import make_cards
from aras.report.features import feature_parts
from aras.report.fidelity import fidelity_parts
from aras.report.generated import generated_parts
from aras.report.headlines import headlines, region_notes, subtitle
from aras.report.mapping import make_map
from aras.report.page import Cards, Page, Part, Provenances, Section, Table
from aras.report.pictures import Sheets, Store
from aras.report.places import Places
from aras.report.provenance import provenances
from aras.report.reading import Reader
from aras.report.sampling import tally_sets
from aras.report.selection import selection_parts
from aras.report.tables import caption_parts, result_tables
from aras.report.thumbnails import Thumbnails
from aras.report.training import runs_in, training_parts

CANDIDATES = 2
"""How many times as many images are drawn of each set as there are cards, to choose from by class."""


@dataclass(frozen=True)
class Limits:
    """How much is shown.

    Attributes:
        cards: images with a card, at most.
        points: of each map of features, at most.
        thumbnail: pixels, the longer side of an image of a card.
        point: likewise, of a point of a map that has no card.
        seed: of the draws.
        workers: threads that read images.
    """

    cards: int
    points: int
    thumbnail: int
    point: int
    seed: int
    workers: int


CREATE = "python dataset_creator.py"
DRAW = "python generative_trainer_unet_spade_gan.py"
SECTIONS = {
    "overview": ("Overview", "What this page shows, and what is not there yet.", ""),
    "map": ("Map", "Where the patches lie, by split.", CREATE),
    "balance": ("Class balance", "What each set is of, and why patches were dropped.", CREATE),
    "cards": (
        "Images",
        "Images with their masks, predictions and captions, those of which most is known first.",
        CREATE,
    ),
    "training": ("Training", "Curves of each run, and scores on the test split.", "python segmentation_train.py"),
    "generated": (
        "Generated images",
        "StyleGAN (stylegan3/train.py) draws from noise, the conditional GAN from masks.",
        DRAW,
    ),
    "features": ("Feature maps", "How a trained encoder sees the sets.", "python segformer_vis.py"),
    "fidelity": (
        "Fidelity",
        "How near generated images are to real ones, beside how near real ones are to one another.",
        "python synthetic_metrics.py",
    ),
    "selection": ("Selection", "Which generated images were kept, and why.", "python synthetic_select.py"),
    "captions": ("Captions", "How well captions tell what is there.", "python caption_metrics.py"),
    "results": ("Results", "Beside the paper's (arXiv 2603.09625).", "python results_table.py"),
    "provenance": ("Provenance", "What made each output.", CREATE),
}
"""By id, in the order of the page: title, lead, and the command that fills it."""

KINDS = {
    "figure": "figure",
    "table": "table",
    "curve": "plot",
    "bars": "bar chart",
    "footprints": "map",
    "scatter": "map",
}
"""What parts are called; cards and provenances are counted one by one."""


def gather_page(places: Places, limits: Limits, store: Store, reader: Reader) -> Page:
    """Return the page of what is in `places`; images go to `store`, notes to `reader`."""
    tallies = tally_sets(places, reader, CANDIDATES * limits.cards, limits.seed)
    folders = places.run_folders()
    runs = runs_in(places, folders, reader)
    sheets = Sheets(store)
    thumbnails = Thumbnails(sheets, reader, limits.workers)
    cards = make_cards(places, tallies, thumbnails, limits.cards, limits.thumbnail, limits.seed)
    indices = {(card.split, card.name): index for index, card in enumerate(cards.cards)}
    made = provenances(places, folders, reader)
    parts: dict[str, list[Part]] = {
        "map": list(make_map(places, indices, store, reader, limits.workers)),
        "balance": balance_parts(places, tallies, cards, reader),
        "cards": [cards] if cards.cards else [],
        "training": training_parts(runs, store, reader),
        "generated": generated_parts(runs, store, reader),
        "features": feature_parts(places, thumbnails, limits.points, limits.point, limits.seed),
        "fidelity": fidelity_parts(places, store, reader),
        "selection": selection_parts(places, store, reader),
        "captions": caption_parts(places, store, reader),
        "results": [*result_tables(places, reader)],
        "provenance": [made] if made else [],
    }
    if not limits.cards:
        del parts["cards"]  # nothing is missing that was not asked for
    parts["overview"] = [overview(parts, region_notes(places, reader))]
    return Page(
        "ARAS400k",
        subtitle(tallies),
        datetime.now(UTC).isoformat(timespec="seconds"),
        headlines(places, tallies, runs, reader),
        [section(name, parts[name]) for name in SECTIONS if name in parts],
        sheets.finished(),
        [places.without_machine(note) for note in reader.lines()],
        store.folder is None,
    )


def section(name: str, parts: list[Part]) -> Section:
    """Return the section `name` of `parts`, or of what makes them."""
    title, lead, command = SECTIONS[name]
    return Section(name, title, lead, parts, None if parts else command)


def overview(parts: dict[str, list[Part]], notes: list[str]) -> Table:
    """Return what each section shows, and what fills it."""
    rows, marks = [], []
    for name, (title, _, command) in SECTIONS.items():
        if name in parts:
            rows.append([title, command, told_parts(parts[name]) or "not yet"])
            marks.append(["", "", ""] if parts[name] else ["missing", "", "missing"])
    return Table("Sections", ["section", "made by", "shows"], rows, marks, notes)


def told_parts(parts: list[Part]) -> str:
    """Return how much the `parts` of a section show, in words."""
    counts: Counter[str] = Counter()
    for part in parts:
        if isinstance(part, Cards):
            counts["image"] += len(part.cards)
        elif isinstance(part, Provenances):
            counts["output"] += len(part.runs)
        else:
            counts[KINDS[part.kind]] += 1
    return ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
