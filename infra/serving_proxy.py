"""Configuration of the nginx in front of TorchServe: users reach predictions, and nothing else.

It divides the users between two versions during a canary, copies requests to a second version in a
shadow, holds clients to a rate and a size, and asks again once where a worker died.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from infra.fleet_proxy import temporary_paths

# While nginx's working directory has this file, each answer ends its connection: a client that sends
# on one just as nginx closes it, to reload, would get none. LEAVE is a status of nobody's.
LEAVING = "leaving"
LEAVE = 477
# After it, other statuses still lead elsewhere, as @again.
LEAVE_HERE = f"recursive_error_pages on; if (-f {LEAVING}) {{ return {LEAVE}; }}"
FINGERPRINT_PATH = "/.configuration"
# TorchServe answers 507, or 500 at an unlucky moment, to what a worker held when it died, and keeps
# later requests for the next one. Asking twice does no harm.
DIED = "500 502 503 504 507"


@dataclass(frozen=True)
class SecondVersion:
    """A version beside the one in production.

    Parameters
    ----------
    version
        TorchServe's name of it: the 64 digits of its digest.
    share
        Per cent of the users whom it answers, above 0, in steps of 0.01; None copies everybody's
        requests to it and drops its answers.
    log
        File that gets a line of JSON for each request.
    kind
        What both do, the last part of their endpoint; requests to other endpoints stay as they are.
    """

    version: str
    share: float | None
    log: str
    kind: str = "recommend"

    @property
    def path(self) -> str:
        """Where both are asked."""
        return f"/predictions/{self.kind}"


@dataclass(frozen=True)
class ServingProxy:
    """What the proxy needs to know; paths are absolute.

    Parameters
    ----------
    listen
        Address and port for the clients, as nginx writes them.
    torchserve
        Port of TorchServe's inference API on the same machine's loopback.
    folder
        For its process id and temporary files.
    requests_per_second, burst
        What one client may ask: in the long run, and at once beyond that.
    request_bytes
        The largest body.
    client_header
        Header that tells clients apart, such as ``X-Api-Key``; only for where something in front
        has checked it. Without one it is their address.
    second
        The canary or shadow that is on.
    """

    listen: str
    torchserve: int
    folder: str
    requests_per_second: int = 1000
    burst: int = 200
    request_bytes: int = 1_000_000
    client_header: str | None = None
    second: SecondVersion | None = None


def serving_configuration(proxy: ServingProxy) -> str:
    """Text of nginx.conf; its fingerprint is what a running nginx answers at `FINGERPRINT_PATH`."""
    return _render(proxy, fingerprint(proxy))


def fingerprint(proxy: ServingProxy) -> str:
    """Tells which configuration an nginx works by."""
    return sha256(_render(proxy, "").encode()).hexdigest()[:16]


def _render(proxy: ServingProxy, mark: str) -> str:
    version = "$version" if proxy.second and proxy.second.share is not None else ""
    ask = f"proxy_pass http://torchserve$uri{version}$is_args$args;"
    return (
        f'pid "{proxy.folder}/nginx.pid";\n'
        "error_log stderr warn;\n"
        "worker_processes 1;\n"
        "worker_shutdown_timeout 60s;\n"
        "events { worker_connections 4096; }\n"
        "http {\n"
        f"{temporary_paths(proxy.folder)}"
        f"{_failures()}"
        "    server_tokens off;\n"
        f"    client_max_body_size {proxy.request_bytes};\n"
        f"    client_body_buffer_size {proxy.request_bytes};\n"
        f"{_clients(proxy)}"
        f"{_division(proxy.second)}"
        "    upstream torchserve {\n"
        f"        server 127.0.0.1:{proxy.torchserve};\n"
        "        keepalive 64;\n"
        "    }\n"
        "    server {\n"
        f"        listen {proxy.listen} backlog=1024;\n"
        "        access_log /dev/stdout failure if=$failed;\n"
        f"{_server_log(proxy.second)}"
        f"        limit_req zone={_zone(proxy)} burst={proxy.burst} nodelay;\n"
        "        proxy_http_version 1.1;\n"
        '        proxy_set_header Connection "";\n'
        "        proxy_set_header X-Request-Id $request_id;\n"
        # Bodies are JSON, whatever a client calls them: TorchServe takes forms apart by itself, and
        # answers 500 to one that is none.
        "        proxy_set_header Content-Type application/json;\n"
        # Workers of an nginx that root started may not enter a folder that is only root's.
        "        proxy_max_temp_file_size 0;\n"
        "        proxy_connect_timeout 2s;\n"
        "        proxy_read_timeout 60s;\n"
        "        proxy_next_upstream error non_idempotent;\n"
        "        proxy_intercept_errors on;\n"
        # TorchServe adds one of its own that no log of ours knows.
        "        proxy_hide_header X-Request-Id;\n"
        "        add_header X-Request-Id $request_id always;\n"
        f"        error_page {DIED} = @again;\n"
        f"        error_page {LEAVE} = @leaving;\n"
        "        error_page 413 @large;\n"
        "        error_page 429 @hasty;\n"
        f"        location ~ ^/predictions/[a-z_-]+$ {{ {LEAVE_HERE} {ask} }}\n"
        f"        location @leaving {{ keepalive_timeout 0; {ask} }}\n"
        # What it says the second time is the answer, with its own words. An error_page of its own
        # keeps the others away, so that nothing is asked a third time.
        f"        location @again {{ error_page 413 @large; proxy_intercept_errors off; {ask} }}\n"
        f"{_shadow(proxy.second)}"
        "        location = /ping { proxy_pass http://torchserve; }\n"
        f'        location = {FINGERPRINT_PATH} {{ return 200 "{mark}"; }}\n'
        # A model's own 403, to who may not post for a user, keeps its words.
        "        location / {\n"
        "            default_type application/json;\n"
        "            return 403 '{\"error\": \"Only predictions are served here.\"}';\n"
        "        }\n"
        f"{_refusal('large', 413, f'The body is larger than {proxy.request_bytes} bytes.')}"
        f"{_refusal('hasty', 429, 'Too many requests: ask again in a second.')}"
        "    }\n"
        "}\n"
    )


def _failures() -> str:
    """A line of JSON for each answer of a 5xx, with the ids that the handler's log has."""
    return (
        '    map $http_traceparent $trace_id {\n'
        '        default "";\n'
        '        "~^[0-9a-f]{2}-(?<id>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$" $id;\n'
        "    }\n"
        '    map $status $failed { default 0; "~^5" 1; }\n'
        "    log_format failure escape=json '{\"time\": \"$time_iso8601\", \"level\": \"ERROR\", "
        '"logger": "proxy", "message": "$status for $uri after $request_time s", '
        '"request_ids": ["$request_id"], "trace_ids": ["$trace_id"]}\';\n'
    )


def _clients(proxy: ServingProxy) -> str:
    """Who counts as one client, and what each may ask."""
    key, chosen = "$binary_remote_addr", ""
    if proxy.client_header:
        header = f"$http_{proxy.client_header.lower().replace('-', '_')}"
        key = "$client"
        chosen = f'    map {header} $client {{ "" $binary_remote_addr; default {header}; }}\n'
    return (
        f"{chosen}"
        f"    limit_req_zone {key} zone={_zone(proxy)}:10m rate={proxy.requests_per_second}r/s;\n"
        "    limit_req_status 429;\n"
    )


def _zone(proxy: ServingProxy) -> str:
    """Name of nginx's memory of clients: a reload may not change what a zone of one name keeps."""
    return f"clients_{(proxy.client_header or 'address').lower().replace('-', '_')}"


def _division(second: SecondVersion | None) -> str:
    """Whom the second version answers, and what the log tells of a request.

    The canary's range comes first, so that a larger share takes in users and lets none go. The
    version within the hash gives each canary other users. The log names no user.
    """
    if second is None:
        return ""
    logged = f"    map $uri $logged {{ {second.path} 1; default 0; }}\n"
    if second.share is None:
        return logged + _log_format("production", "production") + _log_format("canary", "canary")
    return (
        '    map $http_x_user $user { "" $remote_addr; default $http_x_user; }\n'
        f'    split_clients "{second.version[:12]}$user" $arm {{\n'
        f"        {second.share:.2f}% canary;\n"
        "        * production;\n"
        "    }\n"
        f'    map "$arm $uri" $version {{ "canary {second.path}" /{second.version}; default ""; }}\n'
        f"{logged}"
        f"{_log_format('production', '$arm')}"
    )


def _log_format(name: str, arm: str) -> str:
    return (
        f"    log_format {name} escape=json '{{\"id\":\"$request_id\",\"at\":$msec,"
        f'"arm":"{arm}","status":$status,"seconds":$request_time,'
        "\"cause\":\"$upstream_http_x_hybrid_cause\"}';\n"
    )


def _server_log(second: SecondVersion | None) -> str:
    return f'        access_log "{second.log}" production if=$logged;\n' if second else ""


def _shadow(second: SecondVersion | None) -> str:
    """Copies of requests go to the second version; nobody sees what it answers."""
    if second is None or second.share is not None:
        return ""
    ask = f"proxy_pass http://torchserve{second.path}/{second.version}$is_args$args;"
    log = f'access_log "{second.log}" canary;'
    return (
        f"        location = {second.path} {{\n"
        f"            {LEAVE_HERE}\n"
        "            mirror /shadow;\n"
        "            proxy_pass http://torchserve$uri$is_args$args;\n"
        "        }\n"
        "        log_subrequest on;\n"
        "        location = /shadow {\n"
        "            internal;\n"
        f"            {log}\n"
        f"            error_page {DIED} = @shadow_again;\n"
        f"            {ask}\n"
        "        }\n"
        f"        location @shadow_again {{ {log} {ask} }}\n"
    )


def _refusal(name: str, status: int, sentence: str) -> str:
    return (
        f"        location @{name} {{\n"
        "            default_type application/json;\n"
        f"            return {status} '{{\"error\": \"{sentence}\"}}';\n"
        "        }\n"
    )
