"""The sets of landmarks, called topologies, that one network predicts, each chosen by its name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """One set of K' landmarks of a network with K.

    Attributes:
        landmarks: indices of its landmarks among those of the network, in its own order; None for all of them.
        landmark_names: K' names, or None.
        flip_pairs: pairs of indices below K' that change places in a mirrored face, or None where they are not known.
        normalizer: name of the distance that its errors are divided by, or None.
    """

    landmarks: list[int] | None
    landmark_names: list[str] | None
    flip_pairs: list[list[int]] | None
    normalizer: str | None = None


def find_topology(config, name: str | None) -> Topology:
    """The topology of an `MTLDConfig` by its name; for None all landmarks of the network.

    Raises:
        ValueError: if the network has none of this name.
    """
    if name is None:
        return Topology(None, config.landmark_names, config.flip_pairs)
    known = config.topologies or {}
    if name not in known:
        has = f"one of {', '.join(known)}" if known else "None for a network with one topology"
        raise ValueError(f"topology must be {has}, but got {name!r}")
    return Topology(**known[name])


def check_topologies(config):
    """Raises a ValueError that names the topology of `config` that cannot be."""
    if config.topologies is None:
        return
    if not isinstance(config.topologies, dict) or not config.topologies:
        raise ValueError(f"topologies must be None or map names to topologies, but got {config.topologies!r}")
    for name, values in config.topologies.items():
        try:
            topology = Topology(**values)
        except TypeError as error:
            raise ValueError(f"topologies must hold the fields of a Topology, but got {name!r}: {error}") from None
        check_indices(f"landmarks of topology {name!r}", topology.landmarks, config.num_landmarks)
        check_landmarks(topology, len(topology.landmarks), f" of topology {name!r}")


def check_indices(name: str, indices, count: int):
    """Raises ValueError unless `indices` is a list of different whole numbers below `count`."""
    is_list = isinstance(indices, list | tuple) and len(indices) > 0
    if not is_list or not all(type(index) is int and 0 <= index < count for index in indices):
        raise ValueError(f"{name} must be indices below {count}, but got {indices!r}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"{name} must hold each landmark once, but got {indices}")


def check_landmarks(owner, count: int, of: str = ""):
    """Raises ValueError unless `landmark_names` and `flip_pairs` of `owner`, a Topology or an `MTLDConfig`, are those
    of `count` landmarks. `of` says in the message whose they are."""
    for name in ("landmark_names", "flip_pairs"):
        value = getattr(owner, name)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"{name}{of} must be a list or None, but got {value!r}")
    if owner.landmark_names is not None and len(owner.landmark_names) != count:
        raise ValueError(
            f"landmark_names{of} must hold {count} names, one a landmark, but got {len(owner.landmark_names)}; for "
            "other landmarks than a checkpoint's, give landmark_names and flip_pairs too, which may be None"
        )
    for pair in owner.flip_pairs or []:
        numbers = pair if isinstance(pair, list | tuple) else [pair]
        if len(numbers) != 2 or not all(type(index) is int and 0 <= index < count for index in numbers):
            raise ValueError(f"flip_pairs{of} must be pairs of indices below {count}, but got {pair}")
    paired = [index for pair in owner.flip_pairs or [] for index in pair]
    if len(set(paired)) < len(paired):
        raise ValueError(f"flip_pairs{of} must hold each landmark once, but got {owner.flip_pairs}")
