"""A small S3 client for the gateway: what fills buckets and looks into them past the mounts.

AWS signature version 2: the gateway takes it, and it is ten lines. One connection a client.
"""

import base64
import hashlib
import hmac
import http.client
import re
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from html import unescape
from typing import Final

from benchmarks.content import share_of
from benchmarks.processes import PeerError

LIST_COUNT_MAX: Final = 1000  # S3 gives no more at once
THREAD_COUNT: Final = 4
XATTR_HEADER: Final = "x-amz-meta-xattr"  # where s3fs keeps them


@dataclass(frozen=True)
class Gateway:
    """Where it listens, and the one user's keys."""

    port: int
    access_key: str = "radosmount"
    secret_key: str = "benchmark"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class S3Client:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)

    def request(
        self, method: str, path: str, query: str = "", body: bytes = b""
    ) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of the answer. Raises: PeerError."""
        date = formatdate(usegmt=True)
        signed = "\n".join([method, "", "", date, path])
        secret = self._gateway.secret_key.encode()
        digest = hmac.new(secret, signed.encode(), hashlib.sha1).digest()
        word = f"AWS {self._gateway.access_key}:{base64.b64encode(digest).decode()}"
        headers = {"Date": date, "Authorization": word}
        self._connection.request(method, path + query, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise PeerError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content, {key.lower(): value for key, value in answer.getheaders()}

    def close(self) -> None:
        self._connection.close()


class BucketPast:
    """A bucket, seen through the gateway's S3 interface."""

    def __init__(self, gateway: Gateway, bucket: str) -> None:
        self._gateway = gateway
        self._bucket = bucket
        self._client = S3Client(gateway)

    def _path(self, name: str) -> str:
        return f"/{self._bucket}/{urllib.parse.quote(name)}"

    def names(self) -> list[str]:
        names: list[str] = []
        while True:
            after = urllib.parse.quote(names[-1]) if names else ""
            query = f"?max-keys={LIST_COUNT_MAX}&marker={after}"
            page, _ = self._client.request("GET", f"/{self._bucket}/", query)
            found = re.findall(r"<Key>(.*?)</Key>", page.decode(), re.DOTALL)
            names += [unescape(name) for name in found]
            if "<IsTruncated>true" not in page.decode():
                return names

    def read(self, name: str) -> bytes:
        return self._client.request("GET", self._path(name))[0]

    def xattr(self, name: str, key: str) -> bytes:
        """As s3fs keeps it: JSON of base64 values, URL-quoted, in one header."""
        _, headers = self._client.request("HEAD", self._path(name))
        stored = urllib.parse.unquote(headers.get(XATTR_HEADER, ""))
        match = re.search(rf'"user\.{key}":"([^"]*)"', stored)
        return base64.b64decode(match[1]) if match else b""

    def put(self, files: Mapping[str, bytes]) -> None:
        self._request_all("PUT", files)

    def clear(self) -> None:
        self._request_all("DELETE", dict.fromkeys(self.names(), b""))

    def _request_all(self, method: str, bodies: Mapping[str, bytes]) -> None:
        """One request for each name, by several connections at once."""
        shares = [share_of(list(bodies), number, THREAD_COUNT) for number in range(THREAD_COUNT)]
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(lambda share: self._request_share(method, share, bodies), shares))

    def _request_share(self, method: str, names: list[str], bodies: Mapping[str, bytes]) -> None:
        client = S3Client(self._gateway)
        for name in names:
            client.request(method, self._path(name), body=bodies[name])
        client.close()

    def close(self) -> None:
        self._client.close()
