"""Self-contained HTML pages from templates, and how their numbers are spelled."""

import importlib.resources
from collections.abc import Mapping
from typing import Any


def render_page(template: str, contents: Mapping[str, Any], **functions: Any) -> str:
    """A page of this room, as text.

    Args:
      template: file name of a Jinja template beside this module.
      contents: everything that it shows; a name it lacks is an error.
      functions: what the template may call, beside its filters.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "percent": percent, "duration": duration}
    environment.globals |= functions
    source = importlib.resources.files(__package__).joinpath(template)
    page = environment.from_string(source.read_text(encoding="utf-8"))
    return page.render(contents)


def words(name: str) -> str:
    """A task or part in words: text_to_image is "text to image"."""
    return name.replace("_", " ")


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
