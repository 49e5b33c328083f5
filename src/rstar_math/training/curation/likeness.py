"""How far apart two texts are."""


def edit_distance(one: str, other: str) -> int:
    """Fewest characters to insert, delete or replace to make one text the other.

    Bit-parallel (Myers, J. ACM 46, 1999, in Hyyro's form): one long addition a character.
    """
    if not one or not other:
        return len(one) + len(other)
    at: dict[str, int] = {}
    for place, char in enumerate(one):
        at[char] = at.get(char, 0) | 1 << place
    full = (1 << len(one)) - 1
    last = 1 << (len(one) - 1)
    up, down, distance = full, 0, len(one)
    for char in other:
        match = at.get(char, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right_up = down | ~(diagonal | up) & full
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up = (right_up << 1 | 1) & full
        right_down = right_down << 1 & full
        up = right_down | ~(diagonal | right_up) & full
        down = right_up & diagonal
    return distance
