"""The systemd unit of a site: what it may read, write and reach is as little as it needs."""

from __future__ import annotations

import getpass
import shlex
from pathlib import Path

from common.deployment.environment import PROGRAMS

_UNIT = """\
# Written by `fedmosaic site init`. To use it, as root:
#   cp {source} /etc/systemd/system/ && systemctl enable --now fedmosaic-site
[Unit]
Description=fedmosaic: a site of {consortium}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={program} site join {argument}
Restart=on-failure
RestartSec=10
# Wrong usage, and nothing approved yet: starting again would change nothing.
RestartPreventExitStatus=2 3
KillMode=mixed
TimeoutStopSec=30
# For an encrypted identity.pem, a file with its passphrase:
# LoadCredential=passphrase:/etc/fedmosaic/passphrase
# Environment=FEDMOSAIC_PASSPHRASE_FILE=%d/passphrase
UMask=0077
# A bundle or message that unpacks to more than this ends the site's programs, and not the machine.
MemoryMax=80%
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ReadOnlyPaths={folder}
ReadWritePaths={state}
PrivateTmp=yes
# A site with a GPU needs its devices: take this line out there.
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""


def unit_of(state: Path, folder: Path, consortium: str) -> str:
    """Write the unit of one site."""
    return _UNIT.format(
        source=shlex.quote(str(state / "systemd" / "fedmosaic-site.service")),
        consortium=" ".join(consortium.replace("%", "%%").split()),
        user=getpass.getuser(),
        program=_quoted(PROGRAMS / "fedmosaic"),
        argument=_quoted(state).replace("$", "$$"),
        state=_quoted(state),
        folder=_quoted(folder),
    )


def _quoted(path: Path) -> str:
    """A path as systemd reads it: one word, no specifiers."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"'
