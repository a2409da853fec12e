"""Web servers of files: nginx in four moods."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers.process import Facts, free_port, program, start

__all__ = ["MOODS", "begin_nginx"]

MOODS = {
    "ranges": "",
    "no ranges": "max_ranges 0;",
    "gzip": "gzip on; gzip_min_length 0; gzip_types *; gzip_proxied any;",
    "secret": "auth_basic here; auth_basic_user_file /dev/null;",
}
"""What is said of the files of each server, by the name of the server."""

_CONFIGURATION = """
{user} daemon off; pid {work}/pid; error_log {work}/error.log warn; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; default_type application/octet-stream; sendfile on; tcp_nodelay on;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  {servers}
}}
"""


def begin_nginx(work: Path) -> Facts:
    """Serve one folder on a port for each mood."""
    nginx = program("nginx", "/usr/sbin", install="apt-get install nginx-light")
    files = work / "files"
    files.mkdir()
    ports = {mood: free_port() for mood in MOODS}
    servers = "\n".join(
        f'server {{ listen 127.0.0.1:{ports[mood]}; root "{files}"; {said} }}'
        for mood, said in MOODS.items()
    )
    user = "user root;" if os.geteuid() == 0 else ""  # it would serve as another user
    file = work / "nginx.conf"
    file.write_text(_CONFIGURATION.format(work=work, servers=servers, user=user))
    command = [nginx, "-p", str(work), "-e", str(work / "error.log"), "-c", str(file)]
    pid = start(command, list(ports.values()), work / "log")
    return {"pid": pid, "ports": ports, "folder": str(files)}
