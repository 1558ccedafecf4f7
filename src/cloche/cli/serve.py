"""`cloche serve`: an endpoint for the packages of E2B, with sandboxes of this machine behind it."""

import argparse
import asyncio
import os
import secrets
import signal
import stat
import sys
from typing import Any, cast

from cloche.cli.client import report_errors
from cloche.cli.options import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche serve`."""
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="ADDRESS:PORT or unix:PATH (default: 127.0.0.1:3000; with --pod all addresses)",
    )
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="who may use it: lines KEY NAME; a name sees its own sandboxes only (default: a new key, which is shown)",
    )
    parser.add_argument(
        "--domain",
        default="",
        help="sandboxes are PORT-ID.DOMAIN, the API is api.DOMAIN (default: one address)",
    )
    parser.add_argument(
        "--tls", metavar="DIR", help="serve TLS with a certificate of an authority of its own, kept in DIR"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve TLS with this certificate (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="and its private key")
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="NAME=ROOT",
        help="what Sandbox.create(NAME) starts: a directory, or image:REF (default: base, the host's system)",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="RULE",
        help="where sandboxes may connect to, as for cloche run",
    )
    parser.add_argument("--memory", default="2g", help="of a sandbox (default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=2.0, help="of a sandbox (default: %(default)s)")
    parser.add_argument("--pids", type=int, default=1000, help="of a sandbox (default: %(default)s)")
    parser.add_argument(
        "--max-sandboxes", type=int, default=100, metavar="N", help="of a key (default: %(default)s)"
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="also be what clients with E2B_DEBUG=true look for: ports 3000, 49983, 49999 of this host, without a key",
    )

    parser.add_argument(
        "--kubernetes",
        metavar="NAMESPACE",
        help="make pods in this namespace, of the templates' images, in place of sandboxes of this machine",
    )
    parser.add_argument("--runtime-class", default="", metavar="NAME", help="of the pods (RuntimeClass)")
    parser.add_argument(
        "--pod",
        action="store_true",
        help="be what such a pod runs: one sandbox, at ports 49983 and 49999, for who has CLOCHE_POD_TOKEN",
    )


def _keys(path: str | None) -> dict[str, str]:
    """The owner of each API key. Raises UsageError."""
    if path is None:
        return {"e2b_" + secrets.token_hex(20): "default"}
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise UsageError(f"--keys {path}: others can read it; chmod 600 it")
            lines = file.read(1 << 20).splitlines()
    except OSError as error:
        raise UsageError(f"--keys {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--keys {path}: not text") from None
    found = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            continue
        if len(words) != 2 or len(words[0]) < 16:
            raise UsageError(f"--keys {path}, line {number}: a key of 16 characters or more, and a name")
        if words[0] in found:
            raise UsageError(f"--keys {path}, line {number}: the key is there twice")
        found[words[0]] = words[1]
    if not found:
        raise UsageError(f"--keys {path}: there is no key in it")
    return found


def _certificate(directory: str, domain: str, host: str) -> tuple[str, str, str]:
    """Certificate, key, and whom to believe.  Raises UsageError."""
    from cloche.serve.authority import prepare

    try:
        return prepare(directory, domain, host)
    except OSError as error:
        raise UsageError(f"--tls {directory}: {error.strerror}") from None
    except ValueError:
        raise UsageError(
            f"--tls {directory}: what is there is no authority; remove it for a new one"
        ) from None


def _pods(options: argparse.Namespace) -> Any:
    """Raises UsageError."""
    from cloche.sdk.errors import SandboxError
    from cloche.serve.pods import Pods

    try:
        return Pods(options.kubernetes, options.runtime_class, options.memory, options.cpus)
    except ImportError as missing:
        raise UsageError(
            f"{missing.name} is missing; install cloche with the extra: pip install 'cloche[kubernetes]'"
        ) from None
    except SandboxError as error:
        raise UsageError(str(error)) from None


def _run(options: argparse.Namespace) -> int:
    try:
        from hypercorn.asyncio import serve
        from hypercorn.config import Config

        from cloche.serve.app import App
        from cloche.serve.entry import Template
        from cloche.serve.registry import Registry, Settings
    except ImportError as missing:
        raise UsageError(
            f"{missing.name} is missing; install cloche with the extra: pip install 'cloche[serve]'"
        ) from None
    own = () if options.kubernetes else ("base", "code-interpreter-v1")
    templates = {name: Template(name) for name in own}
    for word in options.template:
        name, equals, given = word.partition("=")
        image = given.removeprefix("image:") if given.startswith("image:") else ""
        if options.kubernetes and not image:
            raise UsageError(f"--template {word}: with --kubernetes a pod's image: NAME=image:REF")
        if not name or not equals or not (image or os.path.isdir(given)):
            raise UsageError(f"--template {word}: NAME=ROOT, a directory or image:REF")
        templates[name] = Template(name, image=image, rootfs="" if image else os.path.abspath(given))
    if options.max_sandboxes < 1 or options.pids < 1 or options.cpus <= 0:
        raise UsageError("--max-sandboxes, --pids and --cpus: more than 0")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise UsageError("--tls-cert and --tls-key go together")
    if options.tls and options.tls_cert:
        raise UsageError("--tls makes a certificate; --tls-cert gives one")
    pod_token = os.environ.pop("CLOCHE_POD_TOKEN", "") if options.pod else ""
    if options.pod and len(pod_token) < 16:
        raise UsageError("--pod: CLOCHE_POD_TOKEN is missing, or shorter than 16 characters")
    if options.kubernetes and not templates:
        raise UsageError("--kubernetes: which images? --template base=image:REF")
    if options.kubernetes and options.allow:
        raise UsageError("--allow: where pods may connect to is said by the cluster's NetworkPolicy")
    pods = _pods(options) if options.kubernetes else None
    keys = _keys(options.keys)
    settings = Settings(
        templates=templates,
        tokens=keys,
        domain=options.domain.lower(),
        allow=tuple(options.allow),
        memory=options.memory,
        cpus=options.cpus,
        pids=options.pids,
        max_sandboxes=options.max_sandboxes,
        root=getattr(options, "root", "") or "",
        debug_owner="debug" if options.debug or options.pod else "",
        pod_token=pod_token,
    )
    options.listen = options.listen or ("0.0.0.0:0" if options.pod else "127.0.0.1:3000")
    config = Config()
    host, _, port = options.listen.rpartition(":")
    if not options.listen.startswith("unix:") and not (host and port.isdecimal() and int(port) < 1 << 16):
        raise UsageError(f"--listen {options.listen}: ADDRESS:PORT or unix:PATH")
    config.bind = [f"{host}:{each}" for each in (49983, 49999)] if options.pod else [options.listen]
    if options.debug:
        config.bind += [
            f"127.0.0.1:{each}" for each in (3000, 49983, 49999) if f"127.0.0.1:{each}" != options.listen
        ]
    config.certfile, config.keyfile = options.tls_cert, options.tls_key
    believed = ""
    if options.tls:
        config.certfile, config.keyfile, believed = _certificate(options.tls, options.domain.lower(), host)
    config.accesslog = None
    config.loglevel = "warning"
    config.graceful_timeout = 2
    # E2B's clients keep a connection for 300 s; the end of one comes from them, else they may just be writing to it.
    config.keep_alive_timeout = 330
    scheme = "https" if config.certfile else "http"

    async def main() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        if options.pod:
            print(f"listening at ports 49983 and 49999 of {host}")
        elif options.keys is None:
            print(f"E2B_API_KEY={next(iter(keys))}")
        if options.pod:
            pass
        elif options.domain:
            print(f"E2B_DOMAIN={options.domain}")
        elif not options.listen.startswith("unix:"):
            print(f"E2B_API_URL={scheme}://{options.listen}\nE2B_SANDBOX_URL={scheme}://{options.listen}")
        if believed:
            print(f"SSL_CERT_FILE={believed}")
        sys.stdout.flush()
        await serve(cast(Any, App(Registry(settings, pods))), config, shutdown_trigger=ended.wait)

    try:
        asyncio.run(main())
    except OSError as error:
        raise UsageError(f"--listen {options.listen}: {error.strerror or error}") from None
    return 0


def run(options: argparse.Namespace) -> int:
    """0 after SIGTERM or Ctrl-C; every sandbox has ended then."""
    return report_errors("serve", _run, options)
