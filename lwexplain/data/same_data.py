"""Whether the images of a run are still those it was trained on."""

from collections.abc import Mapping

from lwexplain.data.dataset import DataSplits
from lwexplain.errors import RunError
from lwexplain.run import Run

CONTENTS = "contents:"
"""How a fingerprint of image files begins that counts what is in them; runs made before that count sizes alone."""


def require_same_data(data: DataSplits, run: Run, *, what: str = "trained on") -> None:
    """Raise RunError where ``data`` differs from what a run says of its images; ``what`` says what it did with them."""
    expected = str(run.fingerprint)
    if data.fingerprint == expected:
        return
    if data.fingerprint.startswith(CONTENTS) and not expected.startswith(CONTENTS):
        raise RunError(
            f"{run.path} knows its images by names and sizes alone, as earlier versions did, and not by what is in "
            f"them; it cannot be told whether those of {data.name!r} are the ones it was {what}: train the run anew"
        )
    known = run.manifest.get("data")
    parts = known.get("part_fingerprints") if isinstance(known, Mapping) else None
    parts = parts if isinstance(parts, Mapping) else {}
    changed = [name for name, each in data.part_fingerprints.items() if name in parts and parts[name] != each]
    where = f" ({', '.join(changed)})" if changed else ""
    raise RunError(
        f"the images of {data.name!r}{where} differ from those {run.path} was {what}; restore the data set, or train "
        "the run anew"
    )
