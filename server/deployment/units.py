"""systemd units for an operator's three programs, for a machine that runs for longer than a trial."""

from __future__ import annotations

import sys
from pathlib import Path

from common.deployment.environment import QUIET
from common.deployment.supervise import Program
from common.files import PUBLIC, write_whole
from server.deployment.place import Place
from server.deployment.programs import gate, superexec, superlink

_UNIT = """\
# Written by `fedmosaic server init`. Install: cp {path} /etc/systemd/system/ && systemctl daemon-reload
[Unit]
Description=fedmosaic: {name} of {consortium}
After=network-online.target{after}
Wants=network-online.target

[Service]
User={user}
WorkingDirectory={work}
{environment}
ExecStart={command}
Restart=always
RestartSec=2
StartLimitIntervalSec=0
KillMode=control-group
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={folder}
UMask=0077

[Install]
WantedBy=multi-user.target
"""
_OURS = ("FLWR_HOME", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "FEDMOSAIC_RUNS", "OMP_NUM_THREADS", *QUIET)


def write_units(place: Place) -> tuple[Path, ...]:
    """Write a unit for each program."""
    written = []
    for program in (superlink(place), superexec(place), gate(place)):
        program.folder.mkdir(parents=True, exist_ok=True)
        after = "" if program.name == "superlink" else " fedmosaic-superlink.service"
        path = place.path / "systemd" / f"fedmosaic-{program.name}.service"
        text = _UNIT.format(
            path=path,
            name=program.name,
            consortium=place.consortium.name,
            after=after,
            user=place.path.owner(),
            work=program.folder,
            environment="\n".join(
                f"Environment={key}={value}" for key, value in program.environment.items() if key in _OURS
            )
            + f"\nEnvironment=PATH={Path(sys.executable).parent}:/usr/bin:/bin",
            command=_command(program),
            folder=place.path,
        )
        written.append(write_whole(path, text, mode=PUBLIC))
    return tuple(written)


def _command(program: Program) -> str:
    first = program.command[0]
    path = first if "/" in first else str(Path(sys.executable).parent / first)
    return " ".join((path, *program.command[1:]))
