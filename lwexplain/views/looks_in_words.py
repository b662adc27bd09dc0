"""What a monitor saw, in sentences: only what follows from the numbers and their intervals."""

import pandas as pd

LINEAR = "linear_probe_accuracy"


def looks_in_words(table: pd.DataFrame, *, chance: float | None = None) -> list[str]:
    """Sentences on the latest look of ``looks_table``: where the answer is, since when, and what still changes.

    Plain text, in which the names of stages are foreign.
    """
    linear = table[table["metric"] == LINEAR]
    if linear.empty:
        return []
    sentences = [_where_the_answer_is(linear, chance)]
    drift = table[(table["metric"] == "drift") & (table["epoch"] == linear["epoch"].max())]
    if len(drift) > 1:
        most, least = drift.iloc[int(drift["value"].argmax())], drift.iloc[int(drift["value"].argmin())]
        sentences.append(
            f"Since the look before, {most['stage']} changed most (drift {most['value']:.2f}) and {least['stage']} "
            f"least ({least['value']:.2f})."
        )
    return sentences


def first_stage_with_the_answer(rows: pd.DataFrame) -> str | None:
    """The shallowest stage of one look whose linear probe cannot be told from the best one's: it lies in its interval.

    None where no interval was measured.
    """
    best = rows.iloc[int(rows["value"].argmax())]
    if pd.isna(best["low"]):
        return None
    enough = rows[rows["value"] >= best["low"]].sort_values("depth")
    return str(enough.iloc[0]["stage"])


def _where_the_answer_is(linear: pd.DataFrame, chance: float | None) -> str:
    epochs = sorted(linear["epoch"].unique())
    latest = linear[linear["epoch"] == epochs[-1]]
    best = latest.iloc[int(latest["value"].argmax())]
    said = f"{best['value']:.3f}, 95 % interval {best['low']:.3f} to {best['high']:.3f}"
    if chance is not None and best["low"] <= chance:
        return (
            f"Epoch {epochs[-1]}: no stage is surely better than always naming the most frequent class "
            f"({chance:.3f}); the best is {best['stage']} ({said})."
        )
    first = first_stage_with_the_answer(latest)
    if first is None or first == latest.sort_values("depth").iloc[-1]["stage"]:
        return f"Epoch {epochs[-1]}: the linear probe reads most at the last stage, {best['stage']} ({said})."
    if first == best["stage"]:
        return (
            f"Epoch {epochs[-1]}: the linear probe reads most at {first} ({said}); no earlier stage comes within "
            "that interval."
        )
    own = latest[latest["stage"] == first].iloc[0]
    since = _since(linear, first, epochs)
    return (
        f"Epoch {epochs[-1]}: the answer is there at {first}. Its linear probe ({own['value']:.3f}) is within the "
        f"interval of the best stage, {best['stage']} ({said}){since}."
    )


def _since(linear: pd.DataFrame, stage: str, epochs: list[int]) -> str:
    """Since which of the looks, without a break, this stage has lain in the interval of the best one."""
    first = None
    for epoch in reversed(epochs):
        rows = linear[linear["epoch"] == epoch]
        own, best = rows[rows["stage"] == stage], rows.iloc[int(rows["value"].argmax())]
        if own.empty or not own.iloc[0]["value"] >= best["low"]:
            break
        first = epoch
    if first is None or first == epochs[-1]:
        return ""
    return f", as in every look since epoch {first}"
