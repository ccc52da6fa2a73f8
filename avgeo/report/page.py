"""One clip's answer as one HTML file: no network, readable by eye, by screen reader, on paper and without script.

Every text that comes from a file or a model is escaped (markup, and characters that cannot be seen) and stands in the
markup only: the one script is always the same, holds no data, and is the only one that the content security policy
allows, by its hash. So a hostile file name or tag stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from avgeo import plots
from avgeo.report.chart import map_svg
from avgeo.report.parts import escape, fact_list, numeral, percent, picture, section, span, table
from avgeo.report.sound import MAX_SOUND_S, player, seek, time_line

if TYPE_CHECKING:
    from avgeo.locate import Posterior

SOUND_HZ = 16_000
ATOM_ROWS = 20
PLACE_ROWS = 10
FRAMES, FRAME_PX = 6, 240

_STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'"
)

_SIZES = (
    (2_000, "a large city"), (60_000, "the Netherlands"), (800_000, "France"), (5_000_000, "India"),
    (14_000_000, "Europe"), (32_000_000, "Africa"), (90_000_000, "Asia"), (220_000_000, "all land on Earth"),
)  # fmt: skip
"""What an area up to so many km² is about the size of."""


class ReportError(ValueError):
    """A result that cannot be reported; the message names the field and the cure."""


def html_report(
    located: Mapping[str, Any],
    *,
    frames: UInt8[np.ndarray, "frames height width 3"] | None = None,
    audio: Float[np.ndarray, " samples"] | None = None,
    sample_rate_hz: int | None = None,
    density: tuple[np.ndarray, ...] | None = None,
    frame_times_s: Sequence[float] | None = None,
) -> str:
    """The report of one located clip, a self-contained HTML page.

    `located` is what `avgeo locate --json` writes (see DESIGN.md). `density` is (latitude_deg, longitude_deg,
    log_prob) as in `avgeo.plots.density_map`, and its `area` where areas differ; without it there is no map. A silent
    video has no `audio`, a recording no `frames`. `audio` is mono in [-1, 1] at `sample_rate_hz`. Raises `ReportError`.
    """
    missing = [name for name in ("estimate", "input") if not isinstance(located.get(name), Mapping)]
    if missing:
        raise ReportError(f"located has no object {missing[0]!r}: pass the result of avgeo.locate")
    if audio is not None and sample_rate_hz is None:
        raise ReportError("audio needs sample_rate_hz: pass the rate it was read at")
    try:
        point = (float(located["estimate"]["latitude_deg"]), float(located["estimate"]["longitude_deg"]))
    except (KeyError, TypeError, ValueError):
        raise ReportError("located['estimate'] needs latitude_deg and longitude_deg in degrees") from None
    name = str(located["input"].get("name") or "clip")
    by_model = located.get("prior") in (None, "the model's")  # and not by detectors, which hear no atoms
    parts = [
        _warning(located),
        _map(located, point, density),
        _places(located.get("countries") or [], "Most probable countries"),
        _places(located.get("places") or [], "Most probable places"),
        _sound(
            located.get("atoms") or [],
            located.get("evidence") or [],
            audio,
            sample_rate_hz,
            by_model,
        ),
        _sight(frames, frame_times_s),
        _evidence(located.get("evidence") or [], by_model),
        _not_listened(located.get("not_listened")),
        _metadata(located.get("metadata_location"), point),
        _certainty(located),
        _provenance(located),
        _licences(located.get("licences")),
        _USE,
    ]
    places = located.get("places") or []
    guess = f"{percent(places[0].get('probability'))} {_place(places[0])}" if places else ""
    kind = located["estimate"].get("kind")
    lead = " · ".join(escape(part) for part in (guess, f"point estimate: {kind}" if kind else "") if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="avgeo">
<title>Where was {escape(name)} recorded?</title>
<style>
{_STYLE}</style>
</head>
<body>
<a class="skip" href="#answer">Skip to the answer</a>
<header>
<p class="kicker">Where on Earth was <strong>{escape(name)}</strong> recorded?</p>
<h1 id="answer">{escape(plots.place_text(*point))}</h1>
<p class="kicker">{lead}</p>
<p>{escape(in_words(located))}</p>
</header>
<main>
{"".join(part for part in parts if part)}</main>
<footer><p>Made by avgeo. A place is an estimate with a stated uncertainty, never a proof.</p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def write_report(path: str | Path, found: Posterior, *, max_s: float = MAX_SOUND_S, name: str | None = None) -> str:
    """The report of `found`, what `avgeo.locate` returned for the clip at `path`, with its sound and picture.

    Only what the answer rests on is shown: no sound when it was located by sight alone. `name` is shown in place of
    the file's own.
    """
    from avgeo.clips import probe, read_audio, read_frames

    info = probe(path)
    audio = read_audio(path, SOUND_HZ, max_s) if found.has_sound else None
    frames = None
    if found.has_sight and info.width and info.height:
        frames = read_frames(path, FRAMES, FRAME_PX, max(1, round(FRAME_PX * info.height / info.width)))
    times = [(at + 0.5) * info.duration_s / FRAMES for at in range(FRAMES)]
    located = found.as_dict()
    if name is not None:
        located = located | {"input": dict(located["input"]) | {"name": name}}
    return html_report(
        located,
        frames=frames,
        audio=audio,
        sample_rate_hz=SOUND_HZ,
        density=found.grid(),
        frame_times_s=times if frames is not None and info.duration_s > 0 else None,
    )


def in_words(located: Mapping[str, Any]) -> str:
    """How sure the answer is, in words, from the area of the smallest region that holds at least half."""
    regions = [region for region in located.get("regions") or [] if float(region["mass"]) >= 0.5]
    if not regions:
        return ""
    region = min(regions, key=lambda one: float(one["mass"]))
    mass, area_km2 = float(region["mass"]), float(region["area_km2"])
    like = next((name for most, name in _SIZES if area_km2 <= most), "most of the Earth, its seas included")
    sure = "Fairly sure" if area_km2 <= 60_000 else "Roughly known" if area_km2 <= 800_000 else "Not sure"
    part = "half" if mass == 0.5 else f"{100 * mass:.0f} %"
    return f"{sure}: {part} of the probability lies in an area about the size of {like} ({area_km2:,.0f} km²)."


def _place(place: Mapping[str, Any]) -> str:
    code = place.get("country_code")
    return str(place.get("name") or "unnamed place") + (f" ({code})" if code else "")


def simulated(located: Mapping[str, Any]) -> bool:
    """Whether the model says that it was trained on AVG-Sim, the simulated Earth."""
    text = json.dumps(located.get("model"), default=str).lower()
    return "avg-sim" in text or "avgsim" in text or "simulat" in text


def _warning(located: Mapping[str, Any]) -> str:
    if not simulated(located):
        return ""
    return (
        '<section class="warning" role="note"><p><strong>'
        "This model was trained on a simulated Earth (AVG-Sim): what follows is not evidence about the real "
        "place.</strong> It shows how the method works. Do not act on it.</p></section>\n"
    )


def _map(located: Mapping[str, Any], point: tuple[float, float], density: tuple[np.ndarray, ...] | None) -> str:
    if density is None:
        return ""
    truth = _degrees(located.get("metadata_location"))
    regions = located.get("regions") or []
    known: dict[str, Any] = {}
    if 0 < len(regions) <= 3:  # the map states the areas that the answer states
        known = {
            name: [float(region[key]) for region in regions]
            for name, key in (("masses", "mass"), ("areas_km2", "area_km2"))
        }
    *grid, area = density if len(density) == 4 else (*density, None)
    drawn = plots.density_map(*grid, area=area, truth=truth, estimate=point, truth_label="metadata says", **known)
    marks = [("estimate", *point, f"estimate, {plots.place_text(*point)}")]
    if truth is not None:
        marks.append(("metadata", *truth, f"metadata says {plots.place_text(*truth)}"))
    masses = [float(region["mass"]) for region in regions] or [0.5, 0.9]
    said = "Darker: more probable. Blue: the estimate." + (" Green: what the metadata says." if truth else "")
    said += " Drag or use the arrow keys to move; + and - or the wheel (once the map is clicked) to zoom."
    zoom = (
        '<div id="zoom" role="group" aria-label="Zoom the map" hidden>'
        '<button type="button" data-zoom="2" aria-label="Zoom in">+</button>'
        '<button type="button" data-zoom="0.5" aria-label="Zoom out">−</button>'
        '<button type="button" data-zoom="0">Whole Earth</button></div>'
    )
    live = f"<figure>{map_svg(density, marks, masses, drawn[1])}{zoom}<figcaption>{escape(said)}</figcaption></figure>"
    still = picture(drawn, "How probable each part of the Earth is, given what is heard and seen.")
    return section("Map", live + f"<details><summary>The map as a picture</summary>{still}</details>")


def _places(places: Sequence[Mapping[str, Any]], title: str) -> str:
    if not places:
        return ""
    left = len(places) - PLACE_ROWS
    note = f'<p class="note">{left} less probable ones are in the JSON output.</p>' if left > 0 else ""
    places = places[:PLACE_ROWS]
    shares = [float(place.get("probability") or 0) for place in places]
    top = max(shares) or 1
    rows = [
        [
            escape(_place(place)),
            escape(percent(place.get("probability"))),
            f'<span class="bar" style="width:{100 * share / top:.1f}%"></span>',
        ]
        for place, share in zip(places, shares, strict=True)
    ]
    heads = [("name", ""), ("probability", "n"), ("share of the first", "track")]
    return section(title, table(heads, rows, title) + note)


def _sound(
    atoms: Sequence[Mapping[str, Any]],
    evidence: Sequence[Mapping[str, Any]],
    audio: np.ndarray | None,
    rate: int | None,
    by_model: bool,
) -> str:
    body = ""
    if audio is not None and rate is not None and len(audio) >= 16:
        body += time_line(audio[: int(MAX_SOUND_S * rate)], rate, evidence) + player(audio, rate)
    if atoms:
        rows = [
            [
                escape(str(atom.get("name"))),
                span(atom),
                numeral(atom.get("strength"), 2),
            ]
            for atom in sorted(atoms, key=lambda atom: -float(atom.get("strength") or 0))[:ATOM_ROWS]
        ]
        body += table([("atom", ""), ("when", "n"), ("strength", "n")], rows, "Acoustic atoms heard")
        if len(atoms) > ATOM_ROWS:
            body += f'<p class="note">The strongest {ATOM_ROWS} of {len(atoms)}; the JSON output lists them all.</p>'
    elif audio is not None:
        body += '<p class="note">No acoustic atom was heard.</p>' if by_model else ""
    else:
        body = '<p class="note">No sound was used: the answer rests on sight alone.</p>'
    return section("What was heard", body)


def _sight(frames: np.ndarray | None, times_s: Sequence[float] | None) -> str:
    if frames is None or not len(frames):
        return section("What was seen", '<p class="note">No picture was used: the answer rests on sound alone.</p>')
    return section("What was seen", picture(plots.contact_sheet(frames, times_s)))


def _evidence(evidence: Sequence[Mapping[str, Any]], by_model: bool) -> str:
    if not evidence:
        return ""
    rows = [
        [
            escape(str(item.get("label"))),
            escape(str(item.get("detector"))),
            span(item)
            if span(item) == "–"
            else f'<button type="button" disabled {seek(number, item)}>{span(item)}</button>',
            numeral(item.get("bits"), 2),
            numeral(item.get("shift_km"), 0),
        ]
        for number, item in enumerate(evidence)
    ]
    heads = [("cue", ""), ("detector", ""), ("when", "n"), ("bits", "n"), ("shift (km)", "n")]
    said = "Bits: what the place loses without the cue. Shift: how far it moves."
    if by_model:
        said += " Both by the flow as it was trained, before recalibration, the reasoner’s words held fixed."
    note = f'<p class="note">{said}</p>'
    return section("Evidence", table(heads, rows, "Evidence") + note)


def _listed(title: str, given: Any) -> str:
    """What is a mapping, or a list of mappings or texts, as a list of facts; nothing where there is nothing."""
    if not given:
        return ""
    if isinstance(given, Mapping):
        return section(title, fact_list([(str(key), _plain(value)) for key, value in given.items()]))
    rows = [", ".join(f"{k} {_plain(v)}" for k, v in x.items()) if isinstance(x, Mapping) else _plain(x) for x in given]
    return section(title, "<ul>" + "".join(f"<li>{escape(row)}</li>" for row in rows) + "</ul>")


def _not_listened(given: Any) -> str:
    return _listed("Not listened or looked for", given)


def _licences(given: Any) -> str:
    return _listed("Licences", given)


_USE = (
    '<section aria-labelledby="use"><h2 id="use">Before you use this</h2><p>An estimate is a lead to check, never a '
    "proof. Do not use it to find, follow or expose a private person, and do not publish the place of a home, a "
    "shelter or a threatened species. Check it by other means before anyone acts on it.</p></section>\n"
)


def _degrees(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, Mapping) or place.get("latitude_deg") is None or place.get("longitude_deg") is None:
        return None
    return float(place["latitude_deg"]), float(place["longitude_deg"])


def _metadata(location: Any, point: tuple[float, float]) -> str:
    place = _degrees(location)
    if place is None:
        return section("Metadata", '<p class="note">The file carries no location of its own.</p>')
    import torch

    from avgeo.sphere import distance_km, from_degrees

    a, b = (from_degrees(*torch.tensor(item, dtype=torch.float64)) for item in (place, point))
    facts = [("Metadata says", plots.place_text(*place))]
    facts += [("Kind", str(location["kind"]))] if location.get("kind") else []
    facts += [("From the estimate", f"{numeral(float(distance_km(a, b)), 0)} km")]
    note = '<p class="note">Read from the file for comparison only: the estimate does not use it.</p>'
    return section("Metadata", fact_list(facts) + note)


def _certainty(located: Mapping[str, Any]) -> str:
    facts = [
        (f"{100 * float(region['mass']):.0f} % region", f"{numeral(region.get('area_km2'), 0)} km²")
        for region in located.get("regions") or []
    ]
    if located.get("entropy_bits") is not None:
        facts.append(("Entropy", f"{numeral(located['entropy_bits'], 2)} bits against uniform"))
    if fitted := located.get("recalibration"):
        how = f"temperature {numeral(fitted.get('temperature'), 2)}, uniform share {numeral(fitted.get('floor'), 3)}"
        facts.append(("Recalibrated", f"{how} (fitted on places that were not trained on, for {fitted.get('shown')})"))
    note = "0 bits is anywhere on Earth; each bit less halves the area in which the clip may have been recorded."
    return section("How sure", fact_list(facts) + f'<p class="note">{note}</p>') if facts else ""


def _provenance(located: Mapping[str, Any]) -> str:
    model = located.get("model")
    if isinstance(model, Mapping):
        facts = [(f"Model {key}".replace("_", " "), _plain(value)) for key, value in model.items()]
    else:
        facts = [("Model", _plain(model) if model else "not stated")]
    facts += [("Input file", str(located["input"].get("name") or "not stated"))]
    facts += [("Input SHA-256", str(located["input"].get("sha256") or "not stated"))]
    versions = located.get("versions") or {}
    facts += [("Versions", ", ".join(f"{k} {v}" for k, v in versions.items()))] if versions else []
    return section("How this was made", fact_list(facts))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
