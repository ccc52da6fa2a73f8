"""Places: distinct locations on the sphere, each of bounded extent and none near another.

Distances are great circles on a sphere of mean radius. Neighbours are found among unit vectors, where a chord stands
for a distance, so that the date line and the poles are like everywhere else. Nothing depends on the order or the names
of the clips.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from avgeo.curate.candidate import CurateError
from avgeo.profiles import CurateSettings

EARTH_KM = 6371.0088
LEAST_SEPARATION_KM = 0.05
"""Places nearer than this could bear one name, since names have four decimals (11 m)."""

_FIT_STEPS = 100
_SAMPLE = 20_000  # clips of one group among which neighbours are counted


def unit_vectors(
    latitude_deg: Float[np.ndarray, " n"], longitude_deg: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Unit vectors of coordinates in degrees."""
    lat, lon = np.deg2rad(latitude_deg), np.deg2rad(longitude_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def chord(km: float) -> float:
    """The straight line between two unit vectors that lie `km` apart on the Earth."""
    return float(2 * np.sin(min(km / EARTH_KM, np.pi) / 2))


def arc_km(chords: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Distances in km that chords between unit vectors stand for."""
    return 2 * EARTH_KM * np.arcsin(np.clip(chords / 2, 0, 1))


def check_distances(settings: CurateSettings) -> None:
    """Raise `CurateError` for distances that make no sense."""
    if not settings.separation_km >= LEAST_SEPARATION_KM:
        raise CurateError(f"separation_km={settings.separation_km}: give {LEAST_SEPARATION_KM} or more")
    if not settings.place_radius_km >= 0:
        raise CurateError(f"place_radius_km={settings.place_radius_km}: give 0 or more")


def assign_places(table: pd.DataFrame, settings: CurateSettings) -> tuple[pd.Series, dict[str, str]]:
    """The place of every clip of `table` (clip_id, latitude_deg, longitude_deg), and why some clips have none.

    All clips of a place lie within `place_radius_km` of one centre, and two clips of different places lie at least
    `separation_km` apart. Clips nearer than `separation_km` share a place, through any chain of them (single linkage),
    wherever such a group fits the radius. A larger one, as dense cities make, is cut: the clip with the most others
    within the radius (counted among 20,000 of the group) and these others become a place, what lies nearer than
    `separation_km` to it is left out, and so on with the rest.

    A place is named by its southernmost, then westernmost clip, `+52.0000+004.0000`. Returns the names, indexed like
    `table`, None where left out; and clip_id: reason for those. Raises `CurateError` for distances that make no sense.
    """
    check_distances(settings)
    names = pd.Series([None] * len(table), index=table.index, dtype="object")
    if table.empty:
        return names, {}
    latitude, longitude = (table[name].to_numpy(dtype=float) + 0.0 for name in ("latitude_deg", "longitude_deg"))
    order = np.lexsort((longitude, latitude))  # from here on nothing depends on the rows' order
    latitude, longitude = latitude[order], longitude[order]
    points = unit_vectors(latitude, longitude)
    place, blocker = _partition(points, settings.place_radius_km, settings.separation_km)
    _, first, number = np.unique(place, return_index=True, return_inverse=True)
    texts = [f"{latitude[at]:+08.4f}{longitude[at]:+09.4f}" for at in first]
    found = np.array([texts[at] for at in number], dtype=object)
    apart = arc_km(np.linalg.norm(points - points[blocker], axis=-1))
    reasons = {
        at: f"lies {apart[at]:.2f} km from a clip of place {found[blocker[at]]}: "
        f"{settings.separation_km:g} km around a place are kept free"
        for at in np.flatnonzero(place < 0)
    }
    found[place < 0] = None
    names.iloc[order] = found
    clips = table["clip_id"].to_numpy()[order]
    return names, {str(clips[at]): reason for at, reason in reasons.items()}


def _partition(
    points: Float[np.ndarray, "n 3"], radius_km: float, separation_km: float
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Number of each point's place, -1 for none; and the point of a place that stood in the way (itself if none)."""
    component = linked(points, chord(separation_km))
    place, blocker = component.copy(), np.arange(len(points))
    following = int(component.max()) + 1
    for members in _outsized(points, component, chord(radius_km)):
        if not _fits(points[members], chord(radius_km), chord(2 * radius_km)):
            found, blocked = _cut(points[members], radius_km, separation_km)
            place[members] = np.where(found < 0, -1, found + following)
            blocker[members] = members[blocked]
            following += int(found.max()) + 1
    return place, blocker


def linked(points: Float[np.ndarray, "n 3"], reach: float) -> Int[np.ndarray, " n"]:
    """Number of the group of each point, where chords of at most `reach` join points (single linkage).

    Listing all such pairs would take memory without bound where clips are dense. So points are gathered in cubes whose
    diagonal is `reach`: those of one cube belong together, and two cubes need one short pair between them.
    """
    side = reach / np.sqrt(3)
    cells, cell = np.unique(np.floor(points / side).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    order = np.argsort(cell, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cell))[:-1])
    centres = (cells + 0.5) * side
    # Two points within reach lie in cubes whose centres are at most two diagonals apart.
    near = KDTree(centres).query_pairs(2 * reach * (1 + 1e-9), output_type="ndarray")
    heads = points[[group[0] for group in members]]
    gaps = np.linalg.norm(heads[near[:, 0]] - heads[near[:, 1]], axis=-1)
    group = components(len(cells), near[gaps <= reach])
    sizes = np.bincount(cell)
    open_ = near[(gaps > reach) & (group[near[:, 0]] != group[near[:, 1]]) & (sizes[near] > 1).any(axis=1)]
    parent = list(range(int(group.max()) + 1))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in open_[np.argsort(np.linalg.norm(centres[open_[:, 0]] - centres[open_[:, 1]], axis=-1), kind="stable")]:
        one, other = root(int(group[a])), root(int(group[b]))
        if one != other and _shortest(points[members[a]], points[members[b]]) <= reach:
            parent[one] = other
    roots = np.array([root(node) for node in range(len(parent))])
    return np.unique(roots[group], return_inverse=True)[1].reshape(-1)[cell]


def components(count: int, pairs: Int[np.ndarray, "pairs 2"]) -> Int[np.ndarray, " count"]:
    """Number of the connected component of each of `count` nodes, which `pairs` join."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _shortest(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]) -> float:
    """The shortest chord between two sets of points."""
    if len(a) * len(b) < 10_000:
        return float(cdist(a, b).min())
    few, many = sorted((a, b), key=len)
    return float(np.min(KDTree(many).query(few)[0]))


def _outsized(
    points: Float[np.ndarray, "n 3"], group: Int[np.ndarray, " n"], radius: float
) -> list[Int[np.ndarray, " members"]]:
    """Members of the groups that reach farther than the chord `radius` from their own middle."""
    count = np.bincount(group)
    middle = np.stack([np.bincount(group, weights=points[:, axis]) for axis in range(3)], axis=-1)
    middle /= np.maximum(np.linalg.norm(middle, axis=-1, keepdims=True), 1e-300)
    farthest = np.zeros(len(count))
    np.maximum.at(farthest, group, np.linalg.norm(points - middle[group], axis=-1))
    suspects = np.flatnonzero((farthest > radius) & (count > 1))
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], [suspects, suspects + 1])
    return [np.sort(order[low:high]) for low, high in bounds.T]


def _fits(points: Float[np.ndarray, "n 3"], radius: float, diameter: float) -> bool:
    """Whether a cap of the chord `radius` holds all points (to about 1 %: Bădoiu & Clarkson 2003, towards the
    farthest).
    """
    if np.linalg.norm(points - points[0], axis=-1).max() > diameter:
        return False
    centre = points.mean(axis=0)
    for step in range(1, _FIT_STEPS + 1):
        gaps = np.linalg.norm(points - centre / np.linalg.norm(centre), axis=-1)
        farthest = int(gaps.argmax())
        if gaps[farthest] <= radius:
            return True
        centre = centre + (points[farthest] - centre) / (step + 1)
    return False


def _cut(
    points: Float[np.ndarray, "n 3"], radius_km: float, separation_km: float
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Places within one group that is too wide: numbers from 0, -1 for none; and who stood in the way."""
    tree = KDTree(points)
    sample = KDTree(points[:: -(-len(points) // _SAMPLE)])  # they are sorted, so this is an even share of them
    crowd = np.asarray(sample.query_ball_point(points, chord(radius_km), return_length=True))
    place, blocker = np.full(len(points), -1), np.arange(len(points))
    free: Bool[np.ndarray, " n"] = np.ones(len(points), dtype=bool)
    number = 0
    for centre in np.lexsort((np.arange(len(points)), -crowd)):
        if not free[centre]:
            continue
        around = np.sort(np.asarray(tree.query_ball_point(points[centre], chord(radius_km + separation_km)), dtype=int))
        around = around[free[around]]
        inside = np.linalg.norm(points[around] - points[centre], axis=-1) <= chord(radius_km)
        inside |= around == centre
        mine, others = around[inside], around[~inside]
        place[mine], free[mine] = number, False
        number += 1
        if len(others):
            gaps, nearest = KDTree(points[mine]).query(points[others])
            moat = gaps < chord(separation_km)
            free[others[moat]] = False
            blocker[others[moat]] = mine[np.asarray(nearest)[moat]]
    return place, blocker
