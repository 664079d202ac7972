"""Parquet files of a data set on the Hugging Face hub, downloaded once into the hub's own cache.

The files are read as any local parquet files are; the hub's cache locks what it downloads, so that several
processes may ask at once.
"""

import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

from orthostream.data.errors import DataError
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The hub's client retries for a minute or more before it gives up; a person should hear within seconds.
SECONDS_TO_ANSWER = 6.0


def is_hub_id(source: str) -> bool:
    """Whether a text has the form ``owner/name`` of a hub id."""
    return HUB_ID.fullmatch(source) is not None and not source.startswith(".")


def download(hub_id: str) -> tuple[Path, tuple[str, ...]]:
    """Folder with the parquet files of a data set on the hub.

    Where the hub does not answer, the copy from an earlier download is used.

    Args:
        hub_id: ``owner/name``.

    Returns:
        The folder in the hub's cache, and a note where it was used without asking the hub.

    Raises:
        DataError: within seconds where the hub does not answer and there is no copy; where the hub has no such
            data set or does not let you read it.
    """
    silence = _silence(constants.ENDPOINT, SECONDS_TO_ANSWER)
    try:
        folder = snapshot_download(
            hub_id, repo_type="dataset", allow_patterns="*.parquet", local_files_only=silence is not None
        )
    except GatedRepoError as error:
        raise DataError(
            f"the hub has {hub_id!r}, but you may not read it: accept its terms at {constants.ENDPOINT}/datasets/"
            f"{hub_id} and log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"there is no folder {hub_id!r} here, and no data set of this id at {constants.ENDPOINT} that you may read"
        ) from error
    except Exception as error:
        # Its client raises classes of its own, of httpx and of requests, depending on its version.
        raise DataError(
            f"there is no folder {hub_id!r} here; as a hub id it is not in the cache {constants.HF_HUB_CACHE}, and "
            f"{constants.ENDPOINT} gave nothing ({silence or error}); set data.source to a folder of parquet files, "
            "or connect once"
        ) from error
    if silence is None:
        return Path(folder), ()
    return Path(folder), (f"{hub_id} comes from the hub's cache on this machine, not checked for news: {silence}",)


def _silence(endpoint: str, seconds: float) -> str | None:
    """Why the hub does not answer, or None where it does. Any answer counts, errors too."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome = [f"no answer within {seconds:g} s"]

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
            outcome[0] = ""
        except urllib.error.HTTPError:
            outcome[0] = ""
        except OSError as error:
            outcome[0] = str(error)

    # In a thread, because a name server that does not answer knows no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return outcome[0] or None
