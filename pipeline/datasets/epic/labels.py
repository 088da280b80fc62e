"""EPIC-KITCHENS' three ways to label a segment: its verb, its noun, or both as an action."""

from egoctl.pipeline.datasets.epic.annotations import EpicAnnotations

LABELS = ("verb", "noun", "action")


def class_labels(
    annotations: EpicAnnotations, label: str
) -> tuple[tuple[str, ...], dict[str, int | None]]:
    """Class names, and every segment's label by narration_id; None: it has none.

    Verbs and nouns keep the official numbers, so that they fit a teacher's logits. Actions are the
    pairs that occur in the annotations, numbered in the order of (verb, noun).
    """
    segments = annotations.segments
    verbs, nouns = annotations.verb_names, annotations.noun_names
    if label == "verb":
        return verbs, {segment.narration_id: segment.verb_class for segment in segments}
    if label == "noun":
        return nouns, {segment.narration_id: segment.noun_class for segment in segments}
    pair_of = {
        segment.narration_id: (segment.verb_class, segment.noun_class)
        for segment in segments
        if segment.verb_class is not None and segment.noun_class is not None
    }
    pairs = sorted(set(pair_of.values()))
    names = tuple(f"{verbs[verb]} {nouns[noun]}" for verb, noun in pairs)
    number_of = {pair: number for number, pair in enumerate(pairs)}
    labels: dict[str, int | None] = dict.fromkeys(segment.narration_id for segment in segments)
    return names, labels | {name: number_of[pair] for name, pair in pair_of.items()}
