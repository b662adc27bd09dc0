"""How accurate a stage's own trained head is."""

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracies_of, accuracy_of
from lwexplain.probes.base import PROBES, Measurement, Predictions, ProbeDefaults, StageData
from lwexplain.probes.metrics import accuracy as declared
from lwexplain.probes.splits import read_labels


@PROBES.register("head")
class Head(ProbeDefaults):
    """Accuracy of the stage's own head, and its predictions; nothing where the stage has none.

    Rows ``head_accuracy`` for train, val and test, and for each class on val and test, in [0, 1] with Wilson intervals.
    Raises ProbeError for logits that are not finite or do not fit the labels.
    """

    name = "head"
    order = 30
    metrics = declared.HEAD

    def measure(self, stage: StageData) -> list[Measurement | Predictions]:
        rows: list[Measurement | Predictions] = []
        for split in ("train", "val", "test"):
            if split not in stage.logits:
                continue
            logits, labels = np.asarray(stage.logits[split]), read_labels(stage, split)
            if logits.shape != (len(labels), len(stage.classes)):
                raise ProbeError(
                    f"stage {stage.name!r}: {split} logits have shape {logits.shape}; expected "
                    f"({len(labels)}, {len(stage.classes)})"
                )
            if not np.isfinite(logits).all():
                raise ProbeError(f"stage {stage.name!r}: {split} logits hold NaN or infinity")
            predicted = logits.argmax(1).astype(np.int64)
            if split == "train":
                rows.append(accuracy_of("head_accuracy", predicted, labels, split))
                continue
            rows += accuracies_of("head_accuracy", predicted, labels, split, stage.classes)
            rows.append(Predictions("head", split, predicted))
        return rows
