"""Which connection stands at which site of a trunk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from orthostream.connections.base import Connection, Site
from orthostream.errors import UsageError

# A name; a name with options; a function of the site; an instance made by `create`; or a table of
# glob patterns over site names with an optional "default".
Choice: TypeAlias = str | tuple[str, Mapping[str, Any]] | Connection | Callable[[Site], Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Wiring:
    """The connections of one trunk, each made for its place.

    Args:
        begin: asked to ``expand``, at the root of the model.
        at: one connection a site name, asked to ``read`` and ``write``.
        end: asked to ``reduce``, at the root of the model.
    """

    begin: Connection
    at: dict[str, Connection]
    end: Connection


def wire(choice: Choice, sites: Sequence[Site], create: Callable[..., Connection]) -> Wiring:
    """Make a connection for every site, and the two ends of the trunk.

    Args:
        choice: one for all sites, or a table ``{pattern: choice, "default": choice}`` over site names, where
            the first pattern that matches wins.
        sites: all sites of the trunk, in order.
        create: makes a connection from its name, the site and its options.

    Returns:
        The wiring; an instance given as choice is made anew at each site by its name and options.

    Raises:
        UsageError: for a pattern that matches no site, a site that no pattern matches, rules whose streams differ
            in kind, no site at all, or two of one name.
    """
    if not sites or len({site.name for site in sites}) < len(sites):
        raise UsageError(f"a trunk has one site or more, each with its own name, got {[site.name for site in sites]}")
    made = {
        site.name: _make(_resolve(choice, site), replace(site, verbs=frozenset({"read", "write"})), create)
        for site in sites
    }
    _refuse_idle_patterns(choice, sites)
    _refuse_mixed_layouts(made)
    first, last = sites[0], sites[-1]
    begin = _make(_resolve(choice, first), replace(first, name="begin", verbs=frozenset({"expand"})), create)
    end = _make(_resolve(choice, last), replace(last, name="end", verbs=frozenset({"reduce"})), create)
    return Wiring(begin, made, end)


def only_blocks(choice: Choice, blocks: Sequence[int], otherwise: Choice = "linear") -> Callable[[Site], Any]:
    """A choice for the listed blocks of a trunk, and another one for the rest.

    Args:
        choice: for all sites of the listed blocks.
        blocks: indices of blocks, in the order of the network, counted from 0.
        otherwise: for all other sites.

    Returns:
        A choice for :func:`wire`: a function of the site.

    Raises:
        UsageError: for an empty list; for an index that the trunk does not have, once its number of blocks is known.

    Example:
        >>> choose = only_blocks("orthogonal", [0, 2])
        >>> [choose(Site(block=block, blocks=3)) for block in range(3)]
        ['orthogonal', 'linear', 'orthogonal']
    """
    listed = frozenset(blocks)
    if not listed:
        raise UsageError("the list of blocks is empty; name one block or more, or choose the other rule for all")

    def choose(site: Site) -> Any:
        outside = sorted(block for block in listed if not 0 <= block < site.blocks)
        if outside:
            raise UsageError(
                f"blocks {outside} do not exist: this model has {site.blocks}, counted from 0 to {site.blocks - 1}"
            )
        return _resolve(choice if site.block in listed else otherwise, site)

    return choose


def _resolve(choice: Any, site: Site) -> Any:
    """Follow tables and functions until a name, a name with options, or an instance remains."""
    if isinstance(choice, Connection | str | tuple):
        return choice
    if isinstance(choice, Mapping):
        for pattern, chosen in choice.items():
            if pattern != "default" and fnmatchcase(site.name, pattern):
                return _resolve(chosen, site)
        if "default" in choice:
            return _resolve(choice["default"], site)
        raise UsageError(f"no pattern of the connection table matches site {site.name!r}; add a 'default' entry")
    if callable(choice):
        return _resolve(choice(site), site)
    raise UsageError(
        f"a connection is given as a name, (name, options), a function of the site, an instance or a table of "
        f"patterns, got {type(choice).__name__}"
    )


def _make(choice: Any, site: Site, create: Callable[..., Connection]) -> Connection:
    if isinstance(choice, str):
        return create(choice, site=site)
    if isinstance(choice, tuple):
        if len(choice) != 2 or not isinstance(choice[0], str) or not isinstance(choice[1], Mapping):
            raise UsageError(f"a connection with options is given as (name, {{option: value}}), got {choice!r}")
        name, options = choice
        return create(name, site=site, **options)
    if choice.spec is None:
        raise UsageError(
            f"an instance of {type(choice).__name__} cannot be placed at several sites, because its options "
            "are not known; make it with connections.create, or pass a function of the site"
        )
    name, options = choice.spec
    return create(name, site=site, **options)


def _refuse_mixed_layouts(made: Mapping[str, Connection]) -> None:
    at_first, first = next(iter(made.items()))
    for name, connection in made.items():
        if connection.layout != first.layout:
            raise UsageError(
                f"all sites of a trunk must carry the same kind of stream, but {at_first} carries {first.layout} and "
                f"{name} carries {connection.layout}; choose rules of one kind for all sites"
            )


def _refuse_idle_patterns(choice: Any, sites: Sequence[Site]) -> None:
    if not isinstance(choice, Mapping):
        return
    for pattern in choice:
        if pattern != "default" and not any(fnmatchcase(site.name, pattern) for site in sites):
            shown = ", ".join(site.name for site in sites[:4])
            raise UsageError(f"pattern {pattern!r} matches no site; sites are named {shown}, ...")
