"""The landmarks of one network for several data sets: which of them the sets share, and where each set's are."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from dataset_scripts.benchmark import Benchmark
from modeling_mtld.configuration_mtld import Topology, find_topology, flip_order


@dataclass
class JointLandmarks:
    """All landmarks of a network, and the topologies that are made of them.

    Attributes:
        names: of the network's landmarks. Those of the first set are plain, those that another set adds have its name
            before theirs.
        partners: for each landmark the one that takes its place in a mirrored face; itself where it has none.
        topologies: by the name of the first set that has them.
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
    """The landmarks of all `benchmarks`. Sets share the parts of the face in which all landmarks have the same names:
    a nose with as many points is the same nose, while jaw_5 of 17 and of 33 points is not the same place.

    Raises:
        ValueError: if two sets share a landmark, but pair it with another one in a mirrored face.
    """
    joint = JointLandmarks()
    for benchmark in benchmarks:
        _add(joint, benchmark)
    return joint


def _add(joint: JointLandmarks, benchmark: Benchmark):
    names, pairs = list(benchmark.landmark_names), [list(pair) for pair in benchmark.flip_pairs]
    known = {}
    for topology in joint.topologies.values():
        shared = common_landmarks(topology.landmark_names, names)
        known |= {new: topology.landmarks[old] for new, old in shared.items()}
    new = [index for index in range(len(names)) if index not in known]
    places = known | {index: place for place, index in enumerate(new, len(joint.names))}
    landmarks = [places[index] for index in range(len(names))]
    partners = [places[other] for other in flip_order(pairs, len(names))]
    for index in known:
        former = joint.partners[places[index]]
        if former != partners[index]:
            there, here = joint.names[former], names[landmarks.index(partners[index])]
            raise ValueError(
                f"--dataset must be sets in which a landmark means the same, but {names[index]} of {benchmark.name} "
                f"changes places with {here} in a mirrored face, and in a set before it with {there}"
            )
    joint.names += [f"{benchmark.name}:{names[index]}" if joint.topologies else names[index] for index in new]
    joint.partners += [partners[index] for index in new]
    if all(topology.landmark_names != names for topology in joint.topologies.values()):
        joint.topologies[benchmark.name] = Topology(landmarks, names, pairs, benchmark.default_normalizer)


def topology_of(config, benchmark: Benchmark) -> str | None:
    """The name of the topology of an `MTLDConfig` that a set's landmarks are; None where they are all of it.

    Raises:
        ValueError: if the network does not predict them.
    """
    names = list(benchmark.landmark_names)
    for name in config.topologies or (None,):
        found = find_topology(config, name).landmark_names
        if found == names or (found is None and config.num_landmarks == len(names)):
            return name
    raise ValueError(
        f"--model_name_or_path must predict the {len(names)} landmarks of {benchmark.name}, but it predicts others"
    )


def has_landmarks(config, benchmarks: Sequence[Benchmark]) -> bool:
    """Whether a network with this configuration predicts those of all `benchmarks`. One without names fits a single
    set of landmarks."""
    sets = {benchmark.landmark_names for benchmark in benchmarks}
    try:
        for benchmark in benchmarks:
            topology_of(config, benchmark)
    except ValueError:
        return False
    return len(sets) == 1 or config.topologies is not None


def names_of_set(config, benchmark: Benchmark) -> dict[str, str]:
    """The arguments `topology` and `dataset` with which a network predicts for this set, as far as it has them."""
    names = {"topology": topology_of(config, benchmark)}
    names["dataset"] = benchmark.name if benchmark.name in (config.datasets or ()) else None
    return {key: name for key, name in names.items() if name is not None}


def common_places(old_config, joint: JointLandmarks) -> dict[int, int]:
    """Place in `joint` to place in a network with `old_config` of the landmarks that both have; see
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
    """Index in `new` to index in `old` of the landmarks of the parts whose names are all the same in both."""
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
