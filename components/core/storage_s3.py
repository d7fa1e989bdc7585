"""The store that is a prefix in a bucket of an S3 server, through the `minio` client.

Environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, else the profile `AWS_PROFILE` of
`AWS_SHARED_CREDENTIALS_FILE` (`~/.aws/credentials`); `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`; `AWS_REGION` or `AWS_DEFAULT_REGION`;
`AWS_CA_BUNDLE` or `SSL_CERT_FILE`. Proxies are not used.

An upload that was killed leaves parts that no reader sees; give the bucket a lifecycle rule that aborts incomplete multipart uploads.
"""

from __future__ import annotations

import configparser
import math
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, SSLError

from components.core.errors import DataError, ServiceError, SpecError
from components.core.secret import secret
from components.core.storage import CHUNK, Entry, Hashing, Store
from components.core.storage_sums import ASK, Arriving

CONNECT_S = 5.0
READ_S = 60.0
ATTEMPTS = 8
BACKOFF_S = 0.2
BACKOFF_MOST_S = 5.0
PART = 8 << 20
MOST_PARTS = 10_000
BUSY = frozenset({429, 500, 502, 503, 504})
SUM = "sha256"
ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
REFUSED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidTokenId",
        "AuthorizationHeaderMalformed",
        "RequestTimeTooSkewed",
    }
)


class _PatientSending:
    """Sending takes as long as reading may: urllib3 sends under the connect timeout, all 8 MiB of a part, on new and on used connections."""

    sock: Any
    timeout: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(READ_S)

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:
            self.timeout = READ_S
        super().request(*arguments, **options)  # type: ignore[misc]


class Connection(_PatientSending, HTTPConnection):
    """Plain."""


class TlsConnection(_PatientSending, HTTPSConnection):
    """Encrypted."""


class Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = Connection  # type: ignore[assignment]


class TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = TlsConnection  # type: ignore[assignment]


class PatientPool(urllib3.PoolManager):
    """HTTP with retries: exponential back-off from 0.2 s to 5 s with jitter, at most 8 attempts (about 20 s), 3 where each waits for a timeout.

    An address that never answered is given up after two attempts: it is likelier wrong than restarting. Timeouts of such an address, unknown
    names and refused certificates are not tried again. Nothing is logged: retries show no URL and no header.
    """

    met = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = super().urlopen(method, url, redirect=False, retries=False, **options)
                self.met = True
                if response.status not in BUSY or attempt == ATTEMPTS:
                    return response
                response.drain_conn()
            except (SSLError, NameResolutionError):
                raise
            except HTTPError as error:
                slow = isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(error, NewConnectionError)
                most = (3 if slow else ATTEMPTS) if self.met else (1 if slow else 2)
                if attempt >= most:
                    raise
            pause(attempt)
        raise AssertionError("unreachable")


def pause(attempt: int) -> None:
    """Sleep before the attempt after number `attempt`; half of the time is drawn, so that clients do not come back together."""
    time.sleep(min(BACKOFF_MOST_S, BACKOFF_S * 2 ** (attempt - 1)) * (0.5 + 0.5 * random.random()))


class S3Store(Store):
    """A prefix in a bucket. The bucket must exist."""

    def __init__(self, client: Minio, bucket: str, prefix: str, endpoint: str) -> None:
        self._client, self.bucket, self.prefix, self.endpoint = client, bucket, prefix, endpoint
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket_seen = False

    @classmethod
    def from_environment(cls, uri: str) -> S3Store:
        """`uri` is `s3://bucket` or `s3://bucket/prefix`."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
            raise SpecError("not a bucket's name", where="DXFLOW_STORE", allowed="s3://bucket/prefix; 3-63 of a-z, 0-9, '.', '-'")
        given = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
        url = urlsplit(os.environ[given] if given else "https://s3.amazonaws.com")
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.scheme not in ("http", "https") or not url.hostname or port == -1 or url.username or url.path.strip("/") or url.query:
            raise ServiceError("not an S3 endpoint", where=given, allowed="http://host:port or https://host:port, nothing more")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if given else None)
        key, secret, token = _credentials()
        pool = PatientPool(timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S), maxsize=16, cert_reqs="CERT_REQUIRED", ca_certs=_ca_file())
        secure = url.scheme == "https"
        client = Minio(url.netloc, access_key=key, secret_key=secret, session_token=token, secure=secure, region=region, http_client=pool)
        return cls(client, bucket, prefix.strip("/"), url.netloc)

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, local: Path, key: str, sha256: str) -> None:
        size, name = local.stat().st_size, self._name(key)
        part = max(PART, math.ceil(size / MOST_PARTS / CHUNK) * CHUNK)
        with self._plain(key):
            try:
                with open(local, "rb") as source:
                    self._client.put_object(self.bucket, name, source, size, metadata={SUM: sha256}, part_size=part)
            except S3Error as error:
                # The answer to "complete" may be lost and the request be sent again; then the upload is gone because it is complete.
                if error.code != "NoSuchUpload" or self._stored_sum(name) != sha256:
                    raise
            except OSError as error:
                raise DataError("file changed or could not be read while it was stored", where=str(local), got=error.strerror) from None

    def _read(self, key: str, sink: Hashing) -> tuple[str, ...]:
        name = self._name(key)
        done, tag, attempt = 0, "", 0
        arriving: Arriving | None = None
        with self._plain(key):
            while True:
                attempt += 1
                response = self._client.get_object(self.bucket, name, offset=done, request_headers={"If-Match": tag} if tag else {**ASK})
                try:
                    headers = response.headers
                    tag = headers.get("ETag", "")
                    if not headers.get("Content-Length", "").isdigit():
                        raise ServiceError("the store does not say how long an object is", where=self._uri(key))
                    total = done + int(headers["Content-Length"])
                    arriving = arriving or Arriving(headers)
                    for block in response.stream(CHUNK):
                        arriving.update(block)
                        sink.write(block)
                        done += len(block)
                        attempt = 0  # what counts is attempts without a byte
                    if done == total:
                        if not arriving.holds():
                            raise DataError("an object arrived with another checksum than the store says", where=self._uri(key))
                        return tuple(filter(None, (headers.get(f"x-amz-meta-{SUM}"),)))
                except HTTPError:  # cut in the middle: go on from there
                    pass
                finally:
                    response.close()
                    response.release_conn()
                if attempt >= ATTEMPTS:
                    raise ServiceError("the store breaks off before the end of an object", where=self._uri(key))
                pause(attempt + 1)

    def _list(self, prefix: str) -> Iterator[Entry]:
        base = f"{self.prefix}/" if self.prefix else ""
        found = iter(self._client.list_objects(self.bucket, prefix=base + prefix, recursive=True))
        while True:
            with self._plain(prefix):
                item = next(found, None)
            if item is None:
                return
            yield Entry(str(item.object_name).removeprefix(base), int(item.size or 0), str(item.etag or "").strip('"'))

    def _holds(self, key: str) -> bool:
        with self._plain(key):
            return self._stored_sum(self._name(key)) is not None

    def _delete(self, key: str) -> None:
        with self._plain(key):
            self._client.remove_object(self.bucket, self._name(key))

    def _stored_sum(self, name: str) -> str | None:
        """The checksum in an object's metadata ("" without one), or None without the object."""
        try:
            headers: Any = self._client.stat_object(self.bucket, name).metadata or {}
        except S3Error as error:
            if error.code not in ABSENT:
                raise
            if not self._bucket_seen:  # a HEAD has no body: an absent bucket looks like an absent object
                if not self._client.bucket_exists(self.bucket):
                    raise self._no_bucket() from None
                self._bucket_seen = True
            return None
        return headers.get(f"x-amz-meta-{SUM}", "")

    def _no_bucket(self) -> ServiceError:
        return ServiceError("no such bucket", where=f"s3://{self.bucket}", got=f"server {self.endpoint}")

    @contextmanager
    def _plain(self, key: str) -> Iterator[None]:
        """Whatever the client raises, as one line without secrets: the code of the server's answer, never its text or its headers."""
        where = self._uri(key)
        try:
            yield
        except S3Error as error:
            code = str(error.code)
            if code in ABSENT:
                raise DataError("no such object in the store", where=where) from None
            if code == "NoSuchBucket":
                raise self._no_bucket() from None
            if code == "PreconditionFailed":
                raise DataError("object was replaced while it was read; read it again", where=where) from None
            if code in REFUSED:
                raise ServiceError("the store refuses these credentials", where=where, got=f"{code} from {self.endpoint}") from None
            raise ServiceError("the store refuses", where=where, got=f"{code} from {self.endpoint}") from None
        except MinioException:
            raise ServiceError("no S3 server at this address", where=self.endpoint, got="an answer that is not S3") from None
        except SSLError:
            raise ServiceError(
                "the server's certificate is not trusted", where=self.endpoint, allowed="one signed by an authority in AWS_CA_BUNDLE or SSL_CERT_FILE"
            ) from None
        except NameResolutionError:
            raise ServiceError("no such host", where=self.endpoint) from None
        except HTTPError as error:
            raise ServiceError("no answer from the store", where=self.endpoint, got=type(error).__name__) from None


def _credentials() -> tuple[str, str, str | None]:
    """Access key, secret key, session token. Raises ServiceError without them, naming places but no values."""
    key, hidden = secret("AWS_ACCESS_KEY_ID"), secret("AWS_SECRET_ACCESS_KEY")
    if key and hidden:
        return key, hidden, secret("AWS_SESSION_TOKEN")
    path = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        raise ServiceError("credentials file cannot be read", where=str(path)) from None
    if parser.has_section(profile):
        held = parser[profile]
        if held.get("aws_access_key_id") and held.get("aws_secret_access_key"):
            return held["aws_access_key_id"], held["aws_secret_access_key"], held.get("aws_session_token")
    raise ServiceError(
        "no credentials for the store", where="s3", allowed=f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile '{profile}' in {path}"
    )


def _ca_file() -> str:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        path = os.environ.get(name)
        if path and not Path(path).is_file():
            raise ServiceError("no such certificate file", where=name, got=path)
        if path:
            return path
    import certifi

    return certifi.where()
