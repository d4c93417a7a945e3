"""Which data set to train on, and how its records become tokens: one frozen dataclass.

Every field can be set from the command line as `--data.<field>`.
"""

import dataclasses

from unimod_jax.data.record_schema import DataError

OWN_RECORDS = "own_records"
"""Name of the data set that experiments ask for whose records nobody ships: published
sizes and converted models. `--data.name` changes it."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Names a prepared TFDS data set and the sizes its records are brought to.

    Attributes:
      name: the data set, a folder under `directory`; "name/config" if it has configs.
      directory: where prepared data sets live: <directory>/<name>/<version>.
      codes_directory: where the codes that a learned image tokenizer makes are kept,
        in such folders; "" for `directory`, beside the records.
      parts: the features that are parts of a record, in reading order, each as NAME or
        NAME=FEATURE; see `record_reader`.
      attributes: features with whole numbers or texts that only judges read.
      judge: what makes the judge of what a run writes, MODULE:NAME or FILE.py:NAME;
        "" for the one that a built-in data set brings. See `judge`.
      train_split: the split to train on; TFDS slices such as "train[:90%]" work.
      test_split: the split to evaluate on.
      image_size: height and width of the model's images, in pixels.
      image_channels: 1 for grey, 3 for RGB.
      image_levels: discrete codes per pixel channel, evenly spaced over 0..255; of a
        learned image tokenizer, all its codes.
      image_line: codes per line of an image, if a token ends each line; 0 for none.
      code_size: height and width, in pixels, of what one code or latent of a learned
        image tokenizer stands for; 0 where codes are grey levels of pixels.
      latent_channels: values of a latent of a learned autoencoder, where patches are
        cut from latents; 0 where they are cut from pixels.
      latent_scale: what latents are multiplied by before they are noised, so that their
        variance is about 1; the autoencoder's published "scaling_factor".
      patch_size: height and width of a continuous patch, in pixels or in latents.
      resize: whether images of other sizes are scaled and centre-cropped, or refused.
      caption_tokens: token slots of a text where its piece does not say, its end token
        not counted.
      speech_units: how many speech units there are; 0 without speech.
      speech_tokens: most speech units of a record.
      text_vocabulary_size: most ids that the text tokenizer may use.
      batch_size: rows per step over all task groups and all processes.
      prompt_dropout: share of rows that train without their droppable pieces, such as
        prompts, for classifier-free guidance (arXiv 2207.12598).
      seed: of shuffling, of the choice among texts and of prompt dropout.
    """

    name: str = "handwritten_digits"
    directory: str = "data"
    codes_directory: str = ""
    parts: tuple[str, ...] = ("image", "text=captions")
    attributes: tuple[str, ...] = ("label",)
    judge: str = ""
    train_split: str = "train"
    test_split: str = "test"
    image_size: int = 8
    image_channels: int = 1
    image_levels: int = 17
    image_line: int = 0
    code_size: int = 0
    latent_channels: int = 0
    latent_scale: float = 1.0
    patch_size: int = 2
    resize: bool = False
    caption_tokens: int = 12
    speech_units: int = 0
    speech_tokens: int = 0
    text_vocabulary_size: int = 128
    batch_size: int = 96
    prompt_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every range; DataError names the field, its value and the remedy."""
        for field in ("name", "directory", "parts", "train_split", "test_split"):
            if not getattr(self, field):
                raise DataError(f"data.{field} is empty; name it.")
        positive = ("image_size", "patch_size", "caption_tokens", "batch_size")
        for field in positive:
            self._check_range(field, 1, None)
        for field in ("speech_units", "speech_tokens"):
            self._check_range(field, 0, None)
        if self.image_channels not in (1, 3):
            raise DataError(
                f"data.image_channels is {self.image_channels}; "
                "use 1 for grey or 3 for RGB images."
            )
        self._check_range("image_levels", 2, None if self.code_size else 256)
        self._check_range("text_vocabulary_size", 2, None)
        self._check_range("prompt_dropout", 0, 1)
        self._check_range("seed", 0, 2**32 - 1)
        for field in ("image_line", "code_size", "latent_channels"):
            self._check_range(field, 0, None)
        if self.code_size and self.image_size % self.code_size:
            raise DataError(
                f"data.code_size {self.code_size} does not divide data.image_size "
                f"{self.image_size}; choose one that does."
            )
        if self.image_line and self.num_image_codes % self.image_line:
            raise DataError(
                f"data.image_line {self.image_line} does not divide the "
                f"{self.num_image_codes} codes of an image; choose one that does."
            )
        if self.latent_channels and not (self.code_size and self.latent_scale > 0):
            raise DataError(
                f"data.latent_channels is {self.latent_channels}, but data.code_size "
                f"is {self.code_size} and data.latent_scale {self.latent_scale}; set "
                "both to what the autoencoder has."
            )
        if self.patched_size % self.patch_size:
            what = "data.image_size" if not self.latent_channels else "a latent side of"
            raise DataError(
                f"data.patch_size {self.patch_size} does not divide {what} "
                f"{self.patched_size}; choose one that does."
            )

    def _check_range(self, field: str, low: int, high: int | None) -> None:
        value = getattr(self, field)
        if value < low or (high is not None and value > high):
            bound = f"at least {low}" if high is None else f"between {low} and {high}"
            raise DataError(f"data.{field} is {value}; it must be {bound}.")

    @property
    def num_image_codes(self) -> int:
        """Discrete codes per image."""
        if self.code_size:
            return (self.image_size // self.code_size) ** 2
        return self.image_size * self.image_size * self.image_channels

    @property
    def patched_size(self) -> int:
        """Height and width of what patches are cut from: pixels, or latents."""
        if self.latent_channels:
            return self.image_size // self.code_size
        return self.image_size

    @property
    def patched_channels(self) -> int:
        """Channels of what patches are cut from."""
        return self.latent_channels or self.image_channels

    @property
    def num_patches(self) -> int:
        """Continuous patches per image, N."""
        return (self.patched_size // self.patch_size) ** 2

    @property
    def patch_width(self) -> int:
        """Values per continuous patch, P."""
        return self.patch_size * self.patch_size * self.patched_channels
