"""False positives and power of the tests of normality and dependence.

    python benchmarks/diagnostics.py [--rows runs/diagnostics.jsonl] [--n 1000] [--components 16]
        [--seconds 600]

Every test sees 200 sets of codes for which its null hypothesis is true (the classifiers 40), and 40
of each kind for which it is not (the classifiers 20), n = 1,000 codes of d = 16 components. Each
set of codes and each simulation has its own seed, so that rejections are binomial. Every p-value
is kept in a file of JSON lines as soon as it is there: the benchmark can be stopped, or told to
stop by --seconds, and continues. Tables are printed at the end, of what is there.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scattergen.diagnostics import (
    DiagnosticTest,
    classifier_dependence,
    classifier_normality,
    correlation_of_squares,
    marginal_normality,
    pairwise_dependence,
    radial,
    sliced_normality,
)
from scattergen.display.machine import machine

LEVEL = 0.05
SIMULATIONS = 99  # 0.05 · 100 is whole, so that the level is exact
SETS, CLASSIFIER_SETS = {"null": 200, "power": 40}, {"null": 40, "power": 20}

Floats = NDArray[np.float64]


def normal(random: np.random.Generator, n: int, d: int) -> Floats:
    return random.standard_normal((n, d))


def independent(random: np.random.Generator, n: int, d: int) -> Floats:
    """Uniform, Laplace, exponential and two-humped components in turn, of mean 0, variance 1."""
    columns = []
    for k in range(d):
        kind = k % 4
        if kind == 0:
            x = np.sqrt(12) * (random.random(n) - 0.5)
        elif kind == 1:
            x = random.laplace(size=n) / np.sqrt(2)
        elif kind == 2:
            x = random.exponential(size=n) - 1
        else:
            x = 0.9 * random.choice([-1.0, 1.0], n) + np.sqrt(0.19) * random.standard_normal(n)
        columns.append(x)
    return np.column_stack(columns)


def scale_mixture(random: np.random.Generator, n: int, d: int) -> Floats:
    """Normal codes, each times its own scale of mean square 1: uncorrelated but dependent."""
    scale = np.exp(0.2 * random.standard_normal((n, 1)) - 0.04)
    return scale * random.standard_normal((n, d))


def one_pair(random: np.random.Generator, n: int, d: int) -> Floats:
    """|z₁| = |z₂| with an independent sign: normal marginals, uncorrelated, dependent."""
    z = random.standard_normal((n, d))
    z[:, 1] = z[:, 0] * random.choice([-1.0, 1.0], n)
    return z


def all_pairs(random: np.random.Generator, n: int, d: int) -> Floats:
    """|z₁| = |z₂|, |z₃| = |z₄|, and so on."""
    z = random.standard_normal((n, d))
    z[:, 1::2] = z[:, ::2][:, : d // 2] * random.choice([-1.0, 1.0], (n, d // 2))
    return z


def rotated_uniform(random: np.random.Generator, n: int, d: int) -> Floats:
    """A cube, turned at random: uncorrelated but dependent, with nearly normal marginals."""
    rotation = np.linalg.qr(random.standard_normal((d, d)))[0]
    return np.sqrt(12) * (random.random((n, d)) - 0.5) @ rotation


NULLS = {"normal": normal, "independent": independent}
ALTERNATIVES = {
    "scale mixture": scale_mixture, "one pair": one_pair, "all pairs": all_pairs,
    "rotated uniform": rotated_uniform,
}  # fmt: skip
CODES = NULLS | ALTERNATIVES
Tests = Callable[[Floats, int], tuple[DiagnosticTest, ...]]


def _pairs(z: Floats, seed: int) -> tuple[DiagnosticTest, ...]:
    found = pairwise_dependence(z, n_simulations=SIMULATIONS, seed=seed)
    return found.strongest, found.mean


# Name to the test, and the codes for which its null hypothesis is true.
BOTH = ("normal", "independent")
TESTS: dict[str, tuple[Tests, tuple[str, ...]]] = {
    "marginal": (lambda z, seed: (marginal_normality(z, n_simulations=SIMULATIONS, seed=seed),), ("normal",)),
    "radial": (lambda z, seed: (radial(z),), ("normal",)),
    "squares": (lambda z, seed: (correlation_of_squares(z, n_simulations=SIMULATIONS, seed=seed),), BOTH),
    "pairs": (_pairs, BOTH),
    "sliced": (lambda z, seed: sliced_normality(z, n_simulations=SIMULATIONS, seed=seed), ("normal",)),
    "classifier_normality": (
        lambda z, seed: (classifier_normality(z, n_simulations=SIMULATIONS, seed=seed),),
        ("normal",),
    ),
    "classifier_dependence": (lambda z, seed: (classifier_dependence(z, n_simulations=SIMULATIONS, seed=seed),), BOTH),
}


def sets_of(test: str, codes: str, null: bool) -> int:
    count = CLASSIFIER_SETS if test.startswith("classifier") else SETS
    return count["null" if null else "power"]


def jobs() -> Iterator[tuple[str, str, bool]]:
    """Test, codes, and whether the null hypothesis is true of them; where it is comes first."""
    for test, (_, nulls) in TESTS.items():
        yield from ((test, codes, True) for codes in nulls)
    for test, (_, nulls) in TESTS.items():
        yield from ((test, codes, False) for codes in CODES if codes not in nulls)


def measure(arguments: argparse.Namespace, known: dict[str, Any]) -> None:
    start = time.monotonic()
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    with arguments.rows.open("a") as file:
        for test, codes, null in jobs():
            for k in range(sets_of(test, codes, null)):
                key = f"{test}/{codes}/{arguments.n}/{arguments.components}/{k}"
                if key in known:
                    continue
                if arguments.seconds is not None and time.monotonic() - start > arguments.seconds:
                    return
                random = np.random.default_rng([k, [*CODES].index(codes)])
                z = CODES[codes](random, arguments.n, arguments.components)
                found = TESTS[test][0](z, 1_000_000 + k)
                known[key] = {t.name: t.pvalue for t in found}
                file.write(json.dumps({"key": key, "p": known[key]}) + "\n")
                file.flush()


def interval(count: int) -> tuple[int, int]:
    """Numbers of rejections that contain those of an exact test with probability 0.99 or more."""
    low, high = stats.binom(count, LEVEL).interval(0.99)
    return int(low), int(high)


def rejections(
    arguments: argparse.Namespace, known: dict[str, Any], test: str, codes: str
) -> dict[str, tuple[int, int]]:
    """Name of each statistic of a test to its rejections and the sets of codes there are."""
    found: dict[str, tuple[int, int]] = {}
    start = f"{test}/{codes}/{arguments.n}/{arguments.components}/"
    for key, pvalues in known.items():
        if key.startswith(start):
            for name, pvalue in pvalues.items():
                rejected, count = found.get(name, (0, 0))
                found[name] = rejected + (pvalue <= LEVEL), count + 1
    return found


def print_tables(arguments: argparse.Namespace, known: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"n = {arguments.n:,}, d = {arguments.components}, level {LEVEL}\n")
    print("| test | codes | rejected | of | 99 % interval of an exact test | |")
    print("|---|---|---|---|---|---|")
    for test, codes, null in jobs():
        if null:
            for name, (rejected, count) in rejections(arguments, known, test, codes).items():
                low, high = interval(count)
                verdict = "" if low <= rejected <= high else "outside"
                print(f"| {name} | {codes} | {rejected} | {count} | {low}–{high} | {verdict} |")
    kinds = [codes for codes in CODES if codes != "normal"]
    print("\nShare rejected (sets of codes); – where the null hypothesis is true:\n")
    print(f"| test | {' | '.join(kinds)} |")
    print("|---" * (len(kinds) + 1) + "|")
    for test, (_, nulls) in TESTS.items():
        by_codes = {codes: rejections(arguments, known, test, codes) for codes in kinds}
        names = dict.fromkeys(name for found in by_codes.values() for name in found)
        for name in names:
            cells = []
            for codes in kinds:
                rejected, count = by_codes[codes].get(name, (0, 0))
                share = f"{rejected / count:.2f} ({count})" if count else ""
                cells.append("–" if codes in nulls else share)
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("runs/diagnostics.jsonl"))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--seconds", type=float, help="stop measuring after so many")
    arguments = parser.parse_args()
    lines = arguments.rows.read_text().splitlines() if arguments.rows.exists() else []
    known = {row["key"]: row["p"] for row in map(json.loads, lines)}
    measure(arguments, known)
    print_tables(arguments, known)


if __name__ == "__main__":
    main()
