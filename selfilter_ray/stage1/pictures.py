"""What the image processor made of pictures, kept for the next time, up to some memory."""

from __future__ import annotations

from collections.abc import Callable

from selfilter_ray.stage1.families.contract import Picture

PER_TOKEN = 40  # bytes that an id takes in a list, roughly


class KeptPictures:
    """By their names. When it is full it keeps what it has, and the others are made each time.

    Models with the same image processor may share one.

    Args:
        bytes: how much to keep at most; 0 keeps nothing.
    """

    def __init__(self, bytes: int = 0) -> None:
        self.room = bytes
        self._kept: dict[str, Picture] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: str, make: Callable[[], Picture]) -> Picture:
        """The picture of that name, made when it is not there."""
        found = self._kept.get(name)
        if found is None:
            found = make()
            size = _size(found)
            if size <= self.room:
                self._kept[name], self.room = found, self.room - size
        return found


def _size(picture: Picture) -> int:
    tensors = sum(value.numel() * value.element_size() for value in picture.tensors.values())
    return tensors + PER_TOKEN * len(picture.tokens)
