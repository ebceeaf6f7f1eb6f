"""Objects of S3, and of whatever speaks its protocol, by botocore: credentials, regions, signatures are its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from mpack.connections import Connection
from mpack.errors import InputError
from mpack.stores import faults
from mpack.stores.listing import found, of_type, revealed
from mpack.stores.model import Body, Bounds, Broken, Remote, RemoteFile
from mpack.stores.sums import told

_HINT = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or name a connection."
_GONE = {"NoSuchKey", "404", "NoSuchVersion"}
_DENIED = {
    *("AccessDenied", "403", "401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("AllAccessDisabled", "AuthorizationHeaderMalformed", "InvalidClientTokenId", "RequestExpired", "Forbidden"),
}
_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "500", "502", "503", "504"}


def locate(location: str, bounds: Bounds, connection: Connection | None = None) -> Remote:
    """The object or the objects at s3://BUCKET/KEY; `?versionId=` names one of an object's versions.

    Raises InputError artifact-missing or artifact-too-large, EnvironmentFault artifact-denied, download-failed or
    tool-missing.
    """
    place, _, version = location.partition("?versionId=")
    bucket, _, key = place[len("s3://") :].partition("/")
    if not bucket or not set(bucket) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"):
        raise InputError("artifact-missing", "The address names no bucket.", "Write s3://BUCKET/KEY.")
    client = _client(of_type(connection, "s3", place), place)
    store = S3Store(client, bucket, place)
    return found(
        location,
        key,
        bounds,
        one=lambda: store.head(key, version),
        below=store.below,
        store=store,
        identity=f"s3 {client.meta.endpoint_url} {bucket}",
    )


class S3Store:
    """A bucket. An object's version is its ETag, with the id of its version where the bucket keeps several."""

    def __init__(self, client: Any, bucket: str, uri: str) -> None:
        self._client = client
        self._bucket = bucket
        self._uri = uri

    def head(self, key: str, version: str) -> RemoteFile | None:
        """The object of that name, or None."""
        wanted = {"VersionId": version} if version else {}
        try:
            with _faults(self._uri):
                answer = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED", **wanted)
        except _Gone:
            return None
        whole = answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        names = {"sha256": "ChecksumSHA256", "crc32": "ChecksumCRC32", "crc32c": "ChecksumCRC32C"}
        sums = told(**{name: answer.get(field) for name, field in names.items()}) if whole else {}
        tag = _version(answer["ETag"], answer.get("VersionId"))
        return RemoteFile(key.rpartition("/")[2], key, answer["ContentLength"], tag, sums)

    def below(self, prefix: str) -> Iterator[RemoteFile]:
        """All objects with the prefix."""
        more: dict[str, str] = {}
        while True:
            try:
                with _faults(self._uri):
                    page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, EncodingType="url", **more)
            except _Gone:
                return
            for item in page.get("Contents", ()):
                key = unquote(item["Key"])
                yield RemoteFile(key, key, item["Size"], _version(item["ETag"], None))
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    @contextmanager
    def open(self, file: RemoteFile, start: int) -> Iterator[Body]:
        """As `Store.open`."""
        tag, _, version = file.version.partition(" ")
        wanted = {"VersionId": version} if version else {}
        if start:
            wanted["Range"] = f"bytes={start}-"
        try:
            with _faults(self._uri):
                answer = self._client.get_object(Bucket=self._bucket, Key=file.key, IfMatch=tag, **wanted)
        except _Gone:
            raise faults.changed(self._uri) from None
        body = answer["Body"]
        try:
            yield Body(self._blocks(body), start if "ContentRange" in answer else 0)
        finally:
            body.close()

    def _blocks(self, body: Any) -> Iterator[bytes]:
        while True:
            with _faults(self._uri):
                block = body.read(1 << 18)
            if not block:
                return
            yield block


class _Gone(Exception):
    """No such object."""


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Turns botocore's errors, and urllib3's that it lets through, into ours."""
    import urllib3.exceptions
    from botocore import exceptions as aws

    try:
        yield
    except aws.ClientError as error:
        _judge(error, uri)
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError) as error:
        raise faults.denied(uri, f"there are no credentials for it ({type(error).__name__})", _HINT) from None
    except (aws.ProfileNotFound, aws.NoRegionError, aws.TokenRetrievalError, aws.SSOError) as error:
        raise faults.denied(uri, str(error), _HINT) from None
    except aws.SSLError as error:
        hint = "Name the CA bundle in AWS_CA_BUNDLE."
        raise faults.failed(uri, f"TLS failed ({_cause(error)})", hint) from None
    except aws.EndpointConnectionError as error:
        cause = _cause(error)
        if "resolve" in cause or "Name or service" in cause or "resolution" in cause:
            raise faults.failed(uri, cause, "Check region and AWS_ENDPOINT_URL.") from None
        raise Broken(cause) from None
    except aws.HTTPClientError as error:
        raise Broken(_cause(error)) from None
    except aws.IncompleteReadError:
        raise Broken("the connection ended early") from None
    except aws.BotoCoreError as error:
        raise faults.failed(uri, f"{type(error).__name__}: {error}") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Broken(f"the connection broke ({type(error).__name__})") from None


def _judge(error: Any, uri: str) -> None:
    answer = error.response.get("Error", {})
    code, status = str(answer.get("Code", "")), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        raise faults.missing(uri, "there is no such bucket", "Check the bucket, its region and AWS_ENDPOINT_URL.")
    if code in _GONE or status == 404:
        raise _Gone
    if code in _DENIED or status in (401, 403):
        raise faults.denied(uri, f"the store answers {code or status}", _HINT) from None
    if code in ("PreconditionFailed", "InvalidRange") or status in (412, 416):
        raise faults.changed(uri) from None
    if code in _BUSY or status >= 500:
        raise Broken(f"the store answers {code or status}")
    raise faults.failed(uri, f"the store answers {code or status}") from None


def _cause(error: Any) -> str:
    """Why, without addresses: they may be signed."""
    inner = error.kwargs.get("error")
    reason = getattr(inner, "reason", inner)
    text = str(reason if reason is not None else type(error).__name__)
    return text.rpartition(">: ")[2].split("http")[0].strip() or type(error).__name__


def _version(tag: str, version: str | None) -> str:
    return f"{tag} {version}" if version and version != "null" else tag


def _client(connection: Connection | None, uri: str) -> Any:
    try:
        import botocore.session
        from botocore.config import Config
    except ImportError as error:
        raise faults.no_tool("s3", "s3", error) from None
    session = botocore.session.Session()
    config = Config(
        connect_timeout=15,
        read_timeout=30,
        max_pool_connections=16,
        retries={"total_max_attempts": 2, "mode": "standard"},
        response_checksum_validation="when_required",
    )
    keys: dict[str, str | None] = {}
    with _faults(uri):
        if connection is not None:
            keys = _keys(session, connection)
        client = session.create_client("s3", config=config, **keys)
        if client._request_signer._credentials is None:
            raise faults.denied(uri, "there are no credentials for it", _HINT)
    return client


def _keys(session: Any, connection: Connection) -> dict[str, str | None]:
    """What the connection says of keys, region and endpoint; with a role, keys of that role for an hour."""
    parts = urlsplit(connection.uri)
    endpoint = f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else None
    region = connection.region or None
    keys = {
        "aws_access_key_id": revealed(connection.key_id),
        "aws_secret_access_key": revealed(connection.key_secret),
    }
    if connection.role:
        sts = session.create_client("sts", region_name=region, **keys)
        given = sts.assume_role(RoleArn=connection.role, RoleSessionName="mpack")["Credentials"]
        keys = {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }
    return {**keys, "region_name": region, "endpoint_url": endpoint}
