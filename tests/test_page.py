"""The page of a run: what it says, and that it needs nothing but itself."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages.page import Table, blocks_table, dense_table, nats, predicted_loss, render, units_table

SITES = {
    "blocks.0.inner": {"kept": 48, "dims": 64},
    "blocks.0.hidden": {"kept": 100, "dims": 2560},
    "blocks.1.hidden": {"kept": 7, "dims": 2560},
}
DENSE: dict[str, Any] = {"rank": None, "predicted_loss": None, "weight_error": 0.0, "output_error": 0.0}
FACTORS: dict[str, Any] = {"rank": 17, "predicted_loss": 2e-6, "weight_error": 0.25, "output_error": 0.125}
COSTS = {"parameters": 1951, "parameters_dense": 4096, "macs": 10880, "macs_dense": 20480}
UNITS = [
    {"unit": "blocks.0.up", "shape": [64, 32], "reason": "", **FACTORS, **COSTS},
    {"unit": "blocks.0.hidden", "shape": [32, 64], "reason": "too small", **DENSE, **COSTS},
    {"unit": "blocks.1.up", "shape": [64, 32], "reason": "too small", **DENSE, **COSTS},
    {"unit": "blocks.1.pair", "shape": [8, 8], "reason": "", **FACTORS, **COSTS},
]
PICTURES = ("methods", "curves", "pruning", "scores", "ranks", "errors", "spectra", "confusion", "differences")


def test_blocks_have_what_is_kept_of_their_sites_and_the_ranks_of_their_units() -> None:
    table = blocks_table(SITES, UNITS)
    assert table.header == ("block", "inner", "hidden", "up, rank", "hidden, rank", "pair, rank")
    assert table.rows == [
        ("blocks.0", "48 of 64", "100 of 2,560", "17 of 32", "dense", ""),
        ("blocks.1", "", "7 of 2,560", "dense", "", "17 of 8"),
    ]


def test_every_dense_unit_stands_beside_its_reason() -> None:
    assert dense_table(UNITS).rows == [("too small", "blocks.0.hidden, blocks.1.up")]
    assert dense_table(UNITS[:1]).rows == []


def test_units_have_their_costs_and_errors() -> None:
    rows = units_table(UNITS).rows
    factorised = ("17", "1,951 of 4,096", "10,880 of 20,480", "25.00", "12.50", "2e-06")
    assert rows[0] == ("blocks.0.up", "64×32", *factorised)
    assert rows[1][2] == "dense"
    assert rows[1][-1] == "-"


def test_the_predicted_loss_is_that_of_all_units_together() -> None:
    assert predicted_loss(UNITS) == pytest.approx(4e-6)
    assert predicted_loss(UNITS[1:3]) is None
    assert nats(None) == "-"


class Page(HTMLParser):
    """Collects the text of the page, and all that it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def page(tmp_path: Path) -> str:
    paths = [tmp_path / f"{name}.png" for name in PICTURES]
    for path in paths:
        path.write_bytes(path.name.encode())
    some = Table(("method", "figure"), [("svd", "1"), ("<b>qr</b>", "2")], marked="svd")
    return render(
        paths,
        title="svd & more",
        model="vit",
        tiles=[("parameters", "2 → 1", "50 %")],
        methods=some,
        budget="keep: what was asked for",
        loss=some,
        moved=some,
        method="svd",
        blocks=blocks_table(SITES, UNITS),
        dense=dense_table(UNITS),
        units=units_table(UNITS),
        checkpoint=Path("out/finetune/model.safetensors"),
        shape="1, 8, 8",
    )


def test_the_page_loads_nothing_and_holds_every_picture(page: str) -> None:
    loaded = Page(page).loaded
    assert [b64decode(address.removeprefix("data:image/png;base64,")).decode() for address in loaded] == [
        f"{name}.png" for name in PICTURES
    ]
    assert not re.search(r"https?:|@import|url\(", page)
    assert "script" not in Page(page).tags


def test_text_is_shown_as_it_is(page: str) -> None:
    assert "<b>qr</b>" in Page(page).words
    assert "svd & more" in Page(page).words
    assert 'load("out/finetune/model.safetensors")' in page


def test_every_element_that_is_opened_is_closed(page: str) -> None:
    open_ended = {"meta", "img", "html"}
    found = re.findall(r"<(/?)([a-z][a-z0-9]*)", page)
    for tag in {name for _, name in found} - open_ended:
        assert found.count(("", tag)) == found.count(("/", tag)), tag


def test_only_the_row_of_the_method_stands_out(page: str) -> None:
    assert re.findall(r'<tr class="marked"><td>(.*?)</td>', page) == ["svd"] * 3
