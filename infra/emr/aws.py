"""Clients of AWS, and its errors as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import boto3
import botocore.session
from botocore.config import Config as ClientConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from lensdata.config.emr import EmrConfig
from lensdata.errors import InputError

# "standard" repeats throttling, 5xx and broken connections with jittered backoff, inside one client's budget
PATIENT = ClientConfig(
    retries={"mode": "standard", "total_max_attempts": 6},
    connect_timeout=10,
    read_timeout=60,
)
# starting a cluster twice costs twice: whether a lost answer started one is looked up, not guessed (`watch.start`)
ONCE = ClientConfig(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=10, read_timeout=60)
# the machine has no credentials, or what it logged in with has expired (`aws sso login`): waiting does not help
NOT_LOGGED_IN = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
    SSOError,
    LoginError,
    NoAuthTokenError,
)
EXPIRED = {"ExpiredTokenException", "ExpiredToken", "RequestExpired", "TokenRefreshRequired"}
REFUSED = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"}
THROTTLED = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"}


@dataclass(frozen=True)
class Clients:
    """One client per service, in the configured region; ``AWS_ENDPOINT_URL_…`` variables point them elsewhere."""

    emr: Any
    emr_once: Any
    s3: Any
    sts: Any
    iam: Any
    ec2: Any
    quotas: Any


def connect(config: EmrConfig) -> Clients:
    """Clients with the usual credentials of the environment; nothing is asked yet."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    session = boto3.session.Session(botocore_session=core, region_name=config.region)
    one = {name: session.client(name, config=PATIENT) for name in ("emr", "s3", "sts", "ec2")}
    # what these tell is good to know where it can be read; nobody waits for it
    more = {
        name: session.client(service, config=ONCE) for name, service in (("iam", "iam"), ("quotas", "service-quotas"))
    }
    return Clients(**one, **more, emr_once=session.client("emr", config=ONCE))


@lru_cache(maxsize=1)
def _loader() -> Any:
    """Descriptions of the services, read once per process: they are megabytes of JSON."""
    return botocore.session.get_session().get_component("data_loader")


def code_of(error: ClientError) -> str:
    """AWS's own word for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def sentences(doing: str) -> Iterator[None]:
    """Turn an error of AWS into one sentence of what to do.

    Raises
    ------
    InputError
        In place of any botocore error.
    """
    try:
        yield
    except NOT_LOGGED_IN as error:
        raise InputError(
            f"AWS credentials are missing or expired while {doing} ({one_line(error)}); log in (aws sso login, AWS_PROFILE, "
            "a role) and run the same command: a cluster that was started goes on meanwhile and ends by itself."
        ) from error
    except ClientError as error:
        code, said = code_of(error), one_line(error.response.get("Error", {}).get("Message", ""))
        if code in EXPIRED:
            raise InputError(
                f"AWS credentials expired while {doing}; log in again and run the same command: a cluster that was started "
                "goes on meanwhile and ends by itself."
            ) from error
        if code in REFUSED:
            raise InputError(f"AWS does not accept these credentials ({code}, while {doing}): {said}.") from error
        if code in DENIED:
            raise InputError(
                f"AWS refused permission while {doing}: {said}. The launcher's policy is in infra/emr/stack.yaml."
            ) from error
        hint = "; an answer without a reason often means expired credentials: log in again" if code == "400" else ""
        raise InputError(f"AWS answered {code} while {doing}: {said}{hint}") from error
    except BotoCoreError as error:
        raise InputError(f"AWS does not answer while {doing}: {one_line(error)}") from error


def one_line(said: object) -> str:
    """What a client said, without its line breaks."""
    return " ".join(str(said).split())


def error_behind(error: BaseException) -> BaseException | None:
    """The error of AWS's client that an error of s3fs stands for, or that it is itself; None where it is of something else."""
    if isinstance(error, (ClientError, BotoCoreError)):
        return error
    behind = error.__cause__ or error.__context__
    return behind if isinstance(error, OSError) and isinstance(behind, (ClientError, BotoCoreError)) else None
