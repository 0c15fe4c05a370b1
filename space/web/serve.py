"""`python space/web/serve.py [PORT]`: the page on this machine, with the headers that the Hub sends for it.

Browsers let WebAssembly use threads only with these headers.
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class PageHandler(SimpleHTTPRequestHandler):
    """Files of the page's folder with `HEADERS`."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()


def serve(port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, to start with `serve_forever`; 0 is any free port."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(PageHandler, directory=Path(__file__).parent))


if __name__ == "__main__":
    server = serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
