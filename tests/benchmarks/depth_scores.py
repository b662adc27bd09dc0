"""How often depth advice is right: lwexplain's and that of the simple rules, on the tasks of the oracle sweep.

    python tests/benchmarks/depth_scores.py             # results/depth_scores.json from results/depth_oracle/*.json
    python tests/benchmarks/depth_scores.py --fit       # also lwexplain/advice/depth_model.json, fitted on all tasks

Two questions. T2, from one finished run: which is the cheapest depth whose network, trained anew, is within half a
point of the best depth? The truth is the mean test accuracy of the networks retrained at every depth; every task is
advised on with coefficients fitted on the other tasks alone, once from each of its seeds. Regret is the accuracy of the
oracle's depth less that of the recommended one. T1, while training layer-wise: is another stage worth it? Loss is the
test accuracy of the best depth of all stages, chosen on val, less that of the stages trained; saved is the share of
seconds. The random-label tasks have no answer and count only for the verdict ``no_signal``.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from depth_cases import TOLERANCE, Case, read_cases
from depth_fit import fit_depth_model
from depth_stopping import saved_and_lost, stopped_after
from result_file import write_result

from lwexplain.advice.depth_model import COEFFICIENTS, DepthModel
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.question import Question
from lwexplain.advice.recommend import Recommendation, recommend
from lwexplain.advice.simple_rules import SIMPLE_RULES
from lwexplain.run.files import atomic_path

OURS = "lwexplain"
RANDOM = "random_labels"
PROMISES = (0.005, 0.01, 0.02, 0.05)


def rule_score(name: str, cases: list[Case], positions: Callable[[Case], list[int]]) -> dict[str, Any]:
    """One rule over all tasks, which count alike: figures are means over a task's seeds, then over the tasks."""
    rows = []
    for case in cases:
        chosen = positions(case)
        off = np.array(chosen) - case.oracle
        regret = np.array([case.regret(position) for position in chosen])
        rows.append(
            {
                "regret": regret.mean(),
                "worst_run": regret.max(),
                "within_one": (np.abs(off) <= 1).mean(),
                "too_deep": (off > 0).mean(),
                "too_shallow": (off < 0).mean(),
                "stages_off": np.abs(off).mean(),
                "log_parameters": np.log(case.parameters[chosen] / case.parameters[case.oracle]).mean(),
                "parameters_of_full": (case.parameters[chosen] / case.parameters[-1]).mean(),
            }
        )
    frame = pd.DataFrame(rows)
    means = frame.mean()
    return {
        "rule": name,
        "mean_regret": means["regret"],
        "worst_regret": frame["regret"].max(),
        "worst_regret_of_a_run": frame["worst_run"].max(),
        **{key: means[key] for key in ("within_one", "too_deep", "too_shallow", "stages_off", "parameters_of_full")},
        "parameters_of_oracle": float(np.exp(means["log_parameters"])),
        "tasks_within_one": float((frame["within_one"] > 0.5).mean()),
    }


def rule_positions(rule: Callable[[Evidence], int | None]) -> Callable[[Case], list[int]]:
    """A simple rule on every seed; where its evidence is missing it keeps the full depth."""

    def positions(case: Case) -> list[int]:
        found = [rule(Evidence.of(unit.table)) for unit in case.units]
        return [len(case.accuracy) - 1 if position is None else position for position in found]

    return positions


def advise(case: Case, model: DepthModel) -> list[Recommendation]:
    return [recommend(unit.table, Question(TOLERANCE), model=model) for unit in case.units]


def position_of(advice: Recommendation) -> int:
    """Position of the recommended depth; the full one where the advice names none."""
    return (advice.depth or advice.full_depth) - 1


def coverage(case: Case, advices: Iterable[Recommendation]) -> tuple[int, int]:
    """How many networks, of all depths and of the other seeds, lie in their 90 % interval, and how many there are."""
    inside = count = 0
    for unit, advice in zip(case.units, advices, strict=True):
        for other in case.units:
            if other.seed != unit.seed and advice.prospects:
                pairs = zip(advice.prospects, other.test_accuracy, strict=True)
                intervals = [(prospect.expected_accuracy_interval, accuracy) for prospect, accuracy in pairs]
                inside += sum(low <= accuracy <= high for (low, high), accuracy in intervals)
                count += len(intervals)
    return inside, count


def interval_share(case: Case, advices: list[Recommendation]) -> float:
    """Share of the recommendations whose 90 % interval of depths holds the oracle's."""
    intervals = [advice.depth_interval or (1, advice.full_depth) for advice in advices]
    return float(np.mean([low <= case.oracle + 1 <= high for low, high in intervals]))


def task_row(case: Case, advices: list[Recommendation]) -> dict[str, Any]:
    inside, count = coverage(case, advices)
    positions = [position_of(advice) for advice in advices]
    return {
        "name": case.name,
        "title": case.title,
        "strategy": case.strategy,
        "control": case.control,
        "stages": len(case.accuracy),
        "test_accuracy": [round(float(value), 5) for value in case.accuracy],
        "oracle_depth": case.oracle + 1,
        "recommended_depths": [position + 1 for position in positions],
        "verdicts": [advice.verdict for advice in advices],
        "intervals": [advice.depth_interval for advice in advices],
        "regret": float(np.mean([case.regret(position) for position in positions])),
        "in_interval": inside / count if count else None,
    }


def promise(tolerance: float, cases: list[Case], models: dict[str, DepthModel]) -> dict[str, Any]:
    """How often the recommended depth, trained anew, really lies within the tolerance of the best depth on test."""
    kept, parameters = [], []
    for case in cases:
        advices = [recommend(unit.table, Question(tolerance), model=models[case.name]) for unit in case.units]
        positions = [position_of(advice) for advice in advices]
        kept.append(np.mean([case.accuracy.max() - case.accuracy[position] <= tolerance for position in positions]))
        parameters.append(np.mean(case.parameters[positions] / case.parameters[-1]))
    return {
        "tolerance": tolerance,
        "kept": float(np.mean(kept)),
        "parameters_of_full": float(np.mean(parameters)),
    }


# ---------------------------------------------------------------------- T1: while training layer-wise


def stopping_row(case: Case, gain: float) -> dict[str, Any]:
    """Where training would have stopped by itself, seed by seed, and what that saves and loses."""
    stopped = [stopped_after(unit, gain) for unit in case.units]
    found = [saved_and_lost(unit, depth) for unit, depth in zip(case.units, stopped, strict=True)]
    saved, lost = np.mean(found, axis=0)
    return {
        "name": case.name,
        "title": case.title,
        "stages": len(case.accuracy),
        "gain": gain,
        "stopped_after": stopped,
        "saved": float(saved),
        "lost": float(lost),
    }


def scores(cases: list[Case]) -> dict[str, Any]:
    """Everything that the result file holds."""
    answerable = [case for case in cases if case.control != RANDOM]
    models = {case.name: fit_depth_model([other for other in answerable if other is not case]) for case in cases}
    advices = {case.name: advise(case, models[case.name]) for case in cases}
    rules = [rule_score(OURS, answerable, lambda case: [position_of(advice) for advice in advices[case.name]])]
    rules += [rule_score(name, answerable, rule_positions(rule)) for name, rule in SIMPLE_RULES.items()]
    covered = np.array([coverage(case, advices[case.name]) for case in answerable])
    stops = [stopping_row(case, models[case.name].stop_gain) for case in answerable if case.strategy == "greedy"]
    return {
        "tolerance": TOLERANCE,
        "runs": sum(len(case.units) for case in answerable),
        "rules": rules,
        "tasks": [task_row(case, advices[case.name]) for case in cases],
        "oracle_in_depth_interval": float(np.mean([interval_share(case, advices[case.name]) for case in answerable])),
        "promises": [promise(tolerance, answerable, models) for tolerance in PROMISES],
        "coverage": {"inside": int(covered[:, 0].sum()), "of": int(covered[:, 1].sum())},
        "stopping": {
            "tasks": stops,
            "saved": float(np.mean([row["saved"] for row in stops])),
            "lost": float(np.mean([row["lost"] for row in stops])),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="also write the coefficients that the package ships")
    options = parser.parse_args()
    cases = read_cases()
    if options.fit:
        with atomic_path(COEFFICIENTS) as temporary:
            temporary.write_text(json.dumps(fit_depth_model(cases).to_dict(), indent=1) + "\n", encoding="utf-8")
        print(COEFFICIENTS)
    found = scores(cases)
    for row in found["rules"]:
        print(
            f"{row['rule']:40s} regret {100 * row['mean_regret']:6.2f}  worst {100 * row['worst_regret']:6.2f}  "
            f"within one {row['within_one']:.2f}  parameters of the oracle's {row['parameters_of_oracle']:.2f}"
        )
    print("coverage", found["coverage"], "stopping", {key: found["stopping"][key] for key in ("saved", "lost")})
    print(write_result("depth_scores", found))


if __name__ == "__main__":
    main()
