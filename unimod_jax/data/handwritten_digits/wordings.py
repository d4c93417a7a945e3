"""How captions speak of a digit, and how to read the digit back out of a caption.

The wordings mix words and numerals, so a model has to learn that "seven" and "7" are
the same digit. Each caption names exactly one digit, so a caption can be graded.
"""

import hashlib
import re

DIGIT_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
"""English word of each digit, by value."""

WORDINGS = (
    "a handwritten {word}",
    "a handwritten digit {numeral}",
    "the digit {word}",
    "the digit {numeral}",
    "a small scan of the number {word}",
    "a scan of a handwritten {numeral}",
    "an image of the digit {word}",
    "this image shows the number {numeral}",
    "the number {numeral} written by hand",
    "a small image of the number {word}",
)
"""Templates of a caption. Their words, letter merges included, fit 128 BPE tokens."""

CAPTIONS_PER_SCAN = 4


def captions_of(digit: int, scan: int) -> tuple[str, ...]:
    """The captions of one scan: the same ones on every machine.

    Args:
      digit: 0..9, what the scan shows.
      scan: its index in the source, which picks CAPTIONS_PER_SCAN of the wordings.
    """
    # A hash rather than a random generator: its stream never changes between versions.
    chosen = sorted(
        WORDINGS, key=lambda w: hashlib.sha256(f"{scan}/{w}".encode()).digest()
    )
    return tuple(
        wording.format(word=DIGIT_WORDS[digit], numeral=digit)
        for wording in chosen[:CAPTIONS_PER_SCAN]
    )


def turns_about(digit: int) -> tuple[tuple[str, str], ...]:
    """Questions about a scan with their answers, in the order in which they are asked.

    Args:
      digit: 0..9, what the scan shows.
    """
    return (
        ("which digit is it?", DIGIT_WORDS[digit]),
        ("is it even?", "yes" if digit % 2 == 0 else "no"),
        ("is it more than four?", "yes" if digit > 4 else "no"),
    )


def digit_in_caption(text: str) -> int | None:
    """The one digit that a text names, by word or numeral.

    Returns:
      0..9, or None if the text names no digit or several different ones; "seven (7)"
      names one. Longer numbers such as "77" are not digits.
    """
    words = re.findall(r"[a-z]+|[0-9]+", text.lower())
    named = {DIGIT_WORDS.index(word) for word in words if word in DIGIT_WORDS}
    named |= {int(word) for word in words if len(word) == 1 and word.isdecimal()}
    return named.pop() if len(named) == 1 else None
