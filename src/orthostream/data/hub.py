"""Files of a repository on the Hugging Face hub, downloaded once into the hub's own cache.

They are read as any local files are; the hub's cache locks what it downloads, so that several
processes may ask at once.
"""

import glob
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from orthostream.data.errors import DataError
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from huggingface_hub import constants, list_repo_files, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Of files that are given by their paths; a name on the hub that ends so is not to be expected.
FILE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".gz", ".json", ".onnx", ".parquet", ".pt", ".pt2", ".pth", ".safetensors", ".tar", ".tgz"}
    | {".yaml", ".yml", ".zip"}
)
# The hub's client retries for a minute or more before it gives up; a person should hear within seconds.
SECONDS_TO_ANSWER = 6.0


def is_hub_id(source: str) -> bool:
    """Whether a text has the form ``owner/name`` of a hub id, and is not surely a path.

    Example:
        >>> is_hub_id("timm/imagenet-1k-wds"), is_hub_id("./imagenet"), is_hub_id("models/vit.pt")
        (True, False, False)
    """
    return HUB_ID.fullmatch(source) is not None and path_reason(source) is None


def path_reason(source: str) -> str | None:
    """Why a text is surely a path, although it has one slash as hub ids do; None where it may be a hub id.

    The hub is not asked for a mistyped path, which would take seconds and answer nothing.

    Example:
        >>> path_reason("models/vit.pt")
        "it ends in '.pt', as files do"
    """
    if source.startswith((".", "/", "~")):
        return f"it begins with {source[0]!r}, as paths do"
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in FILE_SUFFIXES:
        return f"it ends in {suffix!r}, as files do"
    first, slash, _ = source.partition("/")
    if slash and Path(first).is_dir():
        return f"there is a folder {first!r} here, which makes it a path"
    return None


def no_such_place(source: str, wanted: str) -> str:
    """Message for a text that is neither a path that is there nor a hub id.

    Args:
        source: what was given.
        wanted: what it should have been.
    """
    reason = path_reason(source)
    return (
        f"{source} does not exist, and is no hub id of the form owner/name{f', since {reason}' if reason else ''}; "
        f"expected {wanted}"
    )


def download(
    repo_id: str,
    kind: Literal["dataset", "model"] = "dataset",
    wanted: Sequence[str] | Callable[[Sequence[str]], Sequence[str]] = ("*.parquet",),
) -> tuple[Path, tuple[str, ...]]:
    """Folder with some files of a repository on the hub; where the hub does not answer, from an earlier download.

    Args:
        repo_id: ``owner/name``.
        kind: of the repository.
        wanted: patterns of the names of files, or a function that picks names out of all in the repository; what it
            raises is passed on. Where the hub does not answer, all files of the earlier download count.

    Returns:
        The folder in the hub's cache, and a note where it was used without asking the hub.

    Raises:
        DataError: within seconds where the hub does not answer and there is no copy; where the hub has no such
            repository or does not let you read it.
    """
    silence = _silence(constants.ENDPOINT, SECONDS_TO_ANSWER)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    what = "data set" if kind == "dataset" else "model"
    try:
        folder = snapshot_download(
            repo_id,
            repo_type=kind,
            allow_patterns=_patterns(repo_id, kind, wanted, can_ask=silence is None),
            local_files_only=silence is not None,
        )
    except DataError:
        raise
    except GatedRepoError as error:
        raise DataError(
            f"the hub has the {what} {repo_id!r}, but you may not read it: accept its terms at {page} and log in with: "
            "hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"there is no folder {repo_id!r} here, and no {what} of this id at {constants.ENDPOINT} that you may read"
        ) from error
    except Exception as error:
        # Its client raises classes of its own, of httpx and of requests, depending on its version.
        raise DataError(
            f"there is no folder {repo_id!r} here; as a {what} on the hub it is not in the cache "
            f"{constants.HF_HUB_CACHE}, and {constants.ENDPOINT} gave nothing ({silence or error}); "
            "give a folder with its files, or connect once"
        ) from error
    if silence is None:
        return Path(folder), ()
    return Path(folder), (f"{repo_id} comes from the hub's cache on this machine, not checked for news: {silence}",)


def _patterns(
    repo_id: str, kind: str, wanted: Sequence[str] | Callable[[Sequence[str]], Sequence[str]], *, can_ask: bool
) -> list[str] | None:
    """What is downloaded, as the hub's client takes it: patterns, in which brackets have a meaning; None for all."""
    if not callable(wanted):
        return list(wanted)
    return [glob.escape(name) for name in wanted(list_repo_files(repo_id, repo_type=kind))] if can_ask else None


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
