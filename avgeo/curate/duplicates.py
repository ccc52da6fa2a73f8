"""Copies among all items of a corpus: found without comparing each with each, grouped, and one of each group kept.

Three indices propose pairs: perceptual hashes within some bits (multi-index hashing), picture features whose words are
equal and whose places agree on how one picture lies in the other, and words of sound that agree on an offset.
`avgeo.curate.likeness` tests each proposal. A copied picture is enough to be a duplicate, and so is a copied sound:
either is a leak between splits. Two clips of one camera at different hours, or of one siren, are neither: the one
differs in what moves, the other in all sounds around it.

An item is a dict with `id`, `sha256`, `pictures` (of `picture_hashes`), `sound` (of `sound_fingerprint`), `width`,
`height` (pixels), `duration_s` and `original` (an identifier that copies of one recording share), the last four
possibly None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from avgeo.curate.candidate import CurateError
from avgeo.curate.fingerprint import SIDE_PX, WORD_BITS, Picture, Sound, as_numbers, mirror_mask, spellings
from avgeo.curate.likeness import SLACK_FRAMES, Placement, agreement, sound_difference
from avgeo.curate.places import components
from avgeo.profiles import CurateSettings

KINDS = ("bytes", "original", "picture", "sound")
_CHUNKS, _CHUNK_BITS = 4, 16
_NEIGHBOURS = 12  # of a word that are compared with it: a word that thousands share tells nothing, and costs no more
_NEAR, _EXAMINED = 48, 1000  # hashes near one that are taken, and those with a part in common that are tried
_PARTNERS = 8  # of an item that are tested, per index
_LEAST_VOTES = 0.7  # of features, each weighed by its rarity
_APART_PX = 12.0  # from which the distance between two features tells the scale
_SOUND_BITS, _SOUND_TABLES = 22, (0, 5, 10)  # of 32, and the lowest of each table's
_UNHEARD = 0.1  # more must agree of two items' pictures when each has a sound that could tell, and does not
_GUESSES = 2  # of a pair that are tested, per index


class Pair(NamedTuple):
    """Two items, `first` < `second` by id, of which one is a copy of the other, and how it is known."""

    first: str
    second: str
    kind: str
    evidence: str


def find_duplicates(items: Sequence[Mapping[str, Any]], settings: CurateSettings | None = None) -> list[Pair]:
    """All pairs of duplicates that the indices propose and the tests confirm, in order of their ids.

    A pair is named once, by its strongest evidence in the order of `KINDS`. The result does not depend on the order of
    `items`. Raises `CurateError` for two items of one id.
    """
    settings = settings or CurateSettings()
    ordered = sorted(items, key=lambda item: item["id"])
    for one, two in pairwise(ordered):
        if one["id"] == two["id"]:
            raise CurateError(f"items: two are called {one['id']}; give each an id of its own")
    found: dict[tuple[int, int], tuple[str, str]] = {}
    for a, b in _sharing(ordered, "sha256"):
        found[a, b] = "bytes", "same bytes"
    same_bytes = {b for _, b in found}
    for a, b in _sharing(ordered, "original"):
        found.setdefault((a, b), ("original", f"same original {ordered[a]['original']}"))
    # What is the same bytes is found by the first of them.
    distinct = [{} if number in same_bytes else item for number, item in enumerate(ordered)]
    for kind, search in (("picture", _by_picture), ("sound", _by_sound)):
        for pair, evidence in search(distinct, settings).items():
            found.setdefault(pair, (kind, evidence))
    return [Pair(ordered[a]["id"], ordered[b]["id"], *found[a, b]) for a, b in sorted(found)]


def duplicate_pairs(
    items: Sequence[Mapping[str, Any]], settings: CurateSettings | None = None
) -> list[tuple[str, str, str]]:
    """Pairs of duplicates as (id, id, kind), for an audit of splits."""
    return [pair[:3] for pair in find_duplicates(items, settings)]


def groups(pairs: Iterable[Pair]) -> list[list[str]]:
    """Ids joined by any chain of pairs, each group sorted, in order of their first ids."""
    pairs = list(pairs)
    ids = sorted({name for pair in pairs for name in pair[:2]})
    number = {name: at for at, name in enumerate(ids)}
    ends = np.array([(number[pair.first], number[pair.second]) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    together: dict[int, list[str]] = defaultdict(list)
    for name, at in zip(ids, components(len(ids), ends) if ids else [], strict=True):
        together[int(at)].append(name)
    return list(together.values())


def choose(items: Sequence[Mapping[str, Any]], pairs: Iterable[Pair]) -> dict[str, str]:
    """Why each duplicate is left out: id to reason. One of each group is kept, and stands in no reason of its own.

    Kept is the item with the largest picture, then the longest, then that of the smallest sha256, then the first by id.
    The reason names the kept item when the two were compared, else the group's item that led there.
    """
    known = {item["id"]: item for item in items}
    pairs = sorted(pairs, key=lambda pair: (KINDS.index(pair.kind), pair))
    linked: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        linked[pair.first].append(pair)
        linked[pair.second].append(pair)
    reasons = {}
    for group in groups(pairs):
        kept = min(group, key=lambda name: _preference(known[name]))
        for name in group:
            if name != kept:
                direct = [pair for pair in linked[name] if kept in pair[:2]]
                pair = (direct or linked[name])[0]
                other = pair.second if pair.first == name else pair.first
                chain = "" if direct else f" (and through it of {kept})"
                told = f": {pair.evidence}" if pair.kind in ("picture", "sound") else ""
                what = {"bytes": "same bytes as", "original": "same original as"}.get(pair.kind, "near-duplicate of")
                reasons[name] = f"{what} {other}{told}{chain}"
    return dict(sorted(reasons.items()))


def _preference(item: Mapping[str, Any]) -> tuple[float, float, str, str]:
    pixels = (item.get("width") or 0) * (item.get("height") or 0)
    return -pixels, -(item.get("duration_s") or 0.0), item["sha256"], item["id"]


def _sharing(items: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, int]]:
    """Among the items with one value of `name`: the first with each other, so a thousand copies make 999 pairs."""
    having: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        if item.get(name):
            having[item[name]].append(number)
    return [(numbers[0], number) for numbers in having.values() for number in numbers[1:]]


def _most_likely(weight: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """The pairs that are among the `_PARTNERS` likeliest of either item."""
    pairs = sorted(weight)
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return [pairs[at] for at in _likeliest(a, b, np.array([weight[pair] for pair in pairs], dtype=np.float64))]


def _likeliest(
    a: Int[np.ndarray, " pairs"], b: Int[np.ndarray, " pairs"], weight: Float[np.ndarray, " pairs"]
) -> Int[np.ndarray, " chosen"]:
    """Numbers of the pairs (a, b) that are among the `_PARTNERS` heaviest of a or of b."""
    chosen = np.zeros(len(a), dtype=bool)
    for side, other in ((a, b), (b, a)):
        order = np.lexsort((other, -weight, side))
        ranked = side[order]
        rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        chosen[order[rank < _PARTNERS]] = True
    return np.flatnonzero(chosen)


def _same_words(
    words: UInt64[np.ndarray, " entries"], owner: Int[np.ndarray, " entries"]
) -> tuple[Int[np.ndarray, " hits"], Int[np.ndarray, " hits"]]:
    """Entries i, j of one word and different owners, owner of i first; of a word that many share, neighbours only."""
    order = np.lexsort((np.arange(len(words)), owner, words))
    words, owner = words[order], owner[order]
    one, two = [], []
    for lag in range(1, _NEIGHBOURS + 1):
        hit = np.flatnonzero((words[lag:] == words[:-lag]) & (owner[lag:] != owner[:-lag]))
        one.append(order[hit])
        two.append(order[hit + lag])
    return np.concatenate(one), np.concatenate(two)


# --- pictures ---


class _Guess(NamedTuple):
    """Picture `a` of one item may lie in picture `b` (or in its mirror image) of another like this."""

    a: int
    b: int
    mirrored: bool
    placement: Placement | None  # None: the whole of one is the whole of the other


_Guesses = dict[tuple[int, int], list[_Guess]]


def _by_picture(items: Sequence[Mapping[str, Any]], settings: CurateSettings) -> dict[tuple[int, int], str]:
    """Pairs of items, by number, of which one's picture is a copy of the other's, and the evidence."""
    each = [[Picture.of(text) for text in item.get("pictures") or ()] for item in items]
    owner = np.repeat(np.arange(len(each)), [len(pictures) for pictures in each])
    pictures = [picture for group in each for picture in group]
    if not pictures:
        return {}
    wholes, parts = _as_wholes(pictures, owner, settings.duplicate_picture_bits), _by_parts(pictures, owner)
    found = {}
    for pair in sorted({*wholes, *parts}):
        least = settings.duplicate_picture_share + _UNHEARD * all(items[number].get("sound") for number in pair)
        for guess in wholes.get(pair, []) + parts.get(pair, []):
            evidence = _test(each[pair[0]], each[pair[1]], guess, pictures, least)
            if evidence is not None:
                found[pair] = evidence
                break
    return found


def _test(
    first: list[Picture], second: list[Picture], guess: _Guess, pictures: list[Picture], least: float
) -> str | None:
    """The evidence that half of the frames of the item with fewer are copies, or None."""
    flip = slice(None, None, -1 if guess.mirrored else 1)
    one, two = pictures[guess.a].pixels(), pictures[guess.b].pixels()[:, flip]
    share, placement = agreement(one, two, guess.placement or Placement.whole(one, two), least)
    if share < least:
        return None
    covered = placement.x_scale * placement.y_scale * one.size / two.size
    ours = [picture.pixels() for picture in first]
    theirs = [picture.pixels()[:, flip] for picture in second]
    if len(ours) > len(theirs):
        ours, theirs, placement = theirs, ours, placement.inverse()
    alike = 0
    for number, one in enumerate(ours):  # most copies keep their time: the frame as far along comes first
        along = sorted(range(len(theirs)), key=lambda at: (abs(at - number * len(theirs) / len(ours)), at))
        alike += any(agreement(one, theirs[at], placement, least)[0] >= least for at in along)
    if 2 * alike < len(ours):
        return None
    how = " mirrored," if guess.mirrored else ""
    shown = 100 * min(covered, 1 / covered)
    how += f" cropped to {shown:.0f} %," if shown < 92 else ""
    return f"picture ({alike} of {len(ours)} frames,{how} {100 * share:.0f} % of their parts agree)"


def within(
    first: UInt64[np.ndarray, " n"],
    second: UInt64[np.ndarray, " m"],
    bits: int,
    owner: Int[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """All i, j for which first[i] and second[j] differ in at most `bits` bits of 64, and in how many; sorted.

    With `owner`, ascending and the same for both, only those of which i's owner comes before j's; and of a crowd that
    is alike, as a webcam's pictures are, neighbours only, as in `_same_words`: a chain still joins them.

    Multi-index hashing (Norouzi, Punjani & Fleet 2012, proposition 1): of `_CHUNKS` parts of two such words one differs
    in at most bits // `_CHUNKS` bits, so only words within that of a part need be compared.
    """
    mask = np.uint64(2**_CHUNK_BITS - 1)
    flips = [
        sum(1 << at for at in some) for k in range(bits // _CHUNKS + 1) for some in combinations(range(_CHUNK_BITS), k)
    ]
    begins = np.searchsorted(owner, owner, side="right") if owner is not None else np.zeros(len(first), dtype=np.int64)
    most, examined = (_NEAR, _EXAMINED) if owner is not None else (len(second), len(second))
    hits = [np.zeros(0, dtype=np.int64)]
    for chunk in range(_CHUNKS):
        one, two = (((part >> np.uint64(chunk * _CHUNK_BITS)) & mask).astype(np.int64) for part in (first, second))
        keys = np.sort(two * len(second) + np.arange(len(second)))  # by part, then in order
        for flip in flips:
            wanted = (one ^ flip) * len(second)
            at = np.searchsorted(keys, wanted + begins)
            end = np.minimum(at + examined, np.searchsorted(keys, wanted + len(second)))
            found, i = np.zeros(len(first), dtype=np.int64), np.flatnonzero(at < end)
            while len(i):
                j = keys[at[i]] % len(second)
                near = np.bitwise_count(first[i] ^ second[j]) <= bits
                hits.append((i * len(second) + j)[near])
                found[i[near]] += 1
                at[i] += 1
                i = i[(at[i] < end[i]) & (found[i] < most)]
    i, j = np.divmod(np.unique(np.concatenate(hits)), max(1, len(second)))
    return i, j, np.bitwise_count(first[i] ^ second[j]).astype(np.int64)


def _as_wholes(pictures: list[Picture], owner: Int[np.ndarray, " pictures"], bits: int) -> _Guesses:
    """Pictures whose hashes, or mirror image's hashes, are near each other."""
    whole = as_numbers([picture.whole for picture in pictures])
    mirrored = as_numbers([picture.mirrored for picture in pictures])
    order = np.lexsort((whole, owner))  # a still camera gives one hash again and again: once will do
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(owner[order]) != 0) | (np.diff(whole[order]) != 0)
    once = order[fresh]
    near: dict[tuple[int, int], list[tuple[int, int, int, bool]]] = defaultdict(list)
    for flip, other in ((False, whole), (True, mirrored)):
        i, j, differ = within(whole[once], other[once], bits, owner[once])
        for at in _likeliest(i, j, -differ.astype(np.float64)):
            a, b = int(once[i[at]]), int(once[j[at]])
            near[int(owner[a]), int(owner[b])].append((int(differ[at]), a, b, flip))
    chosen = _most_likely({pair: -min(several)[0] for pair, several in near.items()})
    return {pair: [_Guess(*guess[1:], None) for guess in sorted(near[pair])[:_GUESSES]] for pair in chosen}


def _by_parts(pictures: list[Picture], owner: Int[np.ndarray, " pictures"]) -> _Guesses:
    """Pictures of which two or more features agree on how one lies in the other.

    As Lowe 2004, section 7.3: each pair of features votes in bins of scale and shift, wide enough that a wrong scale of
    one feature does no harm. A word that n other items have counts 1/n: what all share (a kind of tree, a road sign)
    does not make two of them alike.
    """
    number = np.repeat(np.arange(len(pictures)), [len(picture.words) for picture in pictures])
    words, doubtful = spellings(np.concatenate([picture.words for picture in pictures]))
    x, y, scale = (
        np.concatenate([getattr(picture, name) for picture in pictures]).astype(np.float64)
        for name in ("x_px", "y_px", "scale_px")
    )
    mine = owner[number]
    _, once = np.unique(((mine * 2**WORD_BITS + words) * 64 + x.astype(int) // 4) * 64 + y.astype(int) // 4, True)
    rarity = _rarity(words, mine)
    # Each feature as it is and as in a mirror, each with its least certain bit as it is and changed.
    entry = np.tile(once, 4)
    seen_turned = np.repeat([0, 1], 2 * len(once))
    spelt = np.concatenate([words[once], doubtful[once]])
    one, two = _same_words(np.concatenate([spelt, spelt ^ mirror_mask()]).astype(np.uint64), mine[entry])
    turned = seen_turned[one] + seen_turned[two]
    hits = (entry[one] * len(words) + entry[two]) * 2 + turned
    hits = np.unique(hits[turned < 2])  # of one pair of features, once
    both, flip = np.divmod(hits, 2)
    a, b = np.divmod(both, len(words))
    width = np.array([picture.width for picture in pictures])
    x_b = np.where(flip > 0, width[number[b]] - 1 - x[b], x[b])
    ratio = scale[b] / scale[a]
    middle = ratio * (SIDE_PX / 2 - np.stack([x[a], y[a]])) + np.stack([x_b, y[b]])
    pair = mine[a] * (len(pictures) + 1) + mine[b]
    cells: dict[tuple[int, int], list[tuple[float, int, int, Any]]] = defaultdict(list)
    for shift in (0.0, 0.5):
        bins = np.floor(np.stack([np.log2(ratio) / 0.8, *(middle / 24)]) + shift).astype(np.int64) + 32
        keys = (((pair * 64 + bins[0]) * 64 + bins[1]) * 64 + bins[2]) * 2 + flip
        _, cell, size = np.unique(keys, return_inverse=True, return_counts=True)
        votes = np.bincount(cell, rarity[a], minlength=len(size))
        order = np.argsort(cell, kind="stable")
        stops = np.cumsum(size)
        for at in np.flatnonzero((size > 1) & (votes > _LEAST_VOTES)):
            members = order[stops[at] - size[at] : stops[at]]
            key = int(mine[a[members[0]]]), int(mine[b[members[0]]])
            cells[key].append((-float(votes[at]), int(shift * 2), int(at), members))
    guesses = {}
    for key in _most_likely({key: -min(several)[0] for key, several in cells.items()}):
        guesses[key] = []
        for _, _, _, at in sorted(cells[key], key=lambda cell: cell[:3])[:_GUESSES]:
            seen, often = np.unique(number[a[at]] * len(pictures) + number[b[at]], return_counts=True)
            first, second = divmod(int(seen[np.argmax(often)]), len(pictures))
            placement = _placement(x[a[at]], y[a[at]], x_b[at], y[b[at]], float(np.median(ratio[at])))
            guesses[key].append(_Guess(first, second, bool(flip[at[0]]), placement))
    return guesses


def _rarity(words: Int[np.ndarray, " entries"], owner: Int[np.ndarray, " entries"]) -> Float[np.ndarray, " entries"]:
    """One over the number of other owners that have an entry's word."""
    having = np.unique(words * (owner.max() + 1) + owner) // (owner.max() + 1)
    distinct, owners = np.unique(having, return_counts=True)
    return 1 / np.maximum(1, owners[np.searchsorted(distinct, words)] - 1)


def _placement(
    x_a: Float[np.ndarray, " n"],
    y_a: Float[np.ndarray, " n"],
    x_b: Float[np.ndarray, " n"],
    y_b: Float[np.ndarray, " n"],
    scale: float,
) -> Placement:
    """How features lie, by medians over their pairs (Theil & Sen), else by `scale`, the ratio of their own scales."""
    i, j = np.triu_indices(len(x_a), 1)
    run = np.concatenate([x_a[j] - x_a[i], y_a[j] - y_a[i]])
    rise = np.concatenate([x_b[j] - x_b[i], y_b[j] - y_b[i]])
    far = np.abs(run) > _APART_PX
    if far.any():
        slope = float(np.median(rise[far] / run[far]))
        scale = slope if 0.5 < slope / scale < 2 else scale
    return Placement(scale, float(np.median(x_b - scale * x_a)), scale, float(np.median(y_b - scale * y_a)))


# --- sound ---


def _by_sound(items: Sequence[Mapping[str, Any]], settings: CurateSettings) -> dict[tuple[int, int], str]:
    """Pairs of items, by number, with a copied sound, and the evidence."""
    sounds = {number: Sound.of(item["sound"]) for number, item in enumerate(items) if item.get("sound")}
    if not sounds:
        return {}
    owner = np.concatenate([np.full(len(sound.anchors), number) for number, sound in sounds.items()])
    frame = np.concatenate([sound.anchors for sound in sounds.values()])
    words = np.concatenate([sound.bits[sound.anchors] for sound in sounds.values()]).astype(np.uint64)
    tables = [(words >> np.uint64(low)) & np.uint64(2**_SOUND_BITS - 1) for low in _SOUND_TABLES]
    hits = [_same_words(table, owner) for table in tables]
    one, two = (np.concatenate(part) for part in zip(*hits, strict=True))
    # Votes for the offset at which the one's frames are the other's, in bins as wide as the search that follows.
    width = 2 * SLACK_FRAMES
    offset = np.floor_divide(frame[two] - frame[one], width)
    span = int(np.abs(offset).max(initial=0)) + 1
    packed, votes = np.unique((owner[one] * len(items) + owner[two]) * (2 * span) + offset + span, return_counts=True)
    both, offset = packed // (2 * span), (packed % (2 * span) - span) * width + SLACK_FRAMES
    best = np.lexsort((offset, -votes, both))
    nth = np.arange(len(best)) - np.searchsorted(both[best], both[best])
    first = best[nth == 0]
    likely = np.zeros(len(first), dtype=bool)
    likely[_likeliest(both[first] // len(items), both[first] % len(items), votes[first].astype(np.float64))] = True
    tested = best[(nth < _GUESSES) & np.repeat(likely, np.diff([*np.flatnonzero(nth == 0), len(best)]))]
    found: dict[tuple[int, int], str] = {}
    for pair, at in zip(
        (divmod(key, len(items)) for key in both[tested].tolist()), offset[tested].tolist(), strict=True
    ):
        differ, compared, _ = sound_difference(sounds[pair[0]], sounds[pair[1]], at)
        if differ <= settings.duplicate_sound_share:
            found.setdefault(pair, f"sound ({100 * differ:.1f} % of {compared} bits differ)")
    return found
