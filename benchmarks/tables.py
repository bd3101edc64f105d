"""How results become the front page's tables: each part between two markers is written from committed JSON.

python benchmarks/tables.py          write them into README.md
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "benchmarks" / "results"


def main() -> None:
    """Write all parts into the front page."""
    README.write_text(rendered(README.read_text()))


def rendered(page: str) -> str:
    """The page with the text between each pair of markers replaced by what the results say."""
    for name, render in PARTS.items():
        pattern = re.compile(rf"(<!-- {name}: .*?-->\n).*?(<!-- end {name} -->)", re.DOTALL)
        page = pattern.sub(_between(render()), page)
    return page


def _between(text: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] + text + match[2]


def _build() -> str:
    results = [_load(path.stem) for path in sorted(RESULTS.glob("build-*.json"), reverse=True)]
    rows = [
        (
            f"{result['corpus']}, {result['split']}",
            f"{result['substrings']:,}",
            f"{result['distinct_prefixes']:,}",
            f"{result['seconds'] / 60:.1f} min",
            f"{result['memory_peak_gb']:.1f} GB",
            f"{result['keys_gb']:.2f} GB",
            f"{result['snapshot_gb']:.2f} GB",
        )
        for result in results
    ]
    headings = ("corpus, split", "substrings", "prefixes run", "time", "peak memory", "keys", "whole snapshot")
    machine = results[0]["machine"]
    return _table(headings, rows) + f"\nOn {machine['cores']} cores of an {machine['processor']}, float32.\n"


def _prompts() -> str:
    result = _load("prompts")
    rows = [
        (
            f"`{prompt}`",
            _tokens(answer["model"]),
            _tokens(answer["approximation"]),
            f"{answer['hellinger']:.3f}",
            " ".join(f"{count:,}" for count in answer["neighbors_by_block"]),
        )
        for prompt, answer in result["prompts"].items()
    ]
    return _table(("prompt", "model", "approximation", "distance", "neighbors in blocks 0 to 5"), rows)


def _demo() -> str:
    """The demonstration's output, of its three prompts the first alone."""
    output = _load("demo")["output"]
    output = re.sub(r'\n"hing tremb".*?(?=\nsnapshot )', "\n…\n", output, flags=re.DOTALL)
    output = re.sub(r'\nWhy "hing tremb".*?(?=\nThe server)', "\n…\n", output, flags=re.DOTALL)
    output = re.sub(r"\n{3,}", "\n\n", re.sub(r"in /tmp/\S+\.", "in a temporary folder.", output))
    return f"```text\n{output.strip()}\n```\n"


def _demo_cost() -> str:
    result = _load("demo")
    cost = f"{result['seconds']:.0f} s and {result['memory_peak_gb']:.1f} GB"
    return f"It takes {cost} of memory at most, on the machine of the tables below.\n"


def _model() -> str:
    record = json.loads((REPOSITORY / "indexer/ffnsearch_indexer/models/reference/training.json").read_text())
    rows = [
        ("reference model", f"{record['final_train_loss']:.4f}", f"{record['final_validation_loss']:.4f}"),
        ("the article's", "0.9334", "1.5063"),
    ]
    return _table(("", "training loss", "validation loss"), rows)


def _fidelity() -> str:
    """The mean Hellinger distance to the model, of all that was measured, for the model's own corpus and a near one."""
    return _distances(
        ("parity, TinyShakespeare", "fidelity-tinyshakespeare-parity"),
        ("parity, shakespeare", "fidelity-shakespeare-parity"),
        ("leave-one-out, shakespeare", "fidelity-shakespeare-leave-one-out"),
        ("held-out, shakespeare", "fidelity-shakespeare-held-out"),
    )


def _second_corpus() -> str:
    return _distances(
        ("leave-one-out, Python's documentation", "fidelity-python-leave-one-out"),
        ("held-out, Python's documentation", "fidelity-python-held-out"),
    )


def _distances(*columns: tuple[str, str]) -> str:
    documents = [_load(stem) for _, stem in columns]
    rows = [
        (label, *(_distance(find(document)) for document in documents))
        for label, find in {
            "the article's constants": lambda document: document["profiles"].get("article"),
            "calibrated, one threshold a block": lambda document: document["profiles"]["one-step"],
            "calibrated, best sum": lambda document: document["profiles"]["sum"],
            "calibrated product, `fast`": lambda document: document["profiles"]["fast"],
            "calibrated product, `balanced` (default)": lambda document: document["profiles"]["balanced"],
            "calibrated product, `best`": lambda document: document["profiles"]["best"],
            "best block alone, its steps added up": lambda document: document["baselines"]["best_block"],
            "the prompt's own next tokens": lambda document: document["baselines"]["own_next_tokens"],
            "n-gram, fitted as the product is": lambda document: document["baselines"].get("fitted_ngram"),
            "n-gram, smoothed": lambda document: document["baselines"].get("smoothed_ngram"),
            "n-gram, back-off": lambda document: document["baselines"]["backoff_ngram"],
            "unigram": lambda document: document["baselines"]["unigram"],
        }.items()
        if all(find(document) for document in documents)
    ]
    floors = [document["noise_floor"] for document in documents]
    if all(floors):
        rows.append(("noise floor: models from other seeds", *(f"{floor:.4f}" for floor in floors)))
    rows.append(("prompts", *(f"{document['prompts']:,}" for document in documents)))
    return _table(("mean Hellinger distance to the model", *(title for title, _ in columns)), rows)


def _distance(measures: dict[str, Any]) -> str:
    distance = measures["hellinger"]
    low, high = distance["ci95"]
    return f"{distance['mean']:.4f} ±{(high - low) / 2:.4f}"


def _range_sum() -> str:
    """A table for each of RANGE_SUMS."""
    return "\n".join(_range_sum_on(_load(name), processor) for name, processor in RANGE_SUMS.items())


def _range_sum_on(result: dict[str, Any], processor: str) -> str:
    backends = result["measured"][result["profile"]][result["queries"]]["backends"]
    batches = list(backends["tiles"])
    rows = [
        (f"`{name}`", *(f"{by_batch[batch]['queries_per_second']:,.1f}" for batch in batches))
        for name, by_batch in backends.items()
    ]
    rows.append(("`tiles` to the best of faiss", *(f"{result['ratio_to_best_faiss'][batch]:.1f}" for batch in batches)))
    return (
        _table(("queries a second", *(f"batch {int(batch):,}" for batch in batches)), rows)
        + f"\nOn {result['threads']} threads of {processor}: {result['answers_checked']:,} answers compared, "
        f"{result['differing_integers']:,} integers differ.\n"
    )


RANGE_SUMS = {
    "range-sum-tinyshakespeare": "the machine above (Zen 4), which has AVX512_BF16 and no AMX",
    "range-sum-tinyshakespeare-amx": "an Intel Xeon, which has AMX, one version earlier",
}
"""The races, and on what they were run."""


def _end_to_end() -> str:
    """Prompts a second through model and search, and which share that is of what the slower does alone."""
    measured = _load("end-to-end")["measured"]
    batches = [str(batch["batch"]) for batch in next(iter(measured.values()))["batches"]]
    rows = []
    for profile, speeds in measured.items():
        rates = [[batch[stage]["prompts_per_second"] for stage in STAGES] for batch in speeds["batches"]]
        rows += [
            (f"`{profile}`: {label}", *(f"{of_batch[place]:,.0f}" for of_batch in rates))
            for place, label in enumerate(STAGES.values())
        ]
        shares = (f"{together / min(alone):.0%}" for together, *alone in rates)
        rows.append((f"`{profile}`: together to the slower alone", *shares))
    return _table(("prompts a second", *(f"batch {batch}" for batch in batches)), rows)


STAGES = {"together": "together", "model": "the model alone", "search": "the search alone"}


OVERHEAD_P50_MS, OVERHEAD_P99_MS = 0.5, 2
"""What a call may cost beyond the engine and a bare echo."""


def _service() -> str:
    """What the service promises, how each promise is tested, and what was measured where there is something to."""
    rows = [
        (
            f"It costs little beyond the engine: at most {OVERHEAD_P50_MS} ms at the median, {OVERHEAD_P99_MS} ms at "
            "p99, at half load",
            "wire",
            _overhead,
        ),
        ("90 % of the bare engine's prompts a second arrive, in calls of 64 to 256", "wire", _throughput),
        (
            "Three times the load: who is taken in is answered in time, the rest is refused at once",
            "overload",
            _overload,
        ),
        ("Afterwards it is as fast as before, and holds no more memory", "overload", _aftermath),
        ("Hostile input: no crash, no leak, documented codes alone", "hostile", _hostile),
        ("SIGTERM drains: no accepted call fails", "test_faults_ending", None),
        ("A new snapshot without downtime: every answer is whole, from one snapshot", "test_faults_moves", None),
        ("SIGKILL during a build, a full disk: the build goes on, once, where it was", "test_builds", None),
        ("SIGKILL while requests, loads and alias moves run: a restart finds what was told", "test_faults_kills", None),
        ("Callers who cancel, never read, connect and drop hold nothing", "test_faults_callers", None),
        ("A revoked token ends its streams, a replaced certificate no call", "test_faults_protection", None),
        ("Nobody calls without a token that is valid and allows it", "test_auth_on_the_wire", None),
        ("No reply has a path, a stack trace or a token", "test_nothing_leaks", None),
    ]
    return _table(
        ("promise", "tested by", "figure"),
        [(promise, _tested_by(source), _figure(source, figure)) for promise, source, figure in rows],
    )


def _tested_by(source: str) -> str:
    """The script or the test, where it is there: a promise without one is shown as that."""
    folder = "tests/service" if source.startswith("test_") else "benchmarks"
    path = f"{folder}/{source}.py"
    return f"[`{source}.py`]({path})" if (REPOSITORY / path).exists() else "nothing yet"


def _figure(source: str, figure: Callable[[dict[str, Any]], str] | None) -> str:
    if source.startswith("test_"):
        return "passes" if (REPOSITORY / "tests" / "service" / f"{source}.py").exists() else ""
    if figure is None or not (RESULTS / f"{source}.json").exists():
        return "not measured yet"
    return figure(_load(source))


def _overhead(result: dict[str, Any]) -> str:
    beyond = result["real_engine"]["half_load"]["beyond_engine_and_echo_ms"]
    share = result["free_engine"]["1"]["share_of_echo"]
    is_kept = beyond["p50"] <= OVERHEAD_P50_MS and beyond["p99"] <= OVERHEAD_P99_MS
    told = "" if is_kept else "not kept: "
    return f"{told}{beyond['p50']:.2f} ms, {beyond['p99']:.2f} ms; {share:.0%} of a bare echo's calls a second"


def _throughput(result: dict[str, Any]) -> str:
    return _joined(
        f"{found['share_of_bare']:.0%} in calls of {size}"
        for size, found in result["real_engine"]["throughput"].items()
    )


def _overload(result: dict[str, Any]) -> str:
    """For each size of calls; late ones, if any, are told as well as the percentile that includes them."""
    return _joined(
        f"in calls of {size}: {_under_load(found['under_load'], result['deadline_s'])}"
        for size, found in result["measured"].items()
    )


def _under_load(found: dict[str, Any], deadline_s: float) -> str:
    late, others = found["deadline_exceeded"]["calls"], sum(found["others"].values())
    return (
        f"{'not kept: ' if late else ''}p99 {found['accepted_latency_ms']['p99'] / 1e3:.2f} s of {deadline_s:g} s, "
        f"{late} late of {found['answered']['calls'] + late:,}, refused after "
        f"{found['refused']['latency_ms'].get('p50', 0):.0f} ms"
        + (f", {others:,} of {found['calls']:,} cut off by gRPC itself" if others else "")
    )


def _aftermath(result: dict[str, Any]) -> str:
    return _joined(
        f"in calls of {size}: {found['after_to_before']:.0%}, {found['memory']['growth_mb']:+.0f} MB"
        for size, found in result["measured"].items()
    )


def _hostile(result: dict[str, Any]) -> str:
    runs = result["runs"].values()
    growth_mb = max(
        run["after_each_round"][-1]["resident_mb"] - run["after_each_round"][0]["resident_mb"] for run in runs
    )
    return (
        f"{result['requests']:,} calls and connections, {sum(run['failures'] for run in runs)} failures, "
        f"{growth_mb:+.0f} MB"
    )


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(parts)


def _tokens(distribution: dict[str, float]) -> str:
    return " ".join(f"`{_visible(token)}` {probability:.2f}" for token, probability in list(distribution.items())[:4])


def _visible(token: str) -> str:
    return {"\n": "\\n", " ": "space"}.get(token, token)


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


PARTS: dict[str, Callable[[], str]] = {
    "demo": _demo,
    "demo-cost": _demo_cost,
    "build": _build,
    "prompts": _prompts,
    "model": _model,
    "fidelity": _fidelity,
    "range-sum": _range_sum,
    "end-to-end": _end_to_end,
    "second-corpus": _second_corpus,
    "service": _service,
}

if __name__ == "__main__":
    main()
