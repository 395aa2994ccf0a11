"""The gate: an nginx that lets institutions reach Flower's fleet, and nothing else of the SuperLink.

Flower 1.41 answers for its fleet, for whoever controls runs and for running apps on one port, and only the fleet has to
say who it is. So the SuperLink listens on loopback, and the outside sees two paths of it.
"""

from __future__ import annotations

from pathlib import Path

from server.deployment.place import Place

_TEMPLATE = """\
# Written by `fedmosaic server init`; changes are kept until it is written anew.
daemon off;
master_process off; # one process: a master that is killed leaves its workers behind
pid {work}/nginx.pid;
error_log {work}/errors.log notice;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  server_tokens off;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/unused-fastcgi;
  uwsgi_temp_path {work}/unused-uwsgi;
  scgi_temp_path {work}/unused-scgi;
  client_max_body_size 64m; # Flower sends arrays in parts
  proxy_request_buffering off;
  proxy_buffering off;
  limit_conn_zone $binary_remote_addr zone=each:1m;
  server {{
    listen {listen}:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    limit_conn each 64;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_read_timeout 120s;
    proxy_ssl_trusted_certificate {authority};
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
    location /v1/fleet/ {{ proxy_pass https://127.0.0.1:{link_port}; }}
    location = /health {{ proxy_pass https://127.0.0.1:{link_port}; }}
    location / {{ return 403; }}
  }}
}}
"""


def write_gate(place: Place) -> Path:
    """Write the gate's configuration."""
    consortium, work = place.consortium, place.work("gate")
    work.mkdir(parents=True, exist_ok=True)
    path = place.path / "gate.conf"
    path.write_text(
        _TEMPLATE.format(
            work=work,
            listen=consortium.listen,
            port=consortium.port,
            certificate=place.certificate("gate"),
            key=place.key("gate.key"),
            authority=place.certificate("authority"),
            link_port=consortium.link_port,
        )
    )
    return path
