"""Commands over many clips: `gallery`, a folder at once, and `serve`, a local page with an upload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from avgeo.cli.console import HERE, ProfileOption, SeedOption, app, echo, load_model, say

_Model = Annotated[
    Path | None,
    typer.Option(help="Folder of `avgeo train --out`, or `here`: the one trained here. Default: the detectors."),
]
_Sight = Annotated[bool, typer.Option(help="Locate by picture alone (silent videos, photos).")]
_Seconds = Annotated[float, typer.Option(min=0.5, help="Seconds of each clip to use.")]


def _settings(model: Path | None, profile: str, seed: int, sight_only: bool, max_s: float) -> dict[str, Any]:
    """What `avgeo.batch.locate_and_report` wants, once the model is known to load."""
    settings: dict[str, Any] = {
        "model": None, "profile": profile, "seed": seed, "sight_only": sight_only, "max_s": max_s, "keys": {}
    }  # fmt: skip
    if model is not None:
        from avgeo.locate import LocateModel

        here = str(model) == HERE
        settings["keys"] = load_model(LocateModel, None if here else model, profile, seed).card["keys"]
        settings["model"] = HERE if here else str(model.resolve())
    return settings


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="A folder of clips, searched recursively.")],
    out: Annotated[Path, typer.Option(help="Folder for the reports, index.html and rejects.csv.")],
    model: _Model = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    sight_only: _Sight = False,
    max_seconds: _Seconds = 60.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each loads its networks.")] = 1,
    time_limit: Annotated[float, typer.Option(min=1, help="Seconds that one file may take.")] = 300.0,
) -> None:
    """Locate every clip of a folder: a report each, a gallery, and why the others were refused. Resumable."""
    from avgeo.batch import BatchError, locate_all

    if not folder.is_dir():
        raise BatchError(f"{folder}: is no folder; give the folder of the clips")
    settings = _settings(model, profile, seed, sight_only, max_seconds)
    done = locate_all(folder, out, settings, workers=workers, time_limit_s=time_limit)
    echo(f"located {done.located}, refused {len(done.rejects)}; {done.kept} were done before")
    say(f"wrote {done.index}")


@app.command()
def serve(
    model: _Model = None,
    profile: ProfileOption = "smoke",
    seed: SeedOption = 0,
    sight_only: _Sight = False,
    max_seconds: _Seconds = 60.0,
    host: Annotated[str, typer.Option(help="Address to listen at; others than loopback can be reached.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    max_mib: Annotated[int, typer.Option(min=1, help="The largest clip that is taken, MiB.")] = 500,
) -> None:
    """A page on this machine that takes a clip and shows its report; nothing leaves the machine."""
    from avgeo.serve import LocateServer, loopback

    settings = _settings(model, profile, seed, sight_only, max_seconds)
    if not loopback(host):
        say(f"warning: --host {host}: others can reach this page and send it clips; there is no password")
    with LocateServer(settings, host=host, port=port, max_bytes=max_mib << 20) as server:
        typer.echo(f"open http://{host}:{server.server_port}/ (Ctrl-C ends it)")
        server.serve_forever()
