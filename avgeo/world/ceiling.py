"""The Bayes ceiling of AVG-Sim: what the best possible method reaches, and how many bits sound and sight hold.

Everything follows from the exact posterior p(site | cues) of `posterior.py`:

- accuracy at a radius and GeoScore: the posterior expectation of naming the best point (`guesses.py`);
- log score: discs of different sites do not overlap, so that the density of a clip at its own position is
  p(site | cues) / area(disc), and the expected log score is -H(L | cues) - log area, in nats against the unit sphere;
- information: I(L;A) = H(L) - E H(L | A), likewise I(L;V) and I(L;A,V), and from these the chain rule's
  I(L;A|V) = I(L;A,V) - I(L;V), and the interaction I(L;A;V) = I(L;A) + I(L;V) - I(L;A,V): how much more sound and sight
  repeat each other about the place than each helps to read the other (they share the moment). Above zero, they are not
  orthogonal; at zero, repetition and help may cancel.

It is the ceiling of somebody who perceives every cue of one clip perfectly, and nothing else: `clip_id`, `path`,
`place_id`, the order of the manifest and `recorded_at` are no evidence. What the media blur (masked sounds, hidden
signs, languages that share one made-up voice) only lowers what a method can reach. On average over clips it is the
best expected score; up to the loss by the lattice of candidates, which `guesses.py` states.

Expectations over clips are Monte-Carlo means. Each term is the posterior *expectation* of a clip's score rather than
the score at its true place (for information: the entropy of the posterior): the same mean with less variance
(Rao-Blackwell). Fresh clips are independent draws, and their intervals are Monte-Carlo intervals. Clips of a data set
share places, which are then the sampling units (Liang & Zeger 1986): the interval is for the population of places.

Two protocols say what is known beforehand. *Known places*: the clip comes from one of the world's own places, all
alike. *New places*: it comes from a site of the pool that is in neither split that stages may see, "train" and "val".
The world's places are a uniform random subset of the pool, so that this is Bayes' rule for somebody who knows how the
world is made, all of its possible sites included, but has seen only those places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree
from scipy.special import entr
from scipy.stats import t as student
from tqdm import tqdm

from avgeo.world.cues import sample_cues
from avgeo.world.geography import EARTH_RADIUS_KM, WorldError, unit_vectors
from avgeo.world.guesses import JITTER_KM, RADII_KM, STEPS_KM, Guesses, accuracy_guesses, geoscore_guesses
from avgeo.world.moment import sample_moment
from avgeo.world.posterior import SENSES, Likelihood, Observed

LOG_DISC_AREA = float(np.log(np.pi * (JITTER_KM / EARTH_RADIUS_KM) ** 2))
"""Log of the area in which a clip of a known site lies, in steradians."""

_CHUNK = 128  # clips at a time: memory does not grow with their number
_CLIP = tuple[int, Observed]  # the row of the clip's true site, and its cues


def ceiling(
    clips: Sequence[Observed],
    place_id: Sequence[str],
    places: pd.DataFrame,
    pool: pd.DataFrame | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """What the best possible method reaches on these clips; `observed` reads `clips` from a truth table.

    `place_id` names each clip's place. With `pool`, the protocol "new places" stands beside "known places"; its clips
    must then be of places in the split "test". Returns one line per protocol, sense and metric:

    - senses "sound", "sight", "both": `accuracy_1km` ... `accuracy_2500km`, `geoscore`, `log_score` (nats),
      `site_log2` (E log2 p(site | cues)) and `information_bits` (I(L;A), I(L;V), I(L;A,V));
    - `information_bits` of "sound|sight", "sight|sound" (conditional) and "sound;sight" (interaction);
    - `entropy_bits` of "prior": H(L), the most that any sense can tell.

    Columns protocol, sense, metric, value, low, high, clips; low and high are NaN when all clips are of one place.
    Raises `WorldError` for unknown places and cues, and when a clip's cues cannot occur at its own place.
    """
    if not len(clips) or len(clips) != len(place_id):
        raise WorldError(f"place_id: {len(place_id)} for {len(clips)} clips: give one place_id per clip, and a clip")
    protocols = _protocols(places, pool)
    for protocol, sites in protocols.items():
        strange = sorted(set(place_id) - set(sites["place_id"]))
        if strange:
            cure = (
                "give clips of these places"
                if protocol == "known places"
                else "leave out the clips of seen places (splits train and val)"
            )
            raise WorldError(f"place_id: {strange[0]!r} is no site of {protocol!r}: {cure}")
    tables = []
    for protocol, sites in protocols.items():
        row = {name: at for at, name in enumerate(sites["place_id"])}
        stream = ((row[name], cues) for name, cues in zip(place_id, clips, strict=True))
        tables.append(_table(protocol, sites, stream, len(clips), level, fresh=False))
    return pd.concat(tables, ignore_index=True)


def fresh_ceiling(
    places: pd.DataFrame, pool: pd.DataFrame | None = None, clips: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """The ceiling of a world rather than of a data set: over `clips` fresh draws per protocol, without any media.

    Sites are drawn uniformly from each protocol's own candidates. Otherwise as `ceiling`.
    """
    if clips < 1:
        raise WorldError(f"clips={clips}: give 1 or more")
    tables = []
    for number, (protocol, sites) in enumerate(_protocols(places, pool).items()):
        stream = draw_clips(sites, clips, np.random.default_rng([seed, 0, 5, number]))
        tables.append(_table(protocol, sites, stream, clips, level, fresh=True))
    return pd.concat(tables, ignore_index=True)


def draw_clips(sites: pd.DataFrame, count: int, rng: np.random.Generator) -> Iterator[_CLIP]:
    """`count` clips as the world draws them, cues only: (row of the site, cue -> value), one at a time."""
    records = [{str(name): fact for name, fact in row.items()} for row in sites.to_dict("records")]
    for _ in range(count):
        row = int(rng.integers(len(records)))
        yield row, sample_cues(records[row], sample_moment(rng), rng)


def unseen(places: pd.DataFrame, pool: pd.DataFrame) -> pd.DataFrame:
    """The candidates of *new places*: the sites of `pool` that are in no split of `places` but "test"."""
    where = ["place_id", "latitude_deg", "longitude_deg"]
    if len(places[where].merge(pool[where])) != len(places):
        raise WorldError("pool: it does not hold all of places: build both from the same settings and seed")
    seen = places.loc[places["split"] != "test", "place_id"]
    left = pool[~pool["place_id"].isin(list(seen))]
    if left.empty:
        raise WorldError("pool: all of its sites are seen places: give a larger pool")
    return left.reset_index(drop=True)


def _protocols(places: pd.DataFrame, pool: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    known = {"known places": places.reset_index(drop=True)}
    return known if pool is None else known | {"new places": unseen(places, pool)}


# --- scores ---


def _table(
    protocol: str, sites: pd.DataFrame, clips: Iterable[_CLIP], total: int, level: float, fresh: bool
) -> pd.DataFrame:
    """The tidy table of one protocol over a stream of clips; `fresh` ones are independent draws."""
    likelihood, guesses = Likelihood(sites), all_guesses(sites)
    scores: list[dict[tuple[str, str], np.ndarray]] = []
    true_rows: list[int] = []
    stream = iter(clips)
    with tqdm(total=total, desc=f"ceiling, {protocol}", unit="clip", disable=None) as bar:
        while chunk := list(islice(stream, _CHUNK)):
            posterior = {sense: np.empty((len(chunk), likelihood.sites)) for sense in SENSES}
            for at, (row, cues) in enumerate(chunk):
                for sense, p in likelihood.posterior(cues).items():
                    if p[row] == 0:
                        site = sites["place_id"].iloc[row]
                        raise WorldError(
                            f"clips: {dict(cues)} cannot occur at {site}: these are not the clip's own cues"
                        )
                    posterior[sense][at] = p
            true_rows += [row for row, _ in chunk]
            scores.append(expected_scores(posterior, guesses))
            bar.update(len(chunk))
    cluster = np.arange(len(true_rows)) if fresh else np.unique(true_rows, return_inverse=True)[1]
    lines = [("prior", "entropy_bits", *3 * (float(np.log2(likelihood.sites)),))]  # exact
    for sense, metric in scores[0]:
        values = np.concatenate([part[sense, metric] for part in scores])
        lines.append((sense, metric, *mean_interval(values, cluster, level)))
    table = pd.DataFrame(lines, columns=pd.Index(["sense", "metric", "value", "low", "high"]))
    table.insert(0, "protocol", protocol)
    return table.assign(clips=len(true_rows))


def all_guesses(sites: pd.DataFrame) -> dict[str, Guesses]:
    """The candidates of every metric that names a point: `accuracy_1km` ... and `geoscore`.

    Raises `WorldError` when two sites are so close that their discs overlap: the log score then has no closed form.
    """
    vectors = unit_vectors(sites["latitude_deg"], sites["longitude_deg"])
    if len(sites) > 1:
        least_km = EARTH_RADIUS_KM * KDTree(vectors).query(vectors, k=2)[0][:, 1].min()
        if least_km < 2 * JITTER_KM:
            raise WorldError(f"sites: two lie {least_km:.1f} km apart: keep them {2 * JITTER_KM:g} km apart or more")
    found = {f"accuracy_{radius:g}km": accuracy_guesses(vectors, radius, STEPS_KM[radius]) for radius in RADII_KM}
    return found | {"geoscore": geoscore_guesses(vectors)}


def expected_scores(
    posterior: dict[str, Float64[np.ndarray, "clips sites"]], guesses: dict[str, Guesses]
) -> dict[tuple[str, str], Float64[np.ndarray, " clips"]]:
    """Every clip's posterior expectation of every metric at its best, by (sense, metric), under a uniform prior.

    Information is H(L) - H(L | cues): its mean over clips is the mutual information.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    bits: dict[str, np.ndarray] = {}
    for sense, p in posterior.items():
        for metric, candidates in guesses.items():
            most = 5000.0 if metric == "geoscore" else 1.0
            found[sense, metric] = np.minimum(candidates.best(p)[0], most)  # float32 sums may exceed it by 1e-7
        entropy = entr(p).sum(1)
        found[sense, "log_score"] = -entropy - LOG_DISC_AREA
        found[sense, "site_log2"] = -entropy / np.log(2)
        found[sense, "information_bits"] = bits[sense] = np.log2(p.shape[1]) - entropy / np.log(2)
    for sense, value in {
        "sound|sight": bits["both"] - bits["sight"],
        "sight|sound": bits["both"] - bits["sound"],
        "sound;sight": bits["sound"] + bits["sight"] - bits["both"],
    }.items():
        found[sense, "information_bits"] = value
    return found


def mean_interval(
    values: Float64[np.ndarray, " clips"], cluster: Int64[np.ndarray, " clips"], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over clips and its t interval with `cluster` 0..C-1 as sampling units; NaN bounds for one cluster.

    Variance of the ratio of sums: C / (C - 1) sum_c (sum_{i in c} (x_i - mean))^2 / n^2 (Liang & Zeger 1986).
    """
    mean, clusters = float(values.mean()), int(cluster.max()) + 1
    if clusters < 2:
        return mean, float("nan"), float("nan")
    sums = np.bincount(cluster, weights=values - mean)
    error = np.sqrt(clusters / (clusters - 1) * np.square(sums).sum()) / len(values)
    reach = float(student.ppf((1 + level) / 2, clusters - 1) * error)
    return mean, mean - reach, mean + reach
