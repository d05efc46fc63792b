"""What a failed request means: try again, mend the configuration, or nothing at all."""

import html
from collections.abc import Iterator
from contextlib import contextmanager

import pycurl
from ganeti.rapi.client import CertificateError, Error, GanetiApiError

from proj.backend import BackendError, Misconfigured, SaysNothing, TryAgain
from proj.ganeti.client import ANOTHER_HOST
from proj.ganeti.values import printable

FORBIDDEN = 403
NOT_FOUND = 404
NOT_IMPLEMENTED = 501

_CERTIFICATE = frozenset(
    {pycurl.E_SSL_CACERT, pycurl.E_SSL_CACERT_BADFILE, pycurl.E_PEER_FAILED_VERIFICATION}
)
_REFUSED = {
    400: "refuses the request as malformed",
    401: "refuses user or password",
    403: "does not let this user read: give it the option read in its users file,"
    " or write before Ganeti 2.7",
}


MALFORMED = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError,
)  # fmt: skip
"""What the client, or we, raise over an answer of an unknown shape."""


@contextmanager
def sorted_errors(cluster: str, where: str) -> Iterator[None]:
    """Turn whatever the official client raises into one of the backend's errors.

    Args:
        cluster: the cluster's name, for the message.
        where: host and port.
    """
    try:
        yield
    except CertificateError as error:
        raise _wrong_certificate(error, cluster, where) from error
    except GanetiApiError as error:
        raise _sorted(error, cluster, where) from error
    except Error as error:
        raise Misconfigured(f"{cluster}: {error}") from error
    except MALFORMED as error:
        raise SaysNothing(f"{cluster}: the answer of {where} cannot be read") from error


def _sorted(error: GanetiApiError, cluster: str, where: str) -> BackendError:
    code = error.code or 0
    if code in _CERTIFICATE:
        return _wrong_certificate(error, cluster, where)
    if code == pycurl.E_COULDNT_RESOLVE_HOST:
        return TryAgain(f"{cluster}: the host of {where} is not known: check --host and the DNS")
    if code == pycurl.E_COULDNT_CONNECT:
        return TryAgain(f"{cluster}: nothing listens at {where}: is RAPI running on the master?")
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return TryAgain(f"{cluster}: {where} accepts but does not answer in time")
    if code < 100:
        return TryAgain(f"{cluster}: the connection to {where} broke: {_text(error)}")
    if code in _REFUSED:
        return Misconfigured(f"{cluster}: {where} {_REFUSED[code]} (HTTP {code})")
    return TryAgain(f"{cluster}: {where} failed with HTTP {code}: {_text(error)}")


def _wrong_certificate(error: Error, cluster: str, where: str) -> Misconfigured:
    if ANOTHER_HOST in str(error):
        return Misconfigured(
            f"{cluster}: the certificate of {where} is for another host:"
            " add the cluster again with the --host that it names"
        )
    return Misconfigured(
        f"{cluster}: {where} shows another certificate than the pinned one:"
        " compare it with rapi.pem on the master and add the cluster again with --ca-file"
    )


def _text(error: GanetiApiError) -> str:
    return printable(html.unescape(str(error))) or "no reason given"
