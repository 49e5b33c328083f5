"""Units of measure at the end of an answer; by policy they are no part of it."""

import re

_SINGLE = "m s g h L l N J W"
_SHORT = (
    "mm cm dm km nm mi ft in yd kg mg lb lbs oz min hr hrs sec ms ml mL cL dL kL kW MW kJ kN "
    "Pa kPa Hz kHz MHz mph kph rpm eV mol kmol psi cc sq pt qt gal rad deg cal kcal ac ha bps "
    "kB MB GB TB mV kV mA kWh USD EUR GBP CAD AUD RMB dollars cents"
)
_LONG = (
    "meters? metres? centimet(?:er|re)s? millimet(?:er|re)s? kilomet(?:er|re)s? inch(?:es)? "
    "foot feet yards? miles? grams? kilograms? milligrams? pounds? ounces? tons? tonnes? "
    "lit(?:er|re)s? millilit(?:er|re)s? gallons? quarts? pints? cups? seconds? minutes? "
    "hours? days? weeks? months? years? degrees? radians? dollars? cents? bucks euros? "
    "percent units? square cubic squared cubed per people person points? newtons? joules? "
    "watts? volts? amps? mol moles? acres? hectares? knots?"
)
_WORD = f"(?:{'|'.join(_SHORT.split())}|{'|'.join(_LONG.split())})"
_POWER = r"(?:\s*\^\s*\{?-?[1-4]\}?)?"
_ANY = rf"(?:{_WORD}|[{''.join(_SINGLE.split())}])(?![A-Za-z]){_POWER}"
_TAIL = re.compile(
    rf"(?:(?<=[\d)}}°%.])(?:\s*{_WORD}(?![A-Za-z]){_POWER}|\s+{_ANY})"
    rf"|(?<=[A-Za-z])\s+{_WORD}(?![A-Za-z]){_POWER})"
    rf"(?:\s*(?:/|\\cdot|\*|-|per\b|a\b|an\b)?\s*{_ANY})*\s*$"
)


def strip_unit(text: str) -> str:
    """The text without a known unit at its end, if what stands before is more than the unit."""
    match = _TAIL.search(text)
    if not match or match.start() == 0 or not re.search(r"\d", text[: match.start()]):
        return text
    return text[: match.start()].strip()
