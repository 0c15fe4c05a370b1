"""The landmarks of one network for several data sets: those that sets share, and the indices of each set's."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from dataset_scripts.benchmark_facts import Benchmark
from modeling_mtld.configuration_mtld import Topology, find_topology, flip_order


@dataclass
class JointLandmarks:
    """All landmarks of a network, and the topologies that consist of them.

    Attributes:
        names: of the network's landmarks. Landmarks that a later set adds have its name as a prefix.
        partners: for each landmark the index of its flip partner; its own index if it has none.
        topologies: by the name of the first set with these landmarks.
    """

    names: list[str] = field(default_factory=list)
    partners: list[int] = field(default_factory=list)
    topologies: dict[str, Topology] = field(default_factory=dict)

    @property
    def flip_pairs(self) -> list[list[int]]:
        return [[index, other] for index, other in enumerate(self.partners) if index < other]

    @property
    def config_fields(self) -> dict:
        """Fields of `MTLDConfig`."""
        first, *others = self.topologies.values()
        return {
            "num_landmarks": len(self.names),
            "landmark_names": self.names,
            "flip_pairs": self.flip_pairs if others else first.flip_pairs,
            "topologies": {name: asdict(one) for name, one in self.topologies.items()} if others else None,
            "default_topology": next(iter(self.topologies)) if others else None,
        }


def join_landmarks(benchmarks: Iterable[Benchmark]) -> JointLandmarks:
    """The landmarks of all `benchmarks`. Sets share the facial parts in which all landmarks have the same names: two
    noses of as many points are the same, but jaw_5 of 17 points and jaw_5 of 33 points are different places.

    Raises:
        ValueError: if two sets share a landmark with different flip partners.
    """
    joint = JointLandmarks()
    for benchmark in benchmarks:
        _add(joint, benchmark)
    return joint


def _add(joint: JointLandmarks, benchmark: Benchmark):
    names, pairs = list(benchmark.landmark_names), [list(pair) for pair in benchmark.flip_pairs]
    shared_places = {}
    for topology in joint.topologies.values():
        common = common_landmarks(topology.landmark_names, names)
        shared_places |= {new: topology.landmarks[old] for new, old in common.items()}
    new = [index for index in range(len(names)) if index not in shared_places]
    places = shared_places | {index: place for place, index in enumerate(new, len(joint.names))}
    landmarks = [places[index] for index in range(len(names))]
    partners = [places[other] for other in flip_order(pairs, len(names))]
    for index in shared_places:
        former = joint.partners[places[index]]
        if former != partners[index]:
            there, here = joint.names[former], names[landmarks.index(partners[index])]
            raise ValueError(
                f"--dataset must be sets with the same flip partners, but {names[index]} of {benchmark.name} has "
                f"{here} as its partner, and in a set before it {there}"
            )
    joint.names += [f"{benchmark.name}:{names[index]}" if joint.topologies else names[index] for index in new]
    joint.partners += [partners[index] for index in new]
    if all(topology.landmark_names != names for topology in joint.topologies.values()):
        joint.topologies[benchmark.name] = Topology(landmarks, names, pairs, benchmark.default_normalizer)


def topology_of(config, benchmark: Benchmark) -> str | None:
    """The name of the topology of an `MTLDConfig` that has a set's landmarks; None for a network of one set.

    Raises:
        ValueError: if the network does not predict the set's landmarks.
    """
    names = list(benchmark.landmark_names)
    for name in config.topologies or (None,):
        landmark_names = find_topology(config, name).landmark_names
        if landmark_names == names or (landmark_names is None and config.num_landmarks == len(names)):
            return name
    raise ValueError(
        f"--model_name_or_path must predict the {len(names)} landmarks of {benchmark.name}, but it predicts others"
    )


def has_landmarks(config, benchmarks: Sequence[Benchmark]) -> bool:
    """Whether a network with this configuration predicts the landmarks of all `benchmarks`. A network without landmark
    names fits only one set of landmarks."""
    sets = {benchmark.landmark_names for benchmark in benchmarks}
    try:
        for benchmark in benchmarks:
            topology_of(config, benchmark)
    except ValueError:
        return False
    return len(sets) == 1 or config.topologies is not None


def names_of_set(config, benchmark: Benchmark) -> dict[str, str]:
    """The arguments `topology` and `dataset` of a network's call for this set, without those that it does not have."""
    names = {"topology": topology_of(config, benchmark)}
    names["dataset"] = benchmark.name if benchmark.name in (config.datasets or ()) else None
    return {key: name for key, name in names.items() if name is not None}


def common_places(old_config, joint: JointLandmarks) -> dict[int, int]:
    """Maps the index in `joint` to the index in a network with `old_config`, for landmarks of both; see
    `common_landmarks`."""
    places = {}
    for new in joint.topologies.values():
        for name in old_config.topologies or (None,):
            old = find_topology(old_config, name)
            old_places = range(old_config.num_landmarks) if old.landmarks is None else old.landmarks
            for index, former in common_landmarks(old.landmark_names or [], new.landmark_names).items():
                places.setdefault(new.landmarks[index], old_places[former])
    return places


def common_landmarks(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Maps the index in `new` to the index in `old`, for landmarks of facial parts with the same names in both."""
    old, old_parts, new_parts = list(old), _parts(old), _parts(new)
    return {
        index: old.index(name)
        for index, name in enumerate(new)
        if old_parts.get(_part(name)) == new_parts[_part(name)]
    }


def _part(name: str) -> str:
    return re.sub(r"_?\d+$", "", name)


def _parts(names: Sequence[str]) -> dict[str, set[str]]:
    return {part: {name for name in names if _part(name) == part} for part in map(_part, names)}
