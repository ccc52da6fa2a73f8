"""What `avgeo locate` says on a terminal, line by line; names that files and models brought are shown, never obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avgeo.fusion import contradictions
from avgeo.untrusted import shown

if TYPE_CHECKING:
    from avgeo.evidence import Evidence
    from avgeo.locate import Posterior

COUNTRIES, ATOMS = 5, 10
"""How many of each are told, the likeliest and the strongest; the JSON output lists them all."""


def located_lines(found: Posterior) -> list[str]:
    """The answer as printable lines: estimate, regions (km²), places, countries, evidence (bits, km), prior, model."""
    shown_to = "" if found.recalibration is None else f" (shown: {found.recalibration['shown']})"
    lines = [
        f"estimate  {found.latitude_deg:.2f}, {found.longitude_deg:.2f}"
        f"   entropy {found.entropy_bits:.1f} bits against uniform{shown_to}"
    ]
    lines += [f"  {mass:.0%} of the probability lies in {area:,.0f} km²" for mass, area in found.regions]
    lines.append("places (share of the posterior nearest to each)")
    lines += [f"  {place['probability']:6.1%}  {place['name']}, {place['country_code']}" for place in found.places]
    lines.append("countries")
    lines += [f"  {share['probability']:6.1%}  {share['name']}" for share in found.countries[:COUNTRIES]]
    if found.condition is not None:
        lines.append("atoms heard")
        lines += [
            f"  {atom.start_s:6.2f}-{atom.end_s:6.2f} s  {atom.strength:7.2f}  {atom.name}"
            for atom in found.atoms[:ATOMS]
        ] or ["  none"]
    lines.append("evidence (bits at the estimate; shift of the estimate without it)")
    lines += [
        f"  {item.bits:+7.2f} bits  {item.shift_km:8.0f} km  {_when(item)}{item.detector}: {item.label}"
        for item in found.evidence
    ] or ["  none: this is the prior alone"]
    if found.fused is not None:
        lines += [
            f"contradiction: hardly any place has both {one.event.label} and {other.event.label} ({bits:.1f} bits)"
            for one, other, bits in contradictions(found.fused)
        ]
    lines += [f"refused: {item['detector']}: {item['label']} ({item['reason']})" for item in found.gathered.refused]
    lines += [f"not listened for: {line}" for line in found.gathered.not_listened]
    if (place := found.metadata_location) is not None:
        said = f"{place['latitude_deg']:.4f}, {place['longitude_deg']:.4f} ({place['kind']})"
        lines.append(f"metadata says {said}; not used above")
    lines.append(f"prior: {found.prior}")
    lines.append(f"model: {found.model['name']}, trained on {found.model['trained_on']}")
    lines += [f"licence of {name}: {licence}" for name, licence in found.gathered.licences.items()]
    if found.model["trained_on"] == "AVG-Sim":
        lines.append(
            "note: trained on a simulated Earth only; this is not evidence about where a real clip was recorded"
        )
    return [shown(line) for line in lines]


def _when(item: Evidence) -> str:
    return "" if item.start_s is None or item.end_s is None else f"{item.start_s:.0f}-{item.end_s:.0f} s  "
