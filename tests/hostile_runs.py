"""Runs that an operator plans by the book, and then asks for in another way."""

from __future__ import annotations

import json

from common.compose import compose
from server.deployment.control import register
from server.deployment.runs import Begun
from server.folder import create_run_folder
from server.planning import describe, plan_of
from tests.deployed import QUICK, Deployment

RunConfig = dict[str, str]


def wait_until_online(made: Deployment) -> None:
    register(made.place)
    made.wait_for(
        lambda: {site["state"] for site in made.status()["sites"]} == {"online"},  # type: ignore[attr-defined]
        why="all sites online",
    )


def planned(made: Deployment, *overrides: str) -> Begun:
    """A run as the real server plans it, not handed to the SuperLink yet."""
    config = compose(("data.root=anywhere", *QUICK, "rounds=2", *overrides))
    specs = [paper.description for paper in made.place.enrolments().values()]
    config = describe(config, specs, where="here").resolve(config)
    folder = create_run_folder(config, made.place.runs)
    plan = plan_of(config, num_sites=len(specs))
    (folder.path / "roster.bin").write_bytes(made.place.roster_path.read_bytes())
    folder.nodes_path.write_text(made.place.nodes_path.read_text())
    folder.save(config, plan)
    return Begun(folder, config, plan)


def with_plan(config: RunConfig, **changes: object) -> RunConfig:
    return config | {"plan": json.dumps(json.loads(config["plan"]) | changes)}
