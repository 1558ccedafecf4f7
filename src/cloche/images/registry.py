"""Registries: the client's half of the distribution specification, over urllib3.

What a registry sends is checked by its digest; only the meaning of a tag is taken on trust. Logins are sent to the
registry, and to the server that it names for tokens if that is reached by TLS (or is this machine), never to a server
to which a download is redirected. A download that breaks off is continued from there, by this process or a later one.
How long all of it may take depends on its size (`images.pace`).
"""

import base64
import json
import os
import re
import ssl
import time
import urllib.parse
import urllib.request
from typing import IO, Any, Final

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from cloche import __version__
from cloche.images.credentials import Credentials, find_credentials
from cloche.images.errors import ImageError
from cloche.images.image import Descriptor, Image, Progress, Source
from cloche.images.pace import ANSWER_S, TooSlowError, allowed_s, watch, within
from cloche.images.reference import DOCKER_HUB, Reference
from cloche.images.store import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT_BYTES, Store, digest_of

TRIES: Final = 6
_TIMEOUT: Final = urllib3.Timeout(connect=20, read=60)
_CHUNK: Final = 1 << 18
_MAX_ANSWER_BYTES: Final = 1 << 20  # of answers that are neither documents nor layers: tokens, errors
_CERTIFICATES: Final = ("/etc/docker/certs.d", "/etc/containers/certs.d")
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')
_TRANSIENT: Final = (408, 429, 500, 502, 503, 504)


def is_loopback(host: str) -> bool:
    """Whether a registry is on this machine: it may be without TLS, as for Docker."""
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", name))


def _tls(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for top in _CERTIFICATES:
        folder = os.path.join(top, host)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if name.endswith(".crt"):
                context.load_verify_locations(os.path.join(folder, name))
    return context


def _pool(url: str, host: str) -> urllib3.PoolManager:
    scheme = urllib.parse.urlsplit(url).scheme
    headers = {"User-Agent": f"cloche/{__version__}"}
    proxy = urllib.request.getproxies().get(scheme)
    pool: urllib3.PoolManager
    if proxy and not is_loopback(host) and not urllib.request.proxy_bypass(host.rpartition(":")[0] or host):
        pool = urllib3.ProxyManager(proxy, headers=headers, ssl_context=_tls(host), maxsize=8)
    else:
        pool = urllib3.PoolManager(headers=headers, ssl_context=_tls(host), maxsize=8)
    watch(pool)
    return pool


class Registry(Source):
    """One repository of a registry."""

    def __init__(self, name: Reference, *, may_push: bool = False) -> None:
        self.name: Reference = name
        self.host: str = "registry-1.docker.io" if name.host == DOCKER_HUB else name.host
        self.scope: str = f"repository:{name.path}:{'pull,push' if may_push else 'pull'}"
        self.url: str = f"https://{self.host}/v2/{name.path}"
        self.pool: urllib3.PoolManager = _pool(self.url, self.host)
        self.authorization: str = ""
        self.documents: dict[str, bytes] = {}
        if is_loopback(self.host):
            self._try_plain()

    def _try_plain(self) -> None:
        try:
            with within(ANSWER_S):
                answer = self.pool.request(
                    "GET", f"https://{self.host}/v2/", retries=False, timeout=_TIMEOUT, preload_content=False
                )
                _body(answer)
        except TooSlowError:
            raise self._too_slow() from None
        except HTTPError:
            self.url = f"http://{self.host}/v2/{self.name.path}"

    # -- requests --------------------------------------------------------------------------------------------
    def _request(self, method: str, url: str, **settings: Any) -> urllib3.BaseHTTPResponse:
        """One request, with a login if the registry wants one; nothing of the answer's body has been read.

        Raises ImageError, urllib3's errors.
        """
        headers = dict(settings.pop("headers", {}))
        for attempt in range(2):
            if self.authorization:
                headers["Authorization"] = self.authorization
            answer = self.pool.request(
                method,
                url,
                headers={**self.pool.headers, **headers},
                preload_content=False,
                decode_content=False,
                timeout=_TIMEOUT,
                retries=urllib3.Retry(0, redirect=5, raise_on_redirect=True, raise_on_status=False),
                **settings,
            )
            if answer.status != 401 or attempt:
                break
            _body(answer)
            self.authorization = self._login(answer.headers.get("WWW-Authenticate", ""))
            body = settings.get("body")
            if body is not None and hasattr(body, "seek"):
                body.seek(0)
        return answer

    def _login(self, challenge: str) -> str:
        """The header that a challenge asks for (RFC 6750, docker's token authentication).  Raises ImageError."""
        kind, _space, rest = challenge.partition(" ")
        known = find_credentials(self.name.host)
        if kind.lower() == "basic":
            if known is None or known.is_token:
                raise ImageError(f"{self.name.host} wants a login; docker login {self.name.host} makes one")
            return _basic(known)
        if kind.lower() != "bearer":
            raise ImageError(f"{self.name.host} wants a login of a kind that is not known")
        parameters = dict(_PARAMETER.findall(rest))
        realm = parameters.get("realm", "")
        parts = urllib.parse.urlsplit(realm)
        is_safe = parts.scheme == "https" or parts.scheme == "http" and is_loopback(parts.netloc)
        if not is_safe:
            raise ImageError(f"{self.name.host} sends its users to {realm[:100]!r}, which is not safe")
        fields = {"service": parameters.get("service", ""), "scope": parameters.get("scope") or self.scope}
        pool = self.pool if parts.netloc == self.host else _pool(realm, parts.netloc)
        if known is not None and known.is_token:
            fields.update(grant_type="refresh_token", client_id="cloche", refresh_token=known.secret)
            answer = pool.request(
                "POST",
                realm,
                fields=fields,
                encode_multipart=False,
                timeout=_TIMEOUT,
                redirect=False,
                preload_content=False,
            )
        else:
            headers = {"Authorization": _basic(known)} if known is not None else {}
            url = f"{realm}{'&' if parts.query else '?'}{urllib.parse.urlencode(fields)}"
            answer = pool.request(
                "GET",
                url,
                headers={**pool.headers, **headers},
                timeout=_TIMEOUT,
                redirect=False,
                preload_content=False,
            )
        said = _body(answer)
        if answer.status != 200:
            who = f"as {known.user}" if known is not None and known.user else "without a login"
            raise ImageError(f"{self.name.host} does not let you at {self.name.path} {who} ({answer.status})")
        try:
            found = json.loads(said)
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str):
            raise ImageError(f"{self.name.host} gives no token")
        return f"Bearer {token}"

    def _ask(
        self, method: str, url: str, expected: tuple[int, ...], *, is_stream: bool = False, **settings: Any
    ) -> urllib3.BaseHTTPResponse:
        """Make a request, and repeat it if that may help.

        Raises ImageError. With `is_stream` the caller reads the body; otherwise it was read already.
        """
        for attempt in range(TRIES):
            is_last = attempt == TRIES - 1
            try:
                with within(ANSWER_S):
                    answer = self._request(method, url, **settings)
                    if is_stream and answer.status in expected:
                        return answer
                    said = _body(answer)
            except TooSlowError:
                raise self._too_slow() from None
            except HTTPError as error:
                if is_last or _is_final(error):
                    raise ImageError(f"{self.name.host}: {_explain(error)}") from None
                _pause(attempt, "")
                continue
            if answer.status in expected:
                return answer
            if answer.status not in _TRANSIENT or is_last:
                raise self._refused(answer.status, said)
            _pause(attempt, answer.headers.get("Retry-After", ""))
        raise AssertionError

    def _too_slow(self) -> ImageError:
        return ImageError(f"{self.name.host} answers too slowly")

    def _refused(self, status: int, said: bytes) -> ImageError:
        if status == 404:
            return ImageError(f"{self.name.host} has no {self.name.path}:{self.name.tag or self.name.digest}")
        if status in (401, 403):
            return ImageError(f"{self.name.host} does not let you at {self.name.path}; docker login?")
        detail = ""
        try:
            detail = str(json.loads(said)["errors"][0]["message"])[:200]
        except (ValueError, LookupError, TypeError):
            pass
        shown = f": {detail}" if detail.isprintable() and detail else ""
        return ImageError(f"{self.name.host} answers {status}{shown}")

    # -- pulling ---------------------------------------------------------------------------------------------
    def resolve(self) -> str:
        """The digest of what the name stands for now.  Raises ImageError."""
        if self.name.digest:
            return self.name.digest
        data = self._manifest(self.name.tag)
        digest = digest_of(data)
        self.documents[digest] = data
        return digest

    def _manifest(self, which: str) -> bytes:
        accept = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
        return self._bounded(f"{self.url}/manifests/{which}", {"Accept": accept})

    def _bounded(self, url: str, headers: dict[str, str]) -> bytes:
        for attempt in range(TRIES):
            answer = self._ask("GET", url, (200,), headers=headers, is_stream=True)
            try:
                with within(allowed_s(MAX_DOCUMENT_BYTES)):
                    data = answer.read(MAX_DOCUMENT_BYTES + 1)
                if len(data) > MAX_DOCUMENT_BYTES:
                    raise ImageError(f"{self.name.host} sends a document that is too long")
                return data
            except TooSlowError:
                raise self._too_slow() from None
            except HTTPError as error:
                if attempt == TRIES - 1:
                    raise ImageError(f"{self.name.host}: {_explain(error)}") from None
                _pause(attempt, "")
            finally:
                answer.close()
        raise AssertionError

    def document(self, digest: str) -> bytes:
        known = self.documents.get(digest)
        if known is not None:
            return known
        # A manifest, or the configuration, which is a blob like another.
        try:
            return self._manifest(digest)
        except ImageError:
            return self._bounded(f"{self.url}/blobs/{digest}", {})

    def fetch(self, store: Store, layer: Descriptor, progress: Progress) -> None:
        with store.partial(layer.digest) as file:
            if file is None:
                progress.fetched(layer.digest, layer.size)
                return
            try:
                with within(allowed_s(layer.size)):
                    self._fetch(file, layer, progress)
            except TooSlowError:
                raise self._too_slow() from None
            store.finish_partial(file, layer.digest)

    def _fetch(self, file: IO[bytes], layer: Descriptor, progress: Progress) -> None:
        """Fetch what the file has not got, however often the connection breaks. Raises ImageError, urllib3's errors."""
        for attempt in range(TRIES):
            progress.fetched(layer.digest, file.tell() if attempt == 0 else 0)
            try:
                self._continue(file, layer, progress)
                return
            except (HTTPError, ConnectionError, TimeoutError) as error:
                if attempt == TRIES - 1 or _is_final(error):
                    raise ImageError(f"{self.name.host}: {_explain(error)}") from None
                _pause(attempt, "")

    def _continue(self, file: IO[bytes], layer: Descriptor, progress: Progress) -> None:
        """Fetch the rest of a blob, from the end of the file on.  Raises ImageError, urllib3's errors."""
        at = file.tell()
        if at > layer.size:
            file.truncate(0)
            at = file.seek(0)
        if at == layer.size:
            return
        headers = {"Range": f"bytes={at}-"} if at else {}
        answer = self._ask(
            "GET", f"{self.url}/blobs/{layer.digest}", (200, 206), headers=headers, is_stream=True
        )
        try:
            if at and not (
                answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {at}-")
            ):
                if answer.status != 200:
                    raise ImageError(f"{self.name.host} sends another part than was asked for")
                progress.fetched(layer.digest, -at)
                file.truncate(0)  # the server does not continue downloads: start again
                at = file.seek(0)
            for data in answer.stream(_CHUNK, decode_content=False):
                at += len(data)
                if at > layer.size:
                    raise ImageError(
                        f"{self.name.host} sends more than the {layer.size} bytes of {layer.digest}"
                    )
                file.write(data)
                progress.fetched(layer.digest, len(data))
        finally:
            file.flush()
            answer.close()
        if at < layer.size:
            raise ConnectionError("the connection was closed too early")

    # -- pushing ---------------------------------------------------------------------------------------------
    def push(self, image: Image, progress: Progress) -> None:
        """Upload an image; blobs that the registry has already are not sent. Raises ImageError, OSError."""
        for blob in (*image.layers, image.config_descriptor):
            progress.layer(blob.digest, blob.size)
        for blob in (*image.layers, image.config_descriptor):
            self._push_blob(image.store, blob)
            progress.fetched(blob.digest, blob.size)
            progress.done(blob.digest)
        data = image.store.document_bytes(image.digest)
        kind = image.manifest.get("mediaType", MANIFEST_TYPES[0])
        which = self.name.tag or image.digest
        self._ask("PUT", f"{self.url}/manifests/{which}", (201,), body=data, headers={"Content-Type": kind})

    def _push_blob(self, store: Store, blob: Descriptor) -> None:
        answer = self._ask("HEAD", f"{self.url}/blobs/{blob.digest}", (200, 404))
        if answer.status == 200:
            return
        started = self._ask("POST", f"{self.url}/blobs/uploads/", (202,), headers={"Content-Length": "0"})
        place = urllib.parse.urljoin(f"{self.url}/blobs/uploads/", started.headers.get("Location", ""))
        if urllib.parse.urlsplit(place).netloc != urllib.parse.urlsplit(self.url).netloc:
            raise ImageError(f"{self.name.host} wants a layer to be sent to another host")
        place += ("&" if "?" in place else "?") + urllib.parse.urlencode({"digest": blob.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        with open(store.blob_path(blob.digest), "rb") as file:
            try:
                with within(allowed_s(blob.size)):
                    answer = self._request("PUT", place, body=file, headers=headers)
                    said = _body(answer)
            except TooSlowError:
                raise self._too_slow() from None
            except HTTPError as error:
                raise ImageError(f"{self.name.host}: {_explain(error)}") from None
        if answer.status != 201:
            raise self._refused(answer.status, said)


def _body(answer: urllib3.BaseHTTPResponse) -> bytes:
    """The body of an answer, cut off at a length that no honest answer has. Raises urllib3's errors."""
    data = answer.read(_MAX_ANSWER_BYTES + 1)
    if len(data) > _MAX_ANSWER_BYTES:
        answer.close()
    else:
        answer.release_conn()
    return data[:_MAX_ANSWER_BYTES]


def _basic(known: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{known.user}:{known.secret}".encode()).decode()


def _is_final(error: Exception) -> bool:
    """Whether trying again cannot help: a certificate that is not accepted, a host name that does not exist."""
    reason = error.reason if isinstance(error, MaxRetryError) else error
    return isinstance(reason, SSLError) or "NameResolution" in type(reason).__name__


def _explain(error: Exception) -> str:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    text = str(reason).rpartition(": ")[2] or type(reason).__name__
    if "certificate verify failed" in str(reason):
        text = "its certificate is not one that this host accepts (" + text + ")"
    return text if text.isprintable() else ascii(text)


def _pause(attempt: int, wanted: str) -> None:
    seconds = min(0.25 * 2**attempt, 10.0)
    if wanted.isascii() and wanted.isdigit():
        seconds = min(int(wanted[:6]), 60)
    time.sleep(seconds)
