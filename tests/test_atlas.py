"""The atlas of atoms: its facts against brute force, its files, and the page in headless Chromium from a disk."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
import wave
from dataclasses import dataclass
from pathlib import Path

import av
import cartopy.crs as ccrs
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avgeo.atlas import AtlasError, AtlasSummary, write_atlas
from avgeo.atlas.facts import atom_facts
from avgeo.atlas.page import MOST_DOTS
from avgeo.atlas.sounds import levelled, mp3
from avgeo.atlas.world import HEIGHT, WIDTH, outlines, project
from avgeo.book import BookError
from avgeo.book.render import published, stage, staged
from avgeo.clips import ClipError
from avgeo.perceive.atoms import AtomModel
from avgeo.perceive.encoders import SAMPLE_RATE_HZ, band_centres_hz, patches
from avgeo.perceive.persistence import Listener
from avgeo.perceive.sae import SaeConfig, SparseAutoencoder
from avgeo.profiles import AtomSettings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SETTINGS = AtomSettings()
EVIL = "<script>document.title='broken'</script>"
NAMES = [EVIL, "a chime & </script>\u2028", None, "hush", None]
LOW, HIGH, NOISE, SILENT, DEAD = range(5)


def model_of(directions: np.ndarray, names: list[str | None]) -> AtomModel:
    """An autoencoder with these atoms, and a table in which they have these names."""
    count, dim = directions.shape
    coder = SparseAutoencoder(SaeConfig(dim, count, active=min(4, count)))
    with torch.no_grad():
        coder.dictionary.copy_(torch.from_numpy(directions.astype(np.float32)))
        coder.normalize_dictionary()
    area = np.linspace(0.95, 0.6, count)
    table = pd.DataFrame({"atom": range(count), "name": names, "auroc": area, "auroc_low": area - 0.1})
    table = table.assign(fires=0.1, typical=1.0, heard_from=0.5)
    return AtomModel(Listener(coder), table, SETTINGS)


def band(low: int, high: int, sign: float = 1.0) -> np.ndarray:
    patch = np.zeros((SETTINGS.patch_frames, SETTINGS.mels))
    patch[:, low:high] = sign
    return patch.ravel() / np.linalg.norm(patch)


def write_wav(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(SAMPLE_RATE_HZ)
        out.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


@dataclass(frozen=True)
class Case:
    """A small atlas with all kinds of atoms, and what it was made from."""

    folder: Path
    summary: AtlasSummary
    model: AtomModel
    codes: np.ndarray
    clips: pd.DataFrame
    media: Path

    def again(self, folder: Path, **changed) -> AtlasSummary:
        given = {"codes": self.codes, "clips": self.clips, "root": self.media} | changed
        return write_atlas(folder, self.model, evidence="planted tones", **given)

    def detail(self, atom: int) -> dict:
        text = (self.folder / "atoms" / f"{atom}.js").read_text("ascii")
        found = re.fullmatch(r"atlasDetail\((\d+),(.*)\);\n", text, re.DOTALL)
        assert found and int(found[1]) == atom
        return json.loads(found[2])


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """Tones at two frequencies and noise at eight places; which place has which is known."""
    root = tmp_path_factory.mktemp("atlas")
    model = model_of(np.stack([band(20, 22), band(50, 53), band(0, 64), band(0, 64, -1), band(5, 6)]), NAMES)
    centres, time = band_centres_hz(SETTINGS), np.arange(round(2.4 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    draw, rows, codes = np.random.default_rng(0), [], []
    for clip in range(16):
        place = clip // 2
        on = (time > 1.28) & (time < 1.92)  # patches 8 to 11
        tone = np.sin(2 * np.pi * centres[21 if place < 4 else 51] * time) * on * (0.3 if place else 0.5)
        sound = tone + 0.002 * draw.standard_normal(len(time))
        write_wav(root / f"{clip}.wav", sound)
        seen = patches(torch.from_numpy(sound.astype(np.float32)), SETTINGS).numpy()
        code = np.maximum(0, seen @ model.sae.dictionary.detach().numpy().T - 4)
        code[:, SILENT] = 0.01
        code[:, DEAD] = 0
        codes.append(code.astype(np.float32))
        rows.append(
            {
                "clip_id": f"clip-{clip}<b>", "path": f"{clip}.wav", "place_id": f"p{place}", "country": "Ruritania",
                "latitude_deg": 10.0 * place - 35, "longitude_deg": 20.0 * place - 70,
            }
        )  # fmt: skip
    clips, codes = pd.DataFrame(rows), np.stack(codes)
    summary = write_atlas(root / "page", model, codes, clips, root=root, evidence="planted tones")
    return Case(root / "page", summary, model, codes, clips, root)


# --- facts


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0])),
    st.integers(1, 3),
)
def test_facts_are_what_counting_gives(codes, places):
    count = len(codes)
    clips = pd.DataFrame({"clip_id": range(count), "place_id": [f"p{clip % places}" for clip in range(count)]})
    clips = clips.assign(latitude_deg=1.0, longitude_deg=2.0)
    facts = atom_facts(codes, clips)
    for atom in range(codes.shape[2]):
        code = codes[:, :, atom]
        assert facts.fires[atom] == pytest.approx((code > 0).mean())
        if code.any():
            assert facts.strength[atom] == pytest.approx(code[code > 0].mean())
            assert code[facts.clip[atom], facts.frame[atom]] == code.max()
        else:
            assert facts.clip[atom] == -1 and facts.strength[atom] > 0
        for place in range(min(places, count)):
            assert facts.by_place[place, atom] == pytest.approx(code[place::places].mean(), abs=1e-6)


def test_input_that_does_not_belong_together_is_refused(case, tmp_path):
    for changed, told in [
        ({"codes": case.codes[:3]}, "3 clips and the table 16"),
        ({"codes": case.codes[..., :2]}, "2 atoms and the model 5"),
        ({"codes": -case.codes}, "negative"),
        ({"clips": case.clips.drop(columns="latitude_deg")}, "latitude_deg"),
        ({"clips": case.clips.drop(columns="path")}, "path"),
        ({"clips": case.clips.assign(longitude_deg=np.nan)}, "16 clips have no coordinates"),
        ({"cut_s": 0.0}, "cut_s"),
    ]:
        with pytest.raises(AtlasError, match=told):
            case.again(tmp_path / "refused", **changed)
    with pytest.raises(ClipError):
        case.again(tmp_path / "gone", root=tmp_path / "nowhere")


# --- the map


def test_the_projection_is_cartopys_and_land_is_land():
    points = np.array([[0.0, 0.0], [90.0, 0.0], [-90.0, 0.0], [0.0, 180.0], [0.0, -180.0], [52.0, 13.0]])
    found = project(points[:, 0], points[:, 1])
    assert found[:5].tolist() == [[1000, 487], [1000, 0], [1000, HEIGHT], [WIDTH, 487], [0, 487]] or (
        np.abs(found[:5] - [[1000, 486.5], [1000, 0], [1000, HEIGHT], [WIDTH, 486.5], [0, 486.5]]).max() <= 1
    )
    equal_earth = ccrs.EqualEarth()
    x, y = equal_earth.transform_point(13.0, 52.0, ccrs.PlateCarree())
    expected = ((x / equal_earth.x_limits[1] + 1) / 2 * WIDTH, (1 - y / equal_earth.y_limits[1]) / 2 * HEIGHT)
    assert np.abs(found[5] - expected).max() <= 0.5 + 1e-6

    from shapely.geometry import Point, Polygon

    land = [Polygon(np.cumsum(np.reshape(ring, (-1, 2)), axis=0)).buffer(0) for ring in outlines()["land"]]
    area = (
        sum(part.area for part in land) / Polygon(np.cumsum(np.reshape(outlines()["globe"][0], (-1, 2)), axis=0)).area
    )  # an equal-area map: land covers 29.2 % of the Earth
    assert area == pytest.approx(0.292, abs=0.01)
    for latitude, longitude, dry in [
        (52, 13, True),
        (-25, 134, True),
        (-80, 20, True),
        (0, -30, False),
        (30, -160, False),
    ]:
        at = Point(*project(np.array([latitude * 1.0]), np.array([longitude * 1.0]))[0])
        assert any(part.contains(at) for part in land) == dry


# --- sound


def test_sound_is_small_deterministic_and_of_its_true_length():
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)).astype(np.float32)
    data = mp3(tone, 16_000)
    assert data == mp3(tone, 16_000) and len(data) < 5000 and not re.search(rb"Lav[fc]\d", data)
    with av.open(io.BytesIO(data)) as container:
        decoded = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert len(decoded) == 16_000 and np.corrcoef(decoded, tone)[0, 1] > 0.99
    assert np.abs(levelled(tone / 50)).max() == pytest.approx(10 ** (-3 / 20))
    assert not levelled(np.zeros(10, np.float32)).any()


# --- the files


def test_the_summary_counts_what_is_there(case):
    files = [file for file in case.folder.rglob("*") if file.is_file()]
    found = case.summary
    assert (found.atoms, found.named, found.unnamed, found.dead) == (5, 3, 1, 1)
    assert (found.heard, found.silent, found.clips) == (4, 1, 4)
    assert found.files == len(files) and sum(found.bytes.values()) == sum(file.stat().st_size for file in files)
    first = sum(
        (case.folder / name).stat().st_size for name in ("index.html", "atlas.css", "draw.js", "atlas.js", "data.js")
    )
    assert found.first_load_bytes == first
    assert not (case.folder / f"atoms/{SILENT}.mp3").exists() and not (case.folder / f"atoms/{DEAD}-clip.mp3").exists()


def test_the_same_input_gives_the_same_bytes_and_leftovers_go(case, tmp_path):
    folder = tmp_path / "again"
    (folder / "atoms").mkdir(parents=True)
    (folder / "atoms" / "99.mp3").write_bytes(b"of an earlier model")
    (folder / "atoms" / "notes.txt").write_text("the user's")
    case.again(folder)
    for file in case.folder.rglob("*.*"):
        assert (folder / file.relative_to(case.folder)).read_bytes() == file.read_bytes(), file.name
    assert sorted(set(path.name for path in (folder / "atoms").iterdir())) == sorted(
        ["notes.txt", *(path.name for path in (case.folder / "atoms").iterdir())]
    )


def test_a_detail_shows_the_planted_peak_and_places(case):
    detail = case.detail(LOW)
    clip = detail["clip"]
    strongest = clip["from_s"] + (int(np.argmax(clip["active"])) + 0.5) * clip["step_s"] + clip["start_s"]
    assert 1.28 < strongest < 1.92 and clip["id"] in ("clip-0<b>", "clip-1<b>")
    cells = np.frombuffer(base64.b64decode(clip["cells"]), np.uint8).reshape(clip["bands"], clip["frames"])
    assert cells.max() == 255 and cells.mean(1).argmax() in (20, 21, 22)
    patch = np.frombuffer(base64.b64decode(detail["patch"]["cells"]), np.int8).reshape(SETTINGS.mels, -1)
    assert (patch[20:22] == 127).all() and not patch[30:].any()
    assert detail["patch"]["loudest_hz"] == pytest.approx(band_centres_hz(SETTINGS)[20], abs=60)
    strength = case.codes[:, :, LOW].mean(1).reshape(8, 2).mean(1)
    assert detail["map"]["heard"] == (strength > 0).sum() == 4
    assert detail["map"]["top"][0] == ["Ruritania, 35.0°S 70.0°W", 1.0] or strength.argmax() != 0
    xy = np.frombuffer(base64.b64decode(detail["map"]["xy"]), "<u2").reshape(-1, 2)
    order = np.argsort(-strength, kind="stable")[:4]
    place = case.clips.iloc[::2].iloc[order]
    assert np.array_equal(xy, project(place["latitude_deg"].to_numpy(), place["longitude_deg"].to_numpy()))
    assert case.detail(DEAD)["map"]["heard"] == 0 and "clip" not in case.detail(DEAD)


def test_no_name_is_markup(case):
    for file in case.folder.rglob("*.js"):
        if file.name not in ("atlas.js", "draw.js"):
            assert "<" not in file.read_text("ascii")
    data = json.loads((case.folder / "data.js").read_text().removeprefix("window.ATLAS=").removesuffix(";\n"))
    assert data["atoms"]["name"] == NAMES
    source = (case.folder / "atlas.js").read_text() + (case.folder / "draw.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|XMLHttp", source)
    assert "<noscript>" in (case.folder / "index.html").read_text()


def test_features_that_are_no_patches_are_shown_without_their_sound(case, tmp_path):
    model = model_of(np.eye(2, 512), ["a", None])
    found = write_atlas(tmp_path, model, case.codes[..., :2], case.clips, root=case.media, frame_s=0.16)
    assert (found.heard, found.silent, found.clips) == (0, 0, 2) and not list(tmp_path.glob("atoms/?.mp3"))


# --- the book


def test_a_chapter_publishes_a_page_into_the_book(case, tmp_path, monkeypatch):
    from avgeo.book import publish

    monkeypatch.setenv("AVGEO_CACHE", str(tmp_path))
    artifact = tmp_path / "atlas-0123"
    shutil.copytree(case.folder, artifact)
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *data, **options: shown.append((data, options)))
    publish(artifact, "atlas", "Every atom & its sound")
    ((bundle,), options) = shown[0]
    assert "atlas-0123/index.html" in bundle["text/plain"] and str(tmp_path) not in json.dumps(
        [bundle, options["metadata"]]
    )
    for wrong in ((case.folder, "atlas", "title"), (artifact, "../up", "title"), (artifact, "atlas", " ")):
        with pytest.raises(ValueError, match="publish"):
            publish(*wrong)

    output = nbformat.v4.new_output("display_data", bundle, metadata=options["metadata"])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output], execution_count=1)])
    assert published(notebook, "02_atoms") == {"atlas": artifact} and published(nbformat.v4.new_notebook(), "01") == {}
    made = staged(notebook, "02_atoms").cells[0].outputs[0].data["text/html"]
    assert 'src="../_static/atlas/index.html"' in made and 'title="Every atom &amp; its sound"' in made

    root = tmp_path / "book"
    (root / "book").mkdir(parents=True)
    (root / "_config.yml").write_text("exclude_patterns: []\n")
    folder = stage(root, {}, {"atlas": artifact})
    assert (folder / "book/_static/atlas/atoms/0.mp3").read_bytes() == (artifact / "atoms/0.mp3").read_bytes()
    assert not list(stage(root, {}).rglob("*.mp3"))
    shutil.rmtree(artifact)
    with pytest.raises(BookError, match=r"atlas-0123.*--chapters 02 --no-resume"):
        published(notebook, "02_atoms")


# --- in the browser


def visit(folder: Path, probe: str, work: Path, fragment: str = "") -> dict:
    """What the script `probe`, an async function's body, returns on a copy of the page opened from the disk."""
    copy = work / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    page_file = copy / "index.html"
    tail = '<script src="probe.js"></script>\n</body>'
    page_file.write_text((folder / "index.html").read_text().replace("</body>", tail))
    (copy / "probe.js").write_text(
        """(async () => {
          const errors = [], result = document.createElement("pre"), $ = (query) => document.querySelector(query);
          window.addEventListener("error", (event) => errors.push(event.message));
          const wait = (ms) => new Promise((done) => setTimeout(done, ms));
          const until = async (test) => { for (let i = 0; i < 200 && !test(); i++) await wait(25); return test(); };
          const type = (value) => { $("#search").value = value; $("#search").dispatchEvent(new Event("input")); };
          const rows = () => [...document.querySelectorAll("#list li")].map((item) => Number(item.dataset.atom));
          const shown = () => $("#detail h2")?.firstChild.textContent ?? $("#detail").textContent;
          const filled = (canvas) => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
            for (let at = 0; at < data.length; at += 4) seen.add(data[at] << 16 | data[at + 1] << 8 | data[at + 2]);
            return seen.size;
          };
          let told;
          try { told = await (async () => { PROBE })(); } catch (error) { told = {failed: String(error.stack)}; }
          result.id = "result";
          result.textContent = JSON.stringify({...told, errors});
          document.body.append(result);
        })();""".replace("PROBE", probe)
    )
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,900",
        "--autoplay-policy=no-user-gesture-required", f"--user-data-dir={work / 'profile'}",
        "--virtual-time-budget=20000", "--dump-dom", page_file.as_uri() + fragment,
    ]  # fmt: skip
    document = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="result">(.*?)</pre>', document, re.DOTALL)
    assert found, f"the page gave no result: {document[-800:]}"
    told = json.loads(html.unescape(found[1]))
    assert not told.get("failed") and told["errors"] == [], told
    return told


@in_browser
def test_an_atom_is_heard_seen_and_mapped_from_the_disk(case, tmp_path):
    told = visit(
        case.folder,
        """
        await until(() => $("#map") && $("#map").width > 10);
        const sounds = [];
        for (const audio of document.querySelectorAll("#detail audio")) {
          const preload = audio.preload;
          audio.preload = "metadata";
          audio.load();
          await until(() => audio.readyState >= 1 || audio.error);
          sounds.push([preload, audio.duration, audio.getAttribute("src"), audio.getAttribute("aria-label")]);
        }
        const canvases = [...document.querySelectorAll("#detail canvas")];
        return {sounds, colours: canvases.map(filled), labels: canvases.map((c) => c.getAttribute("aria-label")),
          roles: canvases.map((c) => c.getAttribute("role")), name: shown(), title: document.title,
          scripts: [...document.querySelectorAll("body script")].length, page: $("#title").textContent,
          places: [...document.querySelectorAll(".places li")].map((item) => item.textContent)};
        """,
        tmp_path,
        f"#atom-{LOW}",
    )
    assert told["name"] == EVIL and told["scripts"] == 4 and "broken" not in told["page"]
    alone, clip = told["sounds"]
    assert alone[0] == clip[0] == "none" and alone[2] == "atoms/0.mp3" and clip[2] == "atoms/0-clip.mp3"
    assert 0.9 < alone[1] < 1.4 and clip[1] == pytest.approx(1.6, abs=0.08)
    assert all(count > 8 for count in told["colours"]) and told["roles"] == ["img"] * 3
    assert "adds most at about" in told["labels"][0] and "clip-" in told["labels"][1]
    assert "heard at 4 of 8 places" in told["labels"][2] and len(told["places"]) == 4


@in_browser
def test_a_browser_decodes_the_sounds_samples(case, tmp_path):
    data = base64.b64encode((case.folder / "atoms/0.mp3").read_bytes()).decode()
    told = visit(
        case.folder,
        f"""
        const raw = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0));
        const sound = await new OfflineAudioContext(1, 16000, 16000).decodeAudioData(raw.buffer);
        const samples = sound.getChannelData(0);
        return {{seconds: sound.duration, peak: samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0)}};
        """,
        tmp_path,
    )
    assert 0.9 < told["seconds"] < 1.4 and 0.5 < told["peak"] < 1


@in_browser
def test_search_sort_filter_links_and_keys_work(case, tmp_path):
    told = visit(
        case.folder,
        """
        const said = {};
        said.first = rows();
        type("CHIME"); said.search = rows();
        type("4"); said.number = rows();
        type("nothing like it"); said.none = [rows().length, $("#count").textContent];
        type("");
        const sort = (by) => { $("#sort").value = by; $("#sort").dispatchEvent(new Event("change")); return rows(); };
        said.number_order = sort("number"); said.fires = sort("fires"); said.name = sort("name");
        for (const kind of ["named", "unnamed", "dead", "all"]) {
          const box = $(`#filter input[value=${kind}]`);
          box.click(); said[kind] = rows();
        }
        sort("number");
        $("#list a").focus();
        const key = new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true});
        document.activeElement.dispatchEvent(key);
        said.focus = document.activeElement.getAttribute("href");
        document.activeElement.click();
        await until(() => shown().startsWith("a chime"));
        const item = $("li.chosen");
        said.opened = [shown(), location.hash, item.dataset.atom, item.firstChild.getAttribute("aria-current")];
        document.querySelectorAll(".head button")[1].click();
        await until(() => shown() === "atom 2"); said.next = shown();
        location.hash = "atom-3"; await until(() => shown() === "hush"); said.silent = $("#detail").textContent;
        said.play = document.querySelectorAll(".play")[3].disabled;
        location.hash = "atom-77"; await until(() => shown().includes("77")); said.gone = shown();
        return said;
        """,
        tmp_path,
    )
    assert told["first"] == [0, 1, 3, 2, 4] and told["search"] == [1] and told["number"] == [4]
    assert told["none"][0] == 0 and "No atom" in told["none"][1]
    fires = (told_codes := case.codes > 0).mean((0, 1))
    assert told_codes.any() and told["number_order"] == [0, 1, 2, 3, 4]
    assert told["fires"] == sorted(range(5), key=lambda atom: (-fires[atom], atom))
    assert set(told["name"][:3]) == {0, 1, 3} and told["name"][3:] == [2, 4]
    assert (set(told["named"]), told["unnamed"], told["dead"]) == ({0, 1, 3}, [2], [4]) and len(told["all"]) == 5
    assert told["focus"] == "#atom-1" and told["opened"][1:] == ["#atom-1", "1", "true"]
    assert told["next"] == "atom 2" and "Silent" in told["silent"] and told["play"]
    assert told["gone"] == "There is no atom 77: this model has atoms 0 to 4."


@in_browser
def test_a_missing_file_is_said_to_be_missing(case, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(case.folder, folder)
    (folder / "atoms" / "2.js").unlink()
    told = visit(
        folder,
        'await until(() => $("#detail").textContent.includes("missing")); return {text: $("#detail").textContent};',
        tmp_path,
        "#atom-2",
    )
    assert "atoms/2.js is missing" in told["text"]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, AtlasSummary]:
    """2,000 atoms at 500 places, without clips' sound."""
    draw = np.random.default_rng(1)
    directions = draw.standard_normal((2000, 640))
    names = [f"sound {atom % 37}" if atom % 3 else None for atom in range(2000)]
    codes = np.zeros((500, 2, 2000), np.float32)
    codes[draw.integers(0, 500, 60_000), draw.integers(0, 2, 60_000), draw.integers(0, 1990, 60_000)] = 1
    codes[:, 0, 5] = 1
    clips = pd.DataFrame({"clip_id": [f"c{row}" for row in range(500)]})
    clips = clips.assign(latitude_deg=draw.uniform(-60, 70, 500), longitude_deg=draw.uniform(-180, 180, 500))
    folder = tmp_path_factory.mktemp("large")
    return folder, write_atlas(folder, model_of(directions, names), codes, clips)


@pytest.mark.slow
@in_browser
def test_two_thousand_atoms_load_light_and_answer_at_once(large, tmp_path):
    folder, summary = large
    assert summary.atoms == 2000 and summary.dead >= 10 and summary.first_load_bytes < 2_000_000
    told = visit(
        folder,
        """
        const timed = (work) => { const began = performance.now(); work(); return performance.now() - began; };
        await until(() => shown() === "atom 1234");
        const first = [rows().length, rows().includes(1234), document.querySelectorAll("*").length];
        const search = Math.min(...[1, 2, 3].map(() => timed(() => type("sound 3"))));
        const found = $("#count").textContent;
        location.hash = "atom-5";
        await until(() => shown().startsWith("sound 5"));
        return {first, search, found, note: $("#detail").textContent, map: filled($("#map"))};
        """,
        tmp_path,
        "#atom-1234",
    )
    assert told["first"][0] == 50 and told["first"][1] and told["first"][2] < 2000
    matching = sum(bool(name) and "sound" in name and "3" in name for name in large_names())
    assert told["search"] < 500 and told["found"].replace(",", "") == f"{matching} atoms"
    assert f"the strongest {MOST_DOTS} of 500" in told["note"] and told["map"] > 8


def large_names() -> list[str]:
    """What the list of the large atlas matches words against."""
    return [f"sound {atom % 37} atom {atom}" if atom % 3 else f" atom {atom}" for atom in range(2000)]
