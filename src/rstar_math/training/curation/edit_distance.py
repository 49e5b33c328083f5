"""The edit distance of two texts."""


def edit_distance(first: str, second: str) -> int:
    """Minimum number of characters to insert, delete or replace to turn one text into the other.

    Bit-parallel algorithm: Myers, J. ACM 46, 1999, in Hyyro's form. It takes one addition of a
    long integer per character.
    """
    if not first or not second:
        return len(first) + len(second)
    positions: dict[str, int] = {}
    for index, char in enumerate(first):
        positions[char] = positions.get(char, 0) | 1 << index
    full = (1 << len(first)) - 1
    last = 1 << (len(first) - 1)
    up, down, distance = full, 0, len(first)
    for char in second:
        match = positions.get(char, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right_up = down | ~(diagonal | up) & full
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = (right_up << 1 | 1) & full
        right_down = right_down << 1 & full
        up = right_down | ~(diagonal | right_up) & full
        down = right_up & diagonal
    return distance
