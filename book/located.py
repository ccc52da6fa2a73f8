"""Make `_static/located.png`, the README's picture, with the model that `make book` has trained."""

from __future__ import annotations

from pathlib import Path

from avgeo import plots
from avgeo.locate import LocateModel, locate
from avgeo.pipeline import Pipeline
from avgeo.profiles import get_profile

study = Pipeline(get_profile("smoke"), 0, only_find=True)
test = study.manifest.iloc[study.rows_of("test")]
# The clip with the most audible sources, as in chapter 6: not picked by its result.
audible = study.truth[study.truth["modality"] == "audible"].groupby("clip_id")["source"].nunique()
clip = test.iloc[audible.reindex(test["clip_id"], fill_value=0).to_numpy().argmax()]
name = study.places.set_index("place_id").loc[clip["place_id"], "name"]
found = locate(study.world.path / clip["path"], LocateModel.trained_here())
latitude_deg, longitude_deg, log_prob, area = found.grid()
heard = ", ".join(dict.fromkeys(atom.name for atom in found.atoms if not atom.name.startswith("atom ")))
figure, alt = plots.density_map(
    latitude_deg,
    longitude_deg,
    log_prob,
    area=area,
    truth=(clip["latitude_deg"], clip["longitude_deg"]),
    estimate=(found.latitude_deg, found.longitude_deg),
    title=f"A simulated clip from {name}",
)
(Path(__file__).parent / "_static" / "located.png").write_bytes(plots.png(figure))
print(alt, f"Heard: {heard}.")
