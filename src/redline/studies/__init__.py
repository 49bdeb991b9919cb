"""Studies: the field's questions about parallel training, asked again on the reader's own machine.

Each is one file with one function: it trains, measures, and returns a ``Result`` of rows, and curves or points, that
`redline study NAME` prints, saves as JSON and draws.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from redline.studies.alternating import alternating
from redline.studies.answers import crossover, parallelise
from redline.studies.lag import lag
from redline.studies.result import Options, Result
from redline.studies.speedup import speedup
from redline.types import UserError

STUDIES: dict[str, Callable[[Options], Result]] = {
    "lag": lag,
    "a3c-speedup": speedup,
    "alternating": alternating,
    "crossover": crossover,
    "parallelise": parallelise,
}


def find(name: str) -> Callable[[Options], Result]:
    """The study of a name. Raises: UserError with the nearest one's name."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.0)[0]
        raise UserError(f"study {name!r} is unknown: did you mean {near!r}? valid: {', '.join(STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Options", "Result", "find"]
