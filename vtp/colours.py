"""Colours that the colour-blind can tell apart, and that of each method."""

from vtp.params import METHOD_NAMES

# Okabe and Ito, Color Universal Design (2008).
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
# Paul Tol, Colour Schemes (2021), the scheme "muted".
INDIGO, OLIVE, WINE = "#332288", "#999933", "#882255"
GREY, PALE = "#777777", "#BBBBBB"
METHODS = (GREY, BLUE, INDIGO, YELLOW, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, OLIVE, WINE, PALE)


def colour(method: str) -> str:
    """Return the colour of a method: the same wherever it is drawn, and whatever others there are."""
    return METHODS[METHOD_NAMES.index(method) % len(METHODS)]
