"""The Korean font of figures and pages: Nanum Gothic (SIL Open Font License), carried by koreanize-matplotlib."""

import base64
import io
from importlib.util import find_spec
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

from helpers.course.errors import InputError

FONT = "NanumGothic"
HANGUL_RANGE = "U+1100-11FF, U+3130-318F, U+AC00-D7A3"


def korean_fonts() -> list[Path]:
    """The font files. (The package is not imported: that fails on Python 3.12, where distutils is gone.)"""
    spec = find_spec("koreanize_matplotlib")
    fonts = sorted(Path(spec.origin).parent.glob("fonts/*.ttf")) if spec and spec.origin else []
    if not fonts:
        raise InputError("no font with Korean glyphs was found", hint="pip install koreanize-matplotlib")
    return fonts


def font_face(text: str) -> str:
    """A CSS ``@font-face`` named ``Course Korean`` that carries just the Korean letters of ``text``; "" without any.

    A page with it shows Korean on a machine that has no Korean font at all.
    """
    letters = "".join(sorted({letter for letter in text if _korean(letter)}))
    if not letters:
        return ""
    font = TTFont(next(path for path in korean_fonts() if path.stem == FONT))
    options = subset.Options(layout_features=[], hinting=False)
    options.drop_tables += [f"TSI{number}" for number in (0, 1, 2, 3, 5)]  # the sources of its hinting program
    cutter = subset.Subsetter(options)
    cutter.populate(text=letters)
    cutter.subset(font)
    font.flavor = "woff"
    packed = io.BytesIO()
    font.save(packed)
    data = base64.b64encode(packed.getvalue()).decode()
    source = f"url(data:font/woff;base64,{data}) format('woff')"
    return f"@font-face {{ font-family: 'Course Korean'; unicode-range: {HANGUL_RANGE}; src: {source}; }}\n"


def _korean(letter: str) -> bool:
    return "\u1100" <= letter <= "\u11ff" or "\u3130" <= letter <= "\u318f" or "가" <= letter <= "힣"
