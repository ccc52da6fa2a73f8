"""One clip's answer as one HTML file: no network, no script, readable by eye, by screen reader and on paper.

Every text that comes from a file or a model is escaped (markup, and characters that cannot be seen), and a content
security policy forbids scripts and requests, so that a hostile file name or tag stays text.
"""

from __future__ import annotations

import base64
import html
import io
import json
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from avgeo import plots
from avgeo.untrusted import shown

if TYPE_CHECKING:
    from avgeo.locate import Posterior

MAX_SOUND_S = 30.0
"""The player carries at most so much of the clip's sound."""

SOUND_HZ = 16_000
ATOM_ROWS = 20
FRAMES, FRAME_PX = 6, 240

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

_STYLE = Path(__file__).with_name("report.css")


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
    parts = [
        _warning(located),
        _map(located, point, density),
        _places(located.get("places") or []),
        _sound(located.get("atoms") or [], audio, sample_rate_hz),
        _sight(frames, frame_times_s),
        _evidence(located.get("evidence") or []),
        _metadata(located.get("metadata_location"), point),
        _certainty(located),
        _provenance(located),
    ]
    places = located.get("places") or []
    guess = f"{_probability(places[0].get('probability'))} {_place(places[0])}" if places else ""
    kind = located["estimate"].get("kind")
    lead = " · ".join(escape(part) for part in (guess, f"point estimate: {kind}" if kind else "") if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="avgeo">
<title>Where was {escape(name)} recorded?</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#answer">Skip to the answer</a>
<header>
<p class="kicker">Where on Earth was <strong>{escape(name)}</strong> recorded?</p>
<h1 id="answer">{escape(plots.place_text(*point))}</h1>
<p class="kicker">{lead}</p>
</header>
<main>
{"".join(part for part in parts if part)}</main>
<footer><p>Made by avgeo. A place is an estimate with a stated uncertainty, never a proof.</p></footer>
</body>
</html>
"""


def write_report(path: str | Path, found: Posterior, *, max_s: float = MAX_SOUND_S) -> str:
    """The report of `found`, what `avgeo.locate` returned for the clip at `path`, with its sound and picture.

    Only what the answer rests on is shown: no sound when it was located by sight alone.
    """
    from avgeo.clips import probe, read_audio, read_frames

    info = probe(path)
    audio = read_audio(path, SOUND_HZ, max_s) if found.has_sound else None
    frames = None
    if found.has_sight and info.width and info.height:
        frames = read_frames(path, FRAMES, FRAME_PX, max(1, round(FRAME_PX * info.height / info.width)))
    times = [(at + 0.5) * info.duration_s / FRAMES for at in range(FRAMES)]
    return html_report(
        found.as_dict(),
        frames=frames,
        audio=audio,
        sample_rate_hz=SOUND_HZ,
        density=found.grid(),
        frame_times_s=times if frames is not None and info.duration_s > 0 else None,
    )


def escape(text: str) -> str:
    """Text for the page: markup and quotes as entities, what cannot be seen as escapes, a runaway text cut short."""
    return html.escape(shown(text))


def _section(title: str, body: str) -> str:
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(title)}</h2>\n{body}\n</section>\n'


def _image(drawn: tuple[Any, str], caption: str = "") -> str:
    figure, alt = drawn
    data = base64.b64encode(plots.png(figure, 140)).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{below}</figure>'


def _table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; `heads` are (text, class), cells are escaped HTML, the first of each row is its header."""
    top = "".join(f'<th scope="col" class="{kind}">{escape(text)}</th>' for text, kind in heads)
    body = ""
    for first, *others in rows:
        cells = "".join(f'<td class="{kind}">{cell}</td>' for cell, (_, kind) in zip(others, heads[1:], strict=True))
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs) + "</dl>"


def _number(value: Any, digits: int = 1) -> str:
    """A number to read, or a dash where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return "–"
    return f"{number:,.{digits}f}" if np.isfinite(number) else "–"


def _span(item: Mapping[str, Any]) -> str:
    """When something happens, such as `0.5–2.6 s`, or a dash."""
    start, end = _number(item.get("start_s")), _number(item.get("end_s"))
    return "–" if "–" in (start, end) else f"{start}–{end} s"


def _probability(value: Any) -> str:
    number = _number(None if value is None else 100 * float(value))
    return f"{number} %" if number != "–" else "–"


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
    return _section("Map", _image(drawn, "How probable each part of the Earth is, given what is heard and seen."))


def _places(places: Sequence[Mapping[str, Any]]) -> str:
    if not places:
        return ""
    shares = [float(place.get("probability") or 0) for place in places]
    top = max(shares) or 1
    rows = [
        [
            escape(_place(place)),
            escape(_probability(place.get("probability"))),
            f'<span class="bar" style="width:{100 * share / top:.1f}%"></span>',
        ]
        for place, share in zip(places, shares, strict=True)
    ]
    heads = [("place", ""), ("probability", "n"), ("", "track")]
    return _section("Most probable places", _table(heads, rows, "Most probable places"))


def _sound(atoms: Sequence[Mapping[str, Any]], audio: np.ndarray | None, rate: int | None) -> str:
    body = ""
    if audio is not None and rate is not None and len(audio) >= 16:
        timed = [atom for atom in atoms if _span(atom) != "–"]
        body += _image(plots.spectrogram(audio, rate, events=timed or None))
        body += _player(audio, rate)
    if atoms:
        rows = [
            [
                escape(str(atom.get("name"))),
                _span(atom),
                _number(atom.get("strength"), 2),
            ]
            for atom in sorted(atoms, key=lambda atom: -float(atom.get("strength") or 0))[:ATOM_ROWS]
        ]
        body += _table([("atom", ""), ("when", "n"), ("strength", "n")], rows, "Acoustic atoms heard")
        if len(atoms) > ATOM_ROWS:
            body += f'<p class="note">The strongest {ATOM_ROWS} of {len(atoms)}; the JSON output lists them all.</p>'
    elif audio is not None:
        body += '<p class="note">No acoustic atom was heard.</p>'
    else:
        body = '<p class="note">No sound was used: the answer rests on sight alone.</p>'
    return _section("What was heard", body)


def _player(audio: np.ndarray, rate: int) -> str:
    kept = np.asarray(audio, dtype=np.float64)[: int(MAX_SOUND_S * rate)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(int(rate))
        sound.writeframes((np.clip(np.nan_to_num(kept), -1, 1) * 32767).astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:audio/wav;base64,{data}"
    player = f'<audio controls preload="metadata" aria-label="Sound of the clip" src="{source}"></audio>'
    if len(kept) < len(audio):
        player += f'<p class="note">The player has the first {MAX_SOUND_S:.0f} of {len(audio) / rate:.0f} s.</p>'
    return player


def _sight(frames: np.ndarray | None, times_s: Sequence[float] | None) -> str:
    if frames is None or not len(frames):
        return _section("What was seen", '<p class="note">No picture was used: the answer rests on sound alone.</p>')
    return _section("What was seen", _image(plots.contact_sheet(frames, times_s)))


def _evidence(evidence: Sequence[Mapping[str, Any]]) -> str:
    if not evidence:
        return ""
    rows = [
        [
            escape(str(item.get("label"))),
            escape(str(item.get("detector"))),
            _span(item),
            _number(item.get("bits"), 2),
            _number(item.get("shift_km"), 0),
        ]
        for item in evidence
    ]
    heads = [("cue", ""), ("detector", ""), ("when", "n"), ("bits", "n"), ("shift (km)", "n")]
    said = "Bits: what the place loses without the cue, the reasoner’s words held fixed. Shift: how far it moves."
    said += " Both by the flow as it was trained, before recalibration."
    note = f'<p class="note">{said}</p>'
    return _section("Evidence", _table(heads, rows, "Evidence") + note)


def _degrees(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, Mapping) or place.get("latitude_deg") is None or place.get("longitude_deg") is None:
        return None
    return float(place["latitude_deg"]), float(place["longitude_deg"])


def _metadata(location: Any, point: tuple[float, float]) -> str:
    place = _degrees(location)
    if place is None:
        return _section("Metadata", '<p class="note">The file carries no location of its own.</p>')
    import torch

    from avgeo.sphere import distance_km, from_degrees

    a, b = (from_degrees(*torch.tensor(item, dtype=torch.float64)) for item in (place, point))
    facts = [("Metadata says", plots.place_text(*place))]
    facts += [("Kind", str(location["kind"]))] if location.get("kind") else []
    facts += [("From the estimate", f"{_number(float(distance_km(a, b)), 0)} km")]
    note = '<p class="note">Read from the file for comparison only: the estimate does not use it.</p>'
    return _section("Metadata", _facts(facts) + note)


def _certainty(located: Mapping[str, Any]) -> str:
    facts = [
        (f"{100 * float(region['mass']):.0f} % region", f"{_number(region.get('area_km2'), 0)} km²")
        for region in located.get("regions") or []
    ]
    if located.get("entropy_bits") is not None:
        facts.append(("Entropy", f"{_number(located['entropy_bits'], 2)} bits against uniform"))
    if fitted := located.get("recalibration"):
        how = f"temperature {_number(fitted.get('temperature'), 2)}, uniform share {_number(fitted.get('floor'), 3)}"
        facts.append(("Recalibrated", f"{how} (fitted on places that were not trained on, for {fitted.get('shown')})"))
    note = "0 bits is anywhere on Earth; each bit less halves the area in which the clip may have been recorded."
    return _section("How sure", _facts(facts) + f'<p class="note">{note}</p>') if facts else ""


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
    return _section("How this was made", _facts(facts))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
