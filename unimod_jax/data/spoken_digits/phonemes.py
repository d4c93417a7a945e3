"""What is said: the ten digit words as phonemes, and how each phoneme sounds.

A phoneme is a state of the vocal tract that is held for a while: where its first three
resonances (formants) lie, how strongly the voice sounds, and how strong the noise of a
narrow passage is and at which frequencies. A plosive is a silence, then a short noise.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Phoneme:
    """One target of articulation, of an adult male voice.

    Attributes:
      milliseconds: how long it is held at an ordinary pace.
      formants: Hz of the first three resonances.
      voice: amplitude of the vocal folds; a vowel has 1.
      noise: amplitude of the noise, 0 for none.
      noise_centre: Hz around which the noise is strongest.
      noise_width: Hz, the standard deviation of its Gaussian spectrum.
    """

    milliseconds: float
    formants: tuple[float, float, float]
    voice: float = 0.0
    noise: float = 0.0
    noise_centre: float = 2000.0
    noise_width: float = 1000.0


PHONEMES = {
    # Vowels: the men's averages of Peterson and Barney 1952.
    "iy": Phoneme(150, (270, 2290, 3010), voice=1.0),
    "ih": Phoneme(90, (390, 1990, 2550), voice=1.0),
    "eh": Phoneme(110, (530, 1840, 2480), voice=1.0),
    "ah": Phoneme(120, (640, 1190, 2390), voice=1.0),
    "aa": Phoneme(130, (730, 1090, 2440), voice=1.0),
    "ao": Phoneme(150, (570, 840, 2410), voice=1.0),
    "uh": Phoneme(80, (440, 1020, 2240), voice=1.0),
    "uw": Phoneme(190, (300, 870, 2240), voice=1.0),
    "er": Phoneme(110, (490, 1350, 1690), voice=1.0),
    # Consonants: formants after Klatt 1980 (n lower), the rest by trial.
    "w": Phoneme(80, (290, 610, 2150), voice=0.6),
    "r": Phoneme(80, (310, 1060, 1380), voice=0.7),
    "n": Phoneme(90, (250, 1340, 2470), voice=0.35),
    "v": Phoneme(70, (220, 1100, 2080), 0.3, 0.04, 2500.0, 1500.0),
    "z": Phoneme(100, (240, 1390, 2530), 0.3, 0.3, 3700.0, 400.0),
    "f": Phoneme(110, (340, 1100, 2080), 0.0, 0.06, 2500.0, 2000.0),
    "th": Phoneme(100, (320, 1290, 2540), 0.0, 0.06, 1800.0, 700.0),
    "s": Phoneme(120, (320, 1390, 2530), 0.0, 0.5, 3700.0, 400.0),
    "t-closure": Phoneme(50, (400, 1600, 2600)),
    "t-burst": Phoneme(40, (400, 1600, 2600), 0.0, 0.4, 3300.0, 600.0),
    "k-closure": Phoneme(60, (300, 1990, 2850)),
    "k-burst": Phoneme(30, (300, 1990, 2850), 0.0, 0.4, 2000.0, 300.0),
}
"""How each phoneme sounds, by a name after ARPAbet."""

PRONUNCIATIONS = (
    "z iy r ao uh",
    "w ah n",
    "t-closure t-burst uw",
    "th r iy",
    "f ao er",
    "f aa ih v",
    "s ih k-closure k-burst s",
    "s eh v ah n",
    "eh iy t-closure t-burst",
    "n aa ih n",
)
"""The phonemes of each digit word, by value; a diphthong is two vowels."""
