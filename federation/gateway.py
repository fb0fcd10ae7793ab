"""A site's gateway: carries its SuperNode's calls to the federation's proxy, with its certificate.

Flower's SuperNode cannot show a client certificate, and does not sign its calls without TLS. It
therefore calls this process, on the site's own loopback and with TLS, which opens a connection to
the proxy for each of the SuperNode's, shows the site's certificate there, and passes bytes on. It
understands nothing of what it carries and keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import ssl
from pathlib import Path

from federation.credentials import SiteCredentials, locate

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16
CONNECT_SECONDS = 30.0

log = logging.getLogger("gateway")


def main() -> None:
    """Serve the site named on the command line until SIGTERM."""
    parser = argparse.ArgumentParser(prog="gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--credentials", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--site", required=True, metavar="NAME")
    parser.add_argument("--port", required=True, type=int, help="on the loopback, for the SuperNode")
    parser.add_argument("--proxy", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    files = locate(arguments.credentials, [arguments.site])
    asyncio.run(
        _until_terminated(
            files.sites[arguments.site], files.authority, arguments.port, arguments.proxy
        )
    )


async def serve(site: SiteCredentials, authority: Path, port: int, proxy: str) -> asyncio.Server:
    """Listen on the loopback's `port` and pass what comes on to `proxy`, a "host:port"."""
    near = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    near.load_cert_chain(site.gateway_certificate, site.gateway_key)
    host, _, number = proxy.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Read anew each time: rotation replaces the files.
            far = ssl.create_default_context(cafile=str(authority))
            far.load_cert_chain(site.client_certificate, site.client_key)
            async with asyncio.timeout(CONNECT_SECONDS):
                # The authority signs one server only: its name is the same wherever it is reached.
                to_proxy = await asyncio.open_connection(
                    host, int(number), ssl=far, server_hostname="localhost"
                )
        except (OSError, TimeoutError) as error:
            # The SuperNode sees a closed connection and tries again.
            log.warning("no connection to the proxy at %s: %s", proxy, error or "no answer")
            writer.close()
            return
        await asyncio.gather(_pass(reader, to_proxy[1]), _pass(to_proxy[0], writer))

    return await asyncio.start_server(carry, LOOPBACK, port, ssl=near)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until an end closes; then the other closes too, as TLS has no half-close."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def _until_terminated(site: SiteCredentials, authority: Path, port: int, proxy: str) -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    server = await serve(site, authority, port, proxy)
    log.info("site gateway on %s:%d to %s", LOOPBACK, port, proxy)
    await terminated.wait()
    server.close()


if __name__ == "__main__":
    main()
